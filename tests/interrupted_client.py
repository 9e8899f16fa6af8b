"""A process whose main thread is interrupted in the middle of a client's calls, again and again.

``python -m tests.interrupted_client ADDRESS KIND ROUNDS FOLDER``: each round interrupts calls of
one kind at a random time, then uses the same client and closes it. Where that waits without end,
the process says where all threads are, and ends with status 1.
"""

from __future__ import annotations

import faulthandler
import random
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vecdb_client import Client

__all__ = ["DIM", "KINDS", "ROWS"]

ROWS, DIM = 5_000, 8
KINDS = ("upsert_many", "search", "scroll", "count", "export")
_VECTORS = np.random.default_rng(8).normal(size=(ROWS, DIM)).astype(np.float32)
_LATEST_S = 0.02
_AGAIN_S = 3.0
"""Python drops what is raised in a ``__del__``; who sees nothing happen presses Ctrl-C again."""
_ROUND_S_MAX = 20.0


def _call(docs: Any, kind: str, folder: Path) -> None:
    """Calls that would go on for longer than the interrupt lets them."""
    while True:
        if kind == "upsert_many":
            docs.upsert_many(range(ROWS), _VECTORS, batch_rows=50)
        elif kind == "search":
            docs.search(_VECTORS[0])
        elif kind == "scroll":
            for _ in docs.scroll(100):
                pass
        elif kind == "count":
            docs.count()
        else:
            docs.export_faiss(folder / "docs.faiss", overwrite=True)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _round(address: str, kind: str, folder: Path) -> None:
    client = Client(address, timeout_s=None)
    docs = client.collection("docs")
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, _LATEST_S), _AGAIN_S)
        _call(docs, kind, folder)
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
    progress = docs.upsert_many(range(200), _VECTORS[:200], batch_rows=50)
    assert progress.rows == 200
    for query in range(3):  # The first goes by a call, the others by a stream.
        assert docs.search(_VECTORS[query]).ids[0] == str(query)
    client.close()


def main() -> None:
    address, kind, rounds, folder = sys.argv[1:]
    signal.signal(signal.SIGALRM, _interrupt)
    for _ in range(int(rounds)):
        faulthandler.dump_traceback_later(_ROUND_S_MAX, exit=True)
        _round(address, kind, Path(folder))
    print(f"{rounds} rounds")
    faulthandler.dump_traceback_later(_ROUND_S_MAX, exit=True)  # The process must end, too.


if __name__ == "__main__":
    main()
