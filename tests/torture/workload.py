"""A fixed sequence of operations in one process: a dozen commits, a create, flushes, a graph build,
a merge and a drop.

The process reports over a socket what it begins and how it ended, checks after each step that it
can read its acknowledged writes, and continues after errors.

Messages are lines of JSON, {"event", "step", …}; events are ``ready`` (with ``thread``), ``begin``,
``acknowledged`` (with ``seq`` for batches), ``refused`` (with ``code``), ``unknown``, ``defect``
(with ``why``) and ``done``. They are sent with sendto, for which no fault is injected.

The process is forked from one that has imported everything, so that strace only sees the work.
Errors of a caller's operations must be VecdbErrors and pass within ``PATIENCE_S``; maintenance may
fail in any way, and must succeed when it is retried.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import multiprocessing.process
import os
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing  # Otherwise it would be loaded during the work.

import vecdb
from tests.model import flush_now, index_now
from tests.torture import planted
from tests.torture.history import Batch, History
from vecdb.engine.api.database import Database
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kv import write_lock
from vecdb.engine.kv.write_lock import BlockingCall
from vecdb.engine.system import failpoints

__all__ = ["BATCHES", "DIM", "METRIC", "STEPS", "USUAL", "Manner", "replay", "start"]

DIM, METRIC = 8, "euclidean"
PATIENCE_S = 3.0
"""An error that has passed may keep writes away this long."""

_PAUSE_S = 0.01
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, -1
_MAP_BYTES = 64 * 1024**2


def _upsert(seed: int, ids: Iterator[str], *, tag: str | None = "n") -> Batch:
    names = list(ids)
    vectors = np.random.default_rng(seed).normal(size=(len(names), DIM)).astype(np.float32)
    return Batch(names, vectors, None if tag is None else [{tag: seed}] * len(names))


def _names(letter: str, start: int, stop: int) -> Iterator[str]:
    return (f"{letter}{i}" for i in range(start, stop))


BATCHES = (
    _upsert(0, _names("a", 0, 40)),
    _upsert(1, _names("b", 0, 40), tag=None),
    _upsert(2, _names("a", 20, 60)),  # Updates of half of them.
    Batch(list(_names("b", 5, 25))),
    _upsert(0, _names("a", 0, 10), tag="m"),  # Partly the same vectors: metadata alone changes.
    _upsert(5, _names("c", 0, 300)),  # Rows enough for blocks on pages of their own.
    Batch([*_names("a", 30, 50), *_names("c", 10, 30)]),
    _upsert(7, _names("b", 0, 30)),  # Some that were deleted come back.
    _upsert(8, _names("d", 0, 40)),
    Batch(list(_names("d", 0, 10))),
    _upsert(10, _names("e", 0, 40)),
    Batch([], prefix="a", patch={"seen": 1}),  # In segments and in the memtable.
    Batch([], prefix="c1"),
)
STEPS: tuple[tuple[str, int], ...] = (
    *(("create", 0), ("batch", 0), ("batch", 1), ("flush", 0)),
    *(("batch", 2), ("batch", 3), ("flush", 1), ("index", 0)),
    *(("batch", 4), ("batch", 5), ("batch", 6), ("flush", 2), ("index", 1)),
    *(("batch", 7), ("create_other", 0), ("fill_other", 0), ("drop_other", 0)),
    *(("batch", 8), ("batch", 11), ("batch", 9), ("flush", 3), ("index", 2), ("batch", 10)),
    ("batch", 12),
)
"""The steps, in order; the number distinguishes those of a kind."""

FIRST_STEPS = 2


class _Patience:
    """Time limit for retries of a step, counted from its first error, since a step may be slow."""

    def __init__(self) -> None:
        self._ends: float | None = None

    def is_over(self) -> bool:
        """Return whether the limit has passed; call it after each error."""
        now = time.monotonic()
        if self._ends is None:
            self._ends = now + PATIENCE_S
        return now > self._ends


class _Work:
    """One run."""

    def __init__(self, channel: socket.socket, folder: Path, *, looks: bool) -> None:
        self._channel = channel
        self._folder = folder
        self._looks = looks
        self._database: Any = None
        self._history = History(DIM, METRIC)

    def say(self, event: str, step: int, **more: Any) -> None:
        line = json.dumps({"event": event, "step": step, **more}) + "\n"
        self._channel.send(line.encode())

    def begin(self) -> int:
        """Create the collection and write a batch; return the number of the writer's thread."""
        self._until_it_works(-1, self._open)
        self._steps(0, FIRST_STEPS)
        [number] = [t.native_id for t in threading.enumerate() if t.name == "vecdb-writer"]
        assert number is not None
        return number

    def run(self) -> None:
        if self._database is None:
            self._until_it_works(-1, self._open)
            self._steps(0, FIRST_STEPS)
        self._steps(FIRST_STEPS, len(STEPS))
        self._database.close()
        self.say("done", len(STEPS))

    def _steps(self, start: int, stop: int) -> None:
        for step, (kind, number) in list(enumerate(STEPS))[start:stop]:
            if kind == "batch":
                self._write(step, BATCHES[number])
            else:
                work = getattr(self, f"_{kind}")
                self._until_it_works(step, work, maintenance=kind in ("flush", "index"))

    def _open(self) -> None:
        self._database = vecdb.open(self._folder, indexer=False, map_bytes=_MAP_BYTES)

    def _docs(self) -> Any:
        return self._database.collection("docs")

    def _create(self) -> None:
        self._database.create_collection("docs", DIM, METRIC, M=4, ef_construction=32)

    def _create_other(self) -> None:
        self._database.create_collection("other", DIM)

    def _fill_other(self) -> None:
        self._database.collection("other").upsert(["x"], np.ones((1, DIM), np.float32))

    def _drop_other(self) -> None:
        self._database.drop_collection("other")

    def _flush(self) -> None:
        flush_now(self._docs())

    def _index(self) -> None:
        index_now(self._docs())

    def _until_it_works(
        self, step: int, work: Callable[[], None], *, maintenance: bool = False
    ) -> None:
        """Retry an operation after errors, for a while."""
        expected = (vecdb.VecdbError, OSError) if maintenance else (vecdb.VecdbError,)
        patience = _Patience()
        while True:
            self.say("begin", step)
            try:
                work()
                break
            except (vecdb.AlreadyExistsError, vecdb.NotFoundError):
                # An earlier try succeeded without an answer; the catalogue must agree.
                names = [d.name for d in self._database.list_collections()]
                assert {"_create": "docs" in names, "_create_other": "other" in names,
                        "_drop_other": "other" not in names}[work.__name__]  # fmt: skip
                break
            except expected as error:
                self.say("refused", step, code=getattr(error, "code", "OSError"), why=str(error))
                if patience.is_over():
                    raise
                time.sleep(_PAUSE_S)
        self.say("acknowledged", step)

    def _write(self, step: int, batch: Batch) -> None:
        """Write until acknowledged: send refused batches again, look for those with unknown
        outcome.
        """
        patience = _Patience()
        while True:
            self.say("begin", step)
            try:
                receipt = batch.send(self._docs())
                self.say("acknowledged", step, seq=receipt.seq)
                self._history.acknowledged(batch, receipt.seq)
                break
            except vecdb.OutcomeUnknownError:
                self.say("unknown", step)
                self._history.unknown(batch)
                break
            except vecdb.VecdbError as error:
                self.say("refused", step, code=error.code, why=str(error))
                if patience.is_over():
                    raise
                time.sleep(_PAUSE_S)
        if self._looks:
            self._look()

    def _look(self) -> None:
        """Check that acknowledged writes can be read at once; reads may be unavailable for a
        moment.
        """
        patience = _Patience()
        while True:
            try:
                self._history.check(self._docs(), queries=1)
                return
            except vecdb.UnavailableError:
                if patience.is_over():
                    raise
                time.sleep(_PAUSE_S)


