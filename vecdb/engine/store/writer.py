"""The writer: threads that commit batches, many at a time, one thread a collection at most.

Callers check and encode their batches, put them into the queue and wait. A thread takes all that
wait for one collection, applies each in one transaction, and answers all after the one fsync. A
batch that is refused (a condition, a request id used twice) has changed nothing, and the others go
on. If the group fails it was aborted, and each batch runs alone, so that one bad batch takes no
other with it.

A thread is started when a batch waits for a collection that no thread is at, and ends when it has
had nothing to do for a while. If another process was stopped with a collection's write lock, the
thread at that collection waits for as long as it takes, but callers give up (``write_lock.py``):
their batches leave the queue, nothing of them is written, later either, and others are refused
until the lock is free.

Callers wait on a future, so an interrupted caller (Ctrl-C in a notebook) leaves the writer whole.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from vecdb.engine.kv.write_lock import POLL_S, Reservation, start_thread
from vecdb.engine.store.batch import DeleteBatch, UpsertBatch
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import out_of_memory
from vecdb.errors import (
    ConditionFailedError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb.types import Receipt

__all__ = ["Writer"]

_log = logging.getLogger("vecdb.engine")

GROUP_BYTES_MAX = 8 * 1024**2
"""A group ends once it holds this much: a transaction stays well under a second."""

THREADS_MAX = 64
"""Collections that may be written at once: so many less one may be stuck, and others go on."""

_IDLE_S = 10.0


class _Answer(Future[Receipt]):
    """The answer to a batch. Who waits for it gives the batch up if its store is stuck."""

    def __init__(self, store: Store, give_up: Callable[[_Answer], None]) -> None:
        super().__init__()
        self.store = store
        self.reserve = Reservation()
        self._give_up = give_up

    def result(self, timeout: float | None = None) -> Receipt:
        """As of any future."""
        return super().result(self._settle(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of any future."""
        return super().exception(self._settle(timeout))

    def _settle(self, timeout: float | None) -> float | None:
        """Wait; returns how much of the time is left."""
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            try:
                super().exception(POLL_S if left is None else min(left, POLL_S))
                return left
            except FutureTimeoutError:  # Before Python 3.11 not the built-in one.
                if left == 0.0:
                    return left
            if self.store.environment.lock.is_stuck():
                self._give_up(self)


