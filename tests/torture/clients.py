"""Writers and readers of one folder, embedded and remote, each with a log of what it did.

A log is a file beside the data folder: a line before an operation begins, and one when its
outcome is known. That needs no fsync, as killing a process loses nothing that it wrote to a file.

    begin 7 · ack 7 42 (the seq) · refused 7 UNAVAILABLE · unknown 7      a writer's nth batch
    read 1200                                                             number of reads so far
    defect …                                                              a mistake was detected

Every writer owns its ids, and its nth batch is determined by seed, writer and n: so its file gives
the expected content. A row's metadata has its batch number, so that a reader can compute the
expected vector of each hit.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from tests.torture.history import Batch, History

__all__ = ["COLLECTION", "DIM", "METRIC", "SEAL_BYTES", "Place", "batch_of", "history_of", "start"]

COLLECTION, DIM, METRIC = "docs", 16, "euclidean"
WRITERS, READERS = 3, 3
SEAL_BYTES = 32 * 1024
"""Small, so that segments come and go all the time."""

_MAP_BYTES = 1024**2
"""Small, so that embedded processes outgrow it, and follow the growth of others."""

_BATCH_ROWS, _IDS = 40, 400
_DELETES_EVERY = 4
_PAUSE_S = 0.004
_CALL_S = 20.0


@dataclass(frozen=True)
class Place:
    """The paths of a run. ``folder``: contains the data folder and the files of the processes."""

    folder: Path
    seed: int
    address: str

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def marks_of(writer: int) -> list[str]:
    """Return two ids that are in each upsert of a writer: they always agree."""
    return [f"w{writer}-first", f"w{writer}-last"]


def batch_of(seed: int, writer: int, number: int) -> Batch:
    """Return a writer's nth batch: an upsert, partly of existing ids, or sometimes a delete."""
    rng = np.random.default_rng([seed, writer, number])
    chosen = rng.choice(_IDS, _BATCH_ROWS, replace=False)
    names = [f"w{writer}-{i}" for i in chosen.tolist()]
    if number % _DELETES_EVERY == _DELETES_EVERY - 1:
        return Batch(names)
    first, last = marks_of(writer)
    names = [first, *names, last]
    vectors = rng.normal(size=(len(names), DIM)).astype(np.float32)
    return Batch(names, vectors, [{"w": writer, "n": number}] * len(names))


def history_of(place: Place, writer: int, history: History, first: int) -> int:
    """Add the batches of a writer's file, from its ``first`` one on; return the next number.

    Raises:
        AssertionError: its seqs do not increase.
    """
    number, is_open, last_seq = first, False, 0
    for words in lines_of(place.file(f"writer-{writer}")):
        if words[0] == "defect" or int(words[1]) < first:
            continue
        if words[0] == "begin":
            if is_open:  # It was killed, and another process continued.
                history.unknown(batch_of(place.seed, writer, number))
            number, is_open = int(words[1]), True
            continue
        is_open = False
        batch = batch_of(place.seed, writer, number)
        if words[0] == "ack":
            history.acknowledged(batch)
            assert int(words[2]) > last_seq, f"seq {words[2]} after {last_seq}"
            last_seq = int(words[2])
        elif words[0] == "unknown":
            history.unknown(batch)
    if is_open:
        history.unknown(batch_of(place.seed, writer, number))
    return max(first, number + 1)


def lines_of(file: Path) -> Iterator[list[str]]:
    """Return the complete lines of a file, split into words."""
    if file.exists():
        yield from (line.split() for line in file.read_text().split("\n")[:-1] if line)