@dataclass(frozen=True)
class Manner:
    """Variations of a run.

    Attributes:
        plant: a defect of planted.py. failpoints: failpoints to set; see failpoints.py.
        looks: read acknowledged writes after each step.
        writer: report ``ready`` only after the writer's thread has committed a batch, with the
            number of that thread.
        hands_over: run operations that may wait for a lock in threads, as usual. False runs them in
            the calling thread, which is the one that strace follows.
    """

    plant: str | None = None
    failpoints: str = ""
    looks: bool = True
    writer: bool = False
    hands_over: bool = False


class _Here(BlockingCall[Any]):
    """An errand that runs in the calling thread."""

    def __init__(self, function: Callable[[], Any], name: str) -> None:
        self._function, self._done = function, threading.Event()
        self._result = self._error = None
        self._run()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


USUAL = Manner()


def _child(channel: socket.socket, folder: str, manner: Manner) -> None:
    """Wait for the signal to begin, work, and report the end."""
    warnings.simplefilter("error")
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    if manner.plant is not None:
        planted.plant(manner.plant)
    failpoints.arm(manner.failpoints)
    if not manner.hands_over:
        write_lock.BlockingCall = _Here  # type: ignore[misc]
    work = _Work(channel, Path(folder), looks=manner.looks)
    try:
        work.say("ready", -1, thread=work.begin() if manner.writer else os.getpid())
        channel.recv(16)
        work.run()
    except BaseException:
        work.say("defect", -1, why=traceback.format_exc())
    channel.close()


def start(
    channel: socket.socket, folder: Path, manner: Manner = USUAL
) -> multiprocessing.process.BaseProcess:
    """Start a process that reports "ready" and waits for a signal. ``channel``: its end of the
    socket.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_child, args=(channel, str(folder), manner), daemon=True)
    process.start()
    return process


def replay(messages: list[dict[str, Any]]) -> History:
    """Return the history of "docs" that the messages of a run describe."""
    history = History(DIM, METRIC)
    open_step: int | None = None
    for message in messages:
        step = message["step"]
        if not (0 <= step < len(STEPS) and STEPS[step][0] == "batch"):
            continue
        batch = BATCHES[STEPS[step][1]]
        if message["event"] == "begin":
            open_step = step
            continue
        open_step = None
        if message["event"] == "acknowledged":
            history.acknowledged(batch, message["seq"])
        elif message["event"] == "unknown":
            history.unknown(batch)
    if open_step is not None:
        history.unknown(BATCHES[STEPS[open_step][1]])
    return history


# Imported once here, so that the process that is forked for each run has it in memory.
load_kernels()
assert Database is not None