@dataclass(frozen=True, eq=False)
class _Job:
    store: Store
    batch: UpsertBatch | DeleteBatch
    nbytes: int
    after_commit: Callable[[], None]
    answer: _Answer

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless its caller has given it up."""
        if self.answer.reserve.take("writer") and not self.answer.done():
            self.answer.set_exception(error)


class Writer:
    """The queue and its threads, started as batches come.

    Args:
        queue_bytes_max: batches waiting beyond this are refused.
    """

    def __init__(self, queue_bytes_max: int) -> None:
        self._queue_bytes_max = queue_bytes_max
        self._jobs: deque[_Job] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._at: dict[Store, list[_Job]] = {}  # What threads are writing.
        self._threads = self._idle = 0
        self._closed = False

    def submit(
        self, store: Store, batch: UpsertBatch | DeleteBatch, after_commit: Callable[[], None]
    ) -> Future[Receipt]:
        """Queue a checked batch; the future gives its receipt once it is on disk.

        Args:
            after_commit: called in a thread of the writer after each commit that held the batch;
                must return at once.

        Raises:
            ResourceExhaustedError: the queue is full. Nothing was written.
            UnavailableError: STORE_LOCKED. Nothing was written.
        """
        store.environment.lock.check()
        job = _Job(store, batch, batch.nbytes, after_commit, _Answer(store, self._give_up))
        with self._changed:
            if self._closed:
                raise FailedPreconditionError("the database is closed", Reason.CLOSED)
            if self._jobs and self._queued_bytes + job.nbytes > self._queue_bytes_max:
                raise ResourceExhaustedError(
                    f"the write queue holds {self._queued_bytes} bytes, at most "
                    f"{self._queue_bytes_max}; nothing was written, try again",
                    Reason.QUEUE_FULL,
                )
            self._jobs.append(job)
            self._queued_bytes += job.nbytes
            try:
                if store not in self._at:
                    self._staff()
            except ResourceExhaustedError:
                self._jobs.pop()
                self._queued_bytes -= job.nbytes
                raise
        return job.answer

    def close(self) -> None:
        """Write what is queued, then end the threads. What is queued for a store that is stuck is
        given up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._jobs or self._at:
                self._changed.wait(POLL_S)
                stuck = {store for store in self._at if store.environment.lock.is_stuck()}
                for job in [*self._jobs, *(job for group in self._at.values() for job in group)]:
                    if job.store in stuck:
                        self._give_up(job.answer)
                if not self._jobs and len(stuck) == len(self._at):
                    return

    def _give_up(self, answer: _Answer) -> None:
        """Refuse a batch that was not begun: nothing of it will be written."""
        if not answer.reserve.take("caller"):
            return
        with self._changed:
            for job in [job for job in self._jobs if job.answer is answer]:
                self._jobs.remove(job)
                self._queued_bytes -= job.nbytes
            if not answer.done():
                answer.set_exception(answer.store.environment.lock.error())

    def _staff(self) -> None:
        """See to it that a thread comes for each collection with jobs. The lock is held."""
        wanted = len({job.store for job in self._jobs} - self._at.keys())
        if wanted and self._idle:
            self._changed.notify_all()
        # Those that are at no collection are idle, or come to a job by themselves.
        while wanted > self._threads - len(self._at) and self._threads < THREADS_MAX:
            start_thread(self._run, "vecdb-writer")
            self._threads += 1

    def _run(self) -> None:
        while (group := self._take()) is not None:
            try:
                self._write(group)
            except BaseException as error:
                # Nothing may end this thread with its collection: all writes there wait for it.
                for job in group:
                    job.fail(_presentable(error))
            with self._changed:
                del self._at[group[0].store]
                if self._closed:
                    self._changed.notify_all()

    def _take(self) -> list[_Job] | None:
        """The next jobs of one collection, in order; waits for the first. None: end the thread."""
        with self._changed:
            while (store := self._next_store()) is None:
                if self._closed:
                    self._threads -= 1
                    return None
                self._idle += 1
                woken = self._changed.wait(_IDLE_S)
                self._idle -= 1
                if not woken and self._next_store() is None:
                    self._threads -= 1
                    return None
            group: list[_Job] = []
            others: deque[_Job] = deque()
            size = 0
            while self._jobs and size < GROUP_BYTES_MAX:
                job = self._jobs.popleft()
                if job.store is store:
                    group.append(job)
                    size += job.nbytes
                else:
                    others.append(job)
            self._jobs = others + self._jobs if others else self._jobs
            self._queued_bytes -= size
            self._at[store] = group
            with contextlib.suppress(ResourceExhaustedError):  # Then this thread comes to them.
                self._staff()
            return group

    def _next_store(self) -> Store | None:
        """The collection of the first job that no thread is at."""
        return next((job.store for job in self._jobs if job.store not in self._at), None)

    def _write(self, group: list[_Job]) -> None:
        store = group[0].store
        claimed: list[_Job] = []

        def apply(transaction: Any) -> list[Receipt | VecdbError]:
            nonlocal claimed
            # With the lock held: until then callers may give their batches up.
            claimed = [job for job in group if job.answer.reserve.take("writer")]
            return [_applied(store, transaction, job.batch) for job in claimed]

        try:
            outcomes = store.environment.transact_here(apply)
        except OutcomeUnknownError as error:
            for job in group:
                job.fail(error)
            return
        except BaseException as error:
            if len(group) == 1:
                group[0].fail(_presentable(error))
                return
            for job in group:
                self._write([job])
            return
        if not claimed:
            return
        for job, outcome in zip(claimed, outcomes, strict=True):
            if isinstance(outcome, VecdbError):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)
        try:
            claimed[-1].after_commit()
        except NotFoundError:
            pass  # The collection was dropped since: there is nothing left to do.
        except Exception as error:
            # The batches are on disk and answered; what failed only asks for sealing.
            _log.warning("after a commit in %s: %s", store.environment.folder, error)


def _applied(
    store: Store, transaction: Any, batch: UpsertBatch | DeleteBatch
) -> Receipt | VecdbError:
    """The receipt of a batch, or why it was refused."""
    try:
        return store.apply(transaction, batch)
    except (ConditionFailedError, FailedPreconditionError) as refusal:
        # Its traceback would keep the transaction's cursors and buffers.
        return refusal.with_traceback(None)


def _presentable(error: BaseException) -> BaseException:
    if isinstance(error, VecdbError):
        return error
    if isinstance(error, MemoryError):
        return out_of_memory(error)
    failure = InternalError("the batch could not be written, a defect of vecdb", Reason.WRITER)
    failure.__cause__ = error
    return failure