class _Log:
    """The file of one process, and whether the process was asked to end."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def say(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


@contextmanager
def _collection(place: Place, *, embedded: bool) -> Iterator[Any]:
    if embedded:
        with vecdb.open(
            place.data, indexer=False, seal_bytes=SEAL_BYTES, map_bytes=_MAP_BYTES
        ) as database:
            yield database.collection(COLLECTION)
    else:
        with vecdb.connect(place.address, timeout_s=_CALL_S) as client:
            yield client.collection(COLLECTION)


def _write(place: Place, writer: int, log: _Log) -> None:
    begun = [int(w[1]) for w in lines_of(place.file(f"writer-{writer}")) if w[0] == "begin"]
    number = max(begun, default=-1) + 1
    with _collection(place, embedded=writer == 0) as collection:
        while not log.stopping:
            log.say("begin", number)
            try:
                receipt = batch_of(place.seed, writer, number).send(collection)
                log.say("ack", number, receipt.seq)
            except (vecdb.OutcomeUnknownError, vecdb.DeadlineExceededError):
                log.say("unknown", number)
            except (vecdb.UnavailableError, vecdb.ResourceExhaustedError) as error:
                if writer == 0:
                    raise  # Embedded: killing other processes must not make its writes fail.
                log.say("refused", number, error.reason)
                time.sleep(10 * _PAUSE_S)
            number += 1
            time.sleep(_PAUSE_S)


class _Reader:
    """What one reader has seen, which must never be undone."""

    def __init__(self, place: Place, collection: Any) -> None:
        self._place, self._collection = place, collection
        self._seq = 0
        self._marks = [-1] * WRITERS
        self._newest: dict[str, int] = {}

    def look(self, rng: np.random.Generator) -> None:
        """Do one search and one get."""
        query = rng.normal(size=DIM).astype(np.float32)
        exact = bool(rng.integers(2))
        hits = self._collection.search(query, k=10, exact=exact)
        assert hits.info.seq >= self._seq, f"seq {hits.info.seq} after {self._seq}"
        self._seq = hits.info.seq
        assert (np.diff(hits.distances) >= 0).all() and len(set(hits.ids)) == len(hits.ids)
        for name, distance, metadata in zip(hits.ids, hits.distances, hits.metadata, strict=True):
            batch = batch_of(self._place.seed, metadata["w"], metadata["n"])
            assert batch.vectors is not None
            true = np.linalg.norm(batch.vectors[batch.ids.index(name)] - query)
            assert abs(true - distance) < 1e-3, (name, metadata, true, distance)
            newest = self._newest.get(name, -1)
            assert metadata["n"] >= newest, f"{name} is of batch {metadata['n']} after {newest}"
            self._newest[name] = metadata["n"]
        self._compare_marks(int(rng.integers(WRITERS)))

    def _compare_marks(self, writer: int) -> None:
        acknowledged = self._acknowledged(writer)
        found = self._collection.get(marks_of(writer))
        numbers = {metadata["n"] for metadata in found.metadata}
        assert len(found.ids) in (0, 2) and len(numbers) <= 1, f"half of a batch: {numbers}"
        number = max(numbers, default=-1)
        assert number >= acknowledged, f"batch {acknowledged} of {writer} is lost, there: {number}"
        assert number >= self._marks[writer], f"batch {number} after {self._marks[writer]}"
        self._marks[writer] = number

    def _acknowledged(self, writer: int) -> int:
        """Return the last upsert that a writer has noted as acknowledged."""
        file = self._place.file(f"writer-{writer}")
        if not file.exists():
            return -1
        with open(file, "rb") as opened:
            opened.seek(max(0, file.stat().st_size - 400))
            lines = [line.split() for line in opened.read().split(b"\n")[1:-1]]
        numbers = [int(w[1]) for w in lines if len(w) == 3 and w[0] == b"ack"]
        return max((n for n in numbers if n % _DELETES_EVERY != _DELETES_EVERY - 1), default=-1)


def _read(place: Place, number: int, log: _Log) -> None:
    rng = np.random.default_rng([place.seed, number, os.getpid()])
    embedded = number < 2
    looks = 0
    with _collection(place, embedded=embedded) as collection:
        reader = _Reader(place, collection)
        while not log.stopping:
            try:
                reader.look(rng)
            except (vecdb.UnavailableError, vecdb.DeadlineExceededError):
                if embedded:
                    raise  # Killing other processes must not make its reads fail.
                time.sleep(10 * _PAUSE_S)
                continue
            looks += 1
            log.say("read", looks)
            time.sleep(_PAUSE_S)


def _until_served(work: Callable[[], None], log: _Log) -> None:
    """Retry a client's first call, which may find no server."""
    while not log.stopping:
        try:
            return work()
        except vecdb.UnavailableError:
            time.sleep(0.1)


def _child(place: Place, kind: str, number: int) -> None:
    warnings.simplefilter("error")
    log = _Log(place.file(f"{kind}-{number}"))
    work = _write if kind == "writer" else _read
    try:
        _until_served(lambda: work(place, number, log), log)
    except BaseException:
        log.say("defect", repr(traceback.format_exc()))
        sys.exit(1)


def start(place: Place, kind: str, number: int) -> multiprocessing.process.BaseProcess:
    """Start a writer or a reader as a process. SIGTERM lets it finish its current operation."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.torture.workload"])
    process = context.Process(target=_child, args=(place, kind, number), daemon=True)
    process.start()
    return process
