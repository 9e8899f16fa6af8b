"""A process whose main thread is interrupted in the middle of a client's calls, again and again.

``python -m tests.interrupted_client ADDRESS KIND ROUNDS FOLDER SEED``: each round interrupts calls
of one kind at a random time, then uses the same client and closes it. Where that waits without end,
the process says where all threads are, and ends with status 1.
"""

from __future__ import annotations

import contextlib
import faulthandler
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import vecdb
from vecdb_client import Client

__all__ = ["DIM", "KINDS", "ROWS"]

ROWS, DIM = 5_000, 8
KINDS = (
    "upsert_many", "search", "scroll", "scroll and search", "count", "export", "import", "close",
    "search, twice", "upsert_many, twice", "search beside upsert_many",
)  # fmt: skip
_VECTORS = np.random.default_rng(8).normal(size=(ROWS, DIM)).astype(np.float32)
_LATEST_S = 0.02
_TWICE_S = 0.001
_AGAIN_S = 3.0
"""Python drops what is raised in a ``__del__``; who sees nothing happen presses Ctrl-C again."""
_ROUND_S_MAX = 200.0
_BESIDE_TIMEOUT_S = 10.0
_BESIDE_S_MAX = 2.5 * _BESIDE_TIMEOUT_S


def _calls(client: Client, address: str, kind: str, folder: Path) -> Callable[[], object]:
    """What goes on for longer than the interrupt lets it."""
    docs = client.collection("docs")

    def scroll_and_search() -> None:
        rows, interrupt = 0, None
        for page in docs.scroll(100):
            rows += len(page)
            try:
                docs.search(_VECTORS[0])
            except KeyboardInterrupt as error:
                interrupt = error  # The page that is on its way must come all the same.
        assert rows >= ROWS
        if interrupt is not None:
            raise interrupt

    def import_file() -> None:
        # The server may not have heard yet that those before were cancelled.
        with contextlib.suppress(vecdb.ResourceExhaustedError):
            client.import_faiss(folder / "in.faiss", "imported")

    def open_and_close() -> None:
        other = Client(address)
        for _ in range(3):
            other.collection("docs").search(_VECTORS[0])
        other.close()

    return {
        "upsert_many": lambda: docs.upsert_many(range(ROWS), _VECTORS, batch_rows=50),
        "search": lambda: docs.search(_VECTORS[0]),
        "scroll": lambda: list(docs.scroll(100)),
        "scroll and search": scroll_and_search,
        "count": docs.count,
        "export": lambda: docs.export_faiss(folder / "out.faiss", overwrite=True),
        "import": import_file,
        "close": open_and_close,
    }[kind]


class _Interrupts:
    """Raises KeyboardInterrupt once or twice at random times."""

    def __init__(self, twice: bool) -> None:
        self._twice = twice
        self._heard = 0
        signal.signal(signal.SIGALRM, self._hear)

    def around(self, calls: Callable[[], object]) -> None:
        """Call again and again until interrupted."""
        self._heard = 0
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-4, _LATEST_S), _AGAIN_S)
                while True:
                    calls()
            except KeyboardInterrupt:
                if self._twice:
                    time.sleep(2 * _TWICE_S)  # For the second one, if it was not heard yet.
        except KeyboardInterrupt:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _hear(self, number: int, frame: object) -> None:
        self._heard += 1
        if self._twice and self._heard == 1:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, _TWICE_S), _AGAIN_S)
        raise KeyboardInterrupt


class _Beside:
    """A thread that writes through the same client until it should end."""

    def __init__(self, client: Client) -> None:
        self._docs = client.collection("docs")
        self._is_over = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self) -> bool:
        """Whether what it had under way came to an end; raises unexpected errors."""
        self._is_over = True
        self._thread.join(_BESIDE_S_MAX)
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def _run(self) -> None:
        ids = [f"beside {at}" for at in range(200)]
        try:
            while not self._is_over:
                with contextlib.suppress(vecdb.DeadlineExceededError, vecdb.OutcomeUnknownError):
                    self._docs.upsert_many(ids, _VECTORS[:200], batch_rows=20)
        except BaseException as error:
            self._failure = error


def _round(address: str, kind: str, folder: Path) -> bool:
    what, _, how = kind.partition(", ")
    what, _, beside = what.partition(" beside ")
    client = Client(address, timeout_s=_BESIDE_TIMEOUT_S if beside else None)
    writer = _Beside(client) if beside else None
    _Interrupts(how == "twice").around(_calls(client, address, what, folder))
    docs = client.collection("docs")
    progress = docs.upsert_many(range(200), _VECTORS[:200], batch_rows=50)
    assert progress.rows == 200
    for query in range(3):  # The first goes by a call, the others by a stream.
        assert docs.search(_VECTORS[query]).ids[0] in (str(query), f"beside {query}")
    has_ended = writer is None or writer.ended()
    client.close()
    return has_ended


def main() -> None:
    address, kind, rounds, folder, seed = sys.argv[1:]
    random.seed(int(seed))
    ended = 0
    with Client(address) as client:
        client.collection("docs").export_faiss(Path(folder) / "in.faiss")
    for _ in range(int(rounds)):
        faulthandler.dump_traceback_later(_ROUND_S_MAX, exit=True)
        ended += _round(address, kind, Path(folder))
    print(ended)
    faulthandler.dump_traceback_later(_ROUND_S_MAX, exit=True)  # The process must end, too.


if __name__ == "__main__":
    main()
