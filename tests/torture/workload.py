"""A fixed sequence of work in one process: a dozen commits, a create, seals, a build, a merge and a
drop. It says over a socket what it begins and how that ended, checks by itself after each step that
it can read what it was told, and goes on after errors.

Messages are lines of JSON, {"event", "step", …}; events are ``ready`` (with ``thread``), ``begin``,
``acknowledged`` (with ``seq`` for batches), ``refused`` (with ``code``), ``unknown``, ``defect``
(with ``why``) and ``done``. They are sent with sendto, which no cut touches.

The process that runs it is forked from one that has imported everything, so that all that strace
sees is the work. Errors in what a caller asks for must be of vecdb's tree and pass within
``PATIENCE_S``; maintenance may fail as it likes, and must succeed when it is tried again.
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
import numpy.testing  # It is loaded late otherwise, in the middle of the work.

import vecdb
from tests.model import index_now, seal_now
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
)
STEPS: tuple[tuple[str, int], ...] = (
    *(("create", 0), ("batch", 0), ("batch", 1), ("seal", 0)),
    *(("batch", 2), ("batch", 3), ("seal", 1), ("index", 0)),
    *(("batch", 4), ("batch", 5), ("batch", 6), ("seal", 2), ("index", 1)),
    *(("batch", 7), ("create_other", 0), ("fill_other", 0), ("drop_other", 0)),
    *(("batch", 8), ("batch", 9), ("seal", 3), ("index", 2), ("batch", 10)),
)
"""What is done, in this order; the number tells those of a kind apart."""

FIRST_STEPS = 2


class _Patience:
    """How long a step is tried again: counted from its first error, since a step may be slow."""

    def __init__(self) -> None:
        self._ends: float | None = None

    def is_over(self) -> bool:
        """To be asked after each error."""
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
        """Make the collection and write a batch; returns the number of the writer's thread."""
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
                self._until_it_works(step, work, maintenance=kind in ("seal", "index"))

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

    def _seal(self) -> None:
        seal_now(self._docs())

    def _index(self) -> None:
        index_now(self._docs())

    def _until_it_works(
        self, step: int, work: Callable[[], None], *, maintenance: bool = False
    ) -> None:
        """Do it again after an error, for a while."""
        expected = (vecdb.VecdbError, OSError) if maintenance else (vecdb.VecdbError,)
        patience = _Patience()
        while True:
            self.say("begin", step)
            try:
                work()
                break
            except (vecdb.AlreadyExistsError, vecdb.NotFoundError):
                # Done by an earlier try whose end was not seen: the catalogue must say so too.
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
        """Until it is there: refused batches are sent again, unknown ones are looked for."""
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
        """What was acknowledged can be read at once; reading may be unavailable for a moment."""
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
    """How a run differs from the usual one.

    Attributes:
        plant: a defect of planted.py. failpoints: what they do; see failpoints.py.
        looks: it reads what it wrote.
        writer: it says that it is ready only when the writer's thread has committed a batch, and
            with that thread's number.
        hands_over: what may wait for a lock runs in threads of its own, as always but here; without
            it in the calling thread, which is the one that strace follows.
    """

    plant: str | None = None
    failpoints: str = ""
    looks: bool = True
    writer: bool = False
    hands_over: bool = False


class _Here(BlockingCall[Any]):
    """An errand in the calling thread."""

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
    """Wait for the word to begin, work, and tell how it ended."""
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
    """A process that says "ready" and waits for a word before it goes on. ``channel``: its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_child, args=(channel, str(folder), manner), daemon=True)
    process.start()
    return process


def replay(messages: list[dict[str, Any]]) -> History:
    """The history of "docs" that the messages of a run tell."""
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


# The process that is forked for each run has all of this in memory.
load_kernels()
assert Database is not None
