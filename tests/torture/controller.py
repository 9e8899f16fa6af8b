"""Run clients of one folder, kill and stop them, and compare the folder with their logs.

A round starts a server (with its indexer), three writers and three readers on one folder. About
once a second something is killed or stopped, chosen by a seed. Then all processes are ended, and
the folder is compared with the logs of the clients: as it is, and again after optimizing.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing.process
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from tests.model import Model
from tests.serving import ServerProcess, free_port
from tests.torture import clients
from tests.torture.clients import COLLECTION, DIM, METRIC, READERS, WRITERS, Place
from tests.torture.history import History
from tests.torture.syscall_faults import assert_content

__all__ = ["Controller", "torture"]

ROUND_S = 12.0
_EVENT_EVERY_S = (0.3, 2.5)
_STOPPED_S = (0.2, 1.0)
_INDEXER_S = 5.0
"""It starts when the server has some work for it."""

_END_S = 40.0
_OPTIMIZED_S = 60.0


class Controller:
    """All processes of one folder. A context manager that ends all of them.

    Attributes:
        done: counts of each disturbance, and of the outcomes of batches.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.place = Place(folder, seed, f"127.0.0.1:{free_port()}")
        self.done: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._server: ServerProcess | None = None
        self._children: dict[tuple[str, int], multiprocessing.process.BaseProcess] = {}
        self._pids: set[int] = set()
        self._histories = [History(DIM, METRIC) for _ in range(WRITERS)]
        self._next = [0] * WRITERS
        with vecdb.open(self.place.data, indexer=False) as database:
            database.create_collection(COLLECTION, DIM, METRIC, M=8, ef_construction=64)

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *exception: object) -> None:
        for pid in self._pids:
            _signal(pid, signal.SIGCONT)
        for process in self._children.values():
            process.kill()
            process.join(10)
        if self._server is not None:
            self._server.__exit__()

    def round(self, seconds: float) -> None:
        """Work, disturb, end, compare.

        Raises:
            AssertionError: the folder differs from the logs.
        """
        self._start_all()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            time.sleep(self._rng.uniform(*_EVENT_EVERY_S))
            event = self._rng.choice(
                [
                    *(self._kill_server, self._kill_server_and_indexer, self._kill_indexer),
                    *(self._kill_writer, self._kill_reader, self._kill_all),
                    *(self._stop_server, self._stop_indexer, self._stop_writer),
                ]
            )
            event()
            self.done[event.__name__.strip("_")] += 1
            self.raise_defects()
            self._start_all()
        self._end_all()
        self.raise_defects()
        self.compare()
        self.done["rounds"] += 1

    # Starting and ending.

    def _start_all(self) -> None:
        if self._server is None:
            self._server = ServerProcess(
                self.place.data, self.place.address, seal_bytes=clients.SEAL_BYTES
            )
            self._pids.add(self._server.pid)
        for kind, count in (("writer", WRITERS), ("reader", READERS)):
            for number in range(count):
                known = self._children.get((kind, number))
                if known is None or not known.is_alive():
                    self._children[kind, number] = clients.start(self.place, kind, number)

    def _end_all(self) -> None:
        """Some rounds end all processes in order, some kill them."""
        if self._rng.random() < 0.3:
            self._kill_all()
            return
        for process in self._children.values():
            process.terminate()
        ends = time.monotonic() + _END_S
        for name, process in self._children.items():
            process.join(max(0.1, ends - time.monotonic()))
            assert not process.is_alive(), f"{name} does not end"
        self._children.clear()
        assert self._server is not None
        self._server.signal(signal.SIGTERM)
        assert self._server.wait(_END_S) in (0, -signal.SIGTERM)
        self._server.__exit__()
        self._server = None

    def raise_defects(self) -> None:
        """Raise for a defect that one of the processes has noted."""
        for file in self.place.folder.glob("*.log"):
            text = file.read_text()
            assert "defect" not in text, f"{file.name}: {text[text.index('defect') :]}"

    # Killing.

    def _kill_server(self) -> None:
        """The server's indexer notices and ends."""
        if self._server is not None:
            self._server.__exit__()
            self._server = None

    def _kill_server_and_indexer(self) -> None:
        indexers = self._indexers()
        self._kill_server()
        for pid in indexers:
            _signal(pid, signal.SIGKILL)

    def _kill_indexer(self) -> None:
        for pid in self._indexers(wait_s=_INDEXER_S):
            _signal(pid, signal.SIGKILL)
            self.done["indexers killed"] += 1

    def _kill_writer(self) -> None:
        self._kill(("writer", self._rng.randrange(WRITERS)))

    def _kill_reader(self) -> None:
        self._kill(("reader", self._rng.randrange(READERS)))

    def _kill(self, name: tuple[str, int]) -> None:
        process = self._children.pop(name)
        process.kill()
        process.join(_END_S)
        assert process.exitcode is not None

    def _kill_all(self) -> None:
        """Kill the whole group, as nearly at once as possible."""
        pids = [p.pid for p in self._children.values() if p.pid is not None] + self._indexers()
        if self._server is not None:
            pids.append(self._server.pid)
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        for name in list(self._children):
            self._kill(name)
        self._kill_server()

    # Stopping for a while.

    def _stop_server(self) -> None:
        if self._server is not None:
            self._stop(self._server.pid)

    def _stop_indexer(self) -> None:
        for pid in self._indexers(wait_s=_INDEXER_S):
            self._stop(pid)
            self.done["indexers stopped"] += 1

    def _stop_writer(self) -> None:
        pid = self._children["writer", self._rng.randrange(WRITERS)].pid
        assert pid is not None
        self._stop(pid)

    def _stop(self, pid: int) -> None:
        """Stop any process, whatever it holds: embedded readers continue.

        One of them has the folder open by then. Opening a store briefly takes LMDB's write lock,
        and so waits for a process that is stopped in a commit.
        """
        self._wait_for_a_read("no reader reads before a process is stopped")
        _signal(pid, signal.SIGSTOP)
        try:
            time.sleep(self._rng.uniform(*_STOPPED_S))
            self._wait_for_a_read("no reader reads while a process is stopped")
        finally:
            _signal(pid, signal.SIGCONT)

    def _wait_for_a_read(self, otherwise: str) -> None:
        before = self._reads()
        ends = time.monotonic() + _END_S
        while self._reads() == before:
            assert time.monotonic() < ends, otherwise
            self.raise_defects()
            time.sleep(0.01)

    def _reads(self) -> int:
        return sum(self.place.file(f"reader-{n}").stat().st_size for n in (0, 1) if
                   self.place.file(f"reader-{n}").exists())  # fmt: skip

    def _indexers(self, *, wait_s: float = 0.0) -> list[int]:
        """Return children of the server, which may still have to start."""
        if self._server is None:
            return []
        ends = time.monotonic() + wait_s
        while not (found := list(_children_of(self._server.pid))) and time.monotonic() < ends:
            time.sleep(0.02)
        self._pids.update(found)
        return found

    # Comparing.

    def compare(self) -> None:
        """No process runs: compare the folder with the logs, before and after optimizing."""
        for writer, history in enumerate(self._histories):
            self._next[writer] = clients.history_of(self.place, writer, history, self._next[writer])
        self._count_outcomes()
        with vecdb.open(self.place.data, seal_bytes=clients.SEAL_BYTES) as database:
            docs = database.collection(COLLECTION)
            self._compare_with(docs)
            docs.optimize(timeout_s=_OPTIMIZED_S)
            self._compare_with(docs)
        assert_content(self.place.data)

    def _compare_with(self, docs: Any) -> None:
        """Compare each writer's rows and the seq with its log, and search all rows exactly."""
        model = Model(DIM, METRIC)
        for history in self._histories:
            model.rows |= history.settle(docs).model.rows
        seqs = {
            sum(chosen)
            for chosen in itertools.product(
                *([each.seq for each in history.possible] for history in self._histories)
            )
        }
        assert docs.count() == len(model.rows)
        rng = np.random.default_rng(max(seqs))
        for query in rng.normal(size=(5, DIM)).astype(np.float32):
            for k in (10, len(model.rows) + 1):
                hits = docs.search(query, k=k, exact=True)
                assert hits.info.seq in seqs, f"seq {hits.info.seq}, expected one of {seqs}"
                model.check_hits(hits, query, k, exact=True)
            model.check_hits(docs.search(query, k=10), query, 10, exact=False)

    def _count_outcomes(self) -> None:
        for word in ("ack", "refused", "unknown"):
            self.done[word] = 0
        for writer in range(WRITERS):
            for words in clients.lines_of(self.place.file(f"writer-{writer}")):
                if words[0] in ("ack", "refused", "unknown"):
                    self.done[words[0]] += 1


def torture(folder: Path, seed: int, seconds: float) -> Counter[str]:
    """Run rounds for a number of seconds, at least one; return what was done.

    Raises:
        AssertionError: an acknowledged write is lost, or another defect was found.
    """
    ends = time.monotonic() + seconds
    with Controller(folder, seed) as controller:
        while True:
            controller.round(min(ROUND_S, seconds))
            if time.monotonic() + ROUND_S > ends:
                return controller.done


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _children_of(pid: int) -> Iterator[int]:
    """Return the processes whose parent this is."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(entry.name)
