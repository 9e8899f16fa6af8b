"""Group commit: threads that commit batches, at most one thread per collection.

Callers validate and encode their batches, queue them and wait. A thread takes all batches queued
for one collection, applies them in one transaction, and completes their futures after one fsync. A
batch that is refused (a failed condition, a reused request id) changes nothing, and the rest of the
group continues. If the transaction fails, it is aborted and each batch is retried in a transaction
of its own, so that one failing batch does not fail the others.

A thread is started when a batch is queued for a collection that no thread is writing, and ends
after ``_IDLE_S`` without work. If another process is stopped while it holds a collection's write
lock, the thread of that collection waits without limit, but the callers time out
(``write_lock.py``): their batches are removed from the queue and will never be written, and new
batches are refused until the lock is free.

Callers wait on a future, so a KeyboardInterrupt in a caller does not affect the writer threads.
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

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.kv.write_lock import POLL_S, Reservation, start_thread
from vecdb.engine.store.batch import Batch
from vecdb.engine.store.filtered_rows import OvertakenError
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import out_of_memory
from vecdb.errors import (
    ConditionFailedError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
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
"""A group ends once it holds this much, which keeps a transaction well under a second."""

THREADS_MAX = 64
"""Most collections written at a time: while fewer are stuck, the others can still be written."""

_IDLE_S = 10.0
"""Seconds without work after which a thread ends."""


class _Answer(Future[Receipt]):
    """The future of a batch's receipt. While a caller waits for it, the wait also checks whether
    the store's write lock is stuck, and then gives the batch up."""

    def __init__(self, store: Store, give_up: Callable[[_Answer], None]) -> None:
        super().__init__()
        self.store = store
        self.reserve = Reservation()
        self._give_up = give_up

    def result(self, timeout: float | None = None) -> Receipt:
        """See ``concurrent.futures.Future``."""
        return super().result(self._settle(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See ``concurrent.futures.Future``."""
        return super().exception(self._settle(timeout))

    def _settle(self, timeout: float | None) -> float | None:
        """Wait until the future is done or the timeout ends; return the seconds left."""
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
    batch: Batch
    nbytes: int
    after_commit: Callable[[], None]
    answer: _Answer

    def fail(self, error: BaseException) -> None:
        """Complete the future with an error, unless the caller has given the batch up."""
        if self.answer.reserve.take("writer") and not self.answer.done():
            self.answer.set_exception(error)


class Writer:
    """The queue of batches and its threads. Thread-safe.

    Args:
        queue_bytes_max: most bytes of queued batches; beyond them batches are refused.
    """

    def __init__(self, queue_bytes_max: int) -> None:
        self._queue_bytes_max = queue_bytes_max
        self._jobs: deque[_Job] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._at: dict[Store, list[_Job]] = {}  # The group that a thread is writing, per store.
        self._threads = self._idle = 0
        self._closed = False

    @property
    def queued_bytes(self) -> int:
        """Size of the batches that wait to be written."""
        return self._queued_bytes

    def submit(
        self, store: Store, batch: Batch, after_commit: Callable[[], None]
    ) -> Future[Receipt]:
        """Queue a validated batch; the future returns its receipt once it is on disk.

        Args:
            after_commit: called in a writer thread after a commit, once per group with the
                function of the group's last batch; must not block.

        Raises:
            ResourceExhaustedError: QUEUE_FULL; or no thread can be started. Nothing was written.
            UnavailableError: STORE_LOCKED: the write lock is stuck. Nothing was written.
            FailedPreconditionError: CLOSED.
        """
        store.environment.lock.check()
        job = _Job(store, batch, batch.nbytes, after_commit, _Answer(store, self._give_up))
        with self._changed:
            if self._closed:
                raise FailedPreconditionError("the database is closed", Reason.CLOSED)
            if self._jobs and self._queued_bytes + job.nbytes > self._queue_bytes_max:
                raise ResourceExhaustedError(
                    f"the write queue is full: it holds {self._queued_bytes} bytes (limit "
                    f"{self._queue_bytes_max}); nothing was written, retry later",
                    Reason.QUEUE_FULL,
                )
            self._jobs.append(job)
            self._queued_bytes += job.nbytes
            try:
                if store not in self._at:
                    self._ensure_threads()
            except ResourceExhaustedError:
                self._jobs.pop()
                self._queued_bytes -= job.nbytes
                raise
        return job.answer

    def close(self) -> None:
        """Write all queued batches, then end the threads.

        Batches of a store whose write lock is stuck are given up instead.
        """
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
        """Fail a batch that no thread has begun to apply; it will never be written."""
        if not answer.reserve.take("caller"):
            return
        with self._changed:
            for job in [job for job in self._jobs if job.answer is answer]:
                self._jobs.remove(job)
                self._queued_bytes -= job.nbytes
            if not answer.done():
                answer.set_exception(answer.store.environment.lock.error())

    def _ensure_threads(self) -> None:
        """Wake or start a thread for each collection with jobs. The caller holds the lock."""
        wanted = len({job.store for job in self._jobs} - self._at.keys())
        if wanted and self._idle:
            self._changed.notify_all()
        # Threads that are writing no collection are idle or about to take a job.
        while wanted > self._threads - len(self._at) and self._threads < THREADS_MAX:
            start_thread(self._run, "vecdb-writer")
            self._threads += 1

    def _run(self) -> None:
        while (group := self._take()) is not None:
            try:
                self._write(group)
            except BaseException as error:
                # The thread must go on: until it leaves its collection, no other one writes there.
                for job in group:
                    job.fail(_as_vecdb_error(error))
            with self._changed:
                del self._at[group[0].store]
                if self._closed:
                    self._changed.notify_all()

    def _take(self) -> list[_Job] | None:
        """Wait for jobs of one collection; return them in order, or None to end the thread."""
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
            with contextlib.suppress(ResourceExhaustedError):  # This thread takes them later.
                self._ensure_threads()
            return group

    def _next_store(self) -> Store | None:
        """Return the store of the first job whose collection no thread is writing."""
        return next((job.store for job in self._jobs if job.store not in self._at), None)

    def _write(self, group: list[_Job]) -> None:
        store = group[0].store
        taken: list[_Job] = []

        def apply(transaction: Transaction) -> list[Receipt | VecdbError]:
            nonlocal taken
            # Only now, with the write lock held: until here callers may give their batches up.
            taken = [job for job in group if job.answer.reserve.take("writer")]
            return [_applied(store, transaction, job.batch) for job in taken]

        try:
            outcomes = store.environment.transact_here(apply)
        except OutcomeUnknownError as error:
            for job in group:
                job.fail(error)
            return
        except BaseException as error:
            if len(group) == 1:
                group[0].fail(_as_vecdb_error(error))
                return
            for job in group:
                self._write([job])
            return
        if not taken:
            return
        for job, outcome in zip(taken, outcomes, strict=True):
            if isinstance(outcome, VecdbError):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)
        try:
            taken[-1].after_commit()
        except NotFoundError:
            pass  # The collection was dropped since; there is nothing to flush.
        except Exception as error:
            # The batches are on disk and their callers answered; only a flush was not requested.
            _log.warning("could not request a flush of %s: %s", store.environment.folder, error)


_REFUSALS = (
    ConditionFailedError,
    FailedPreconditionError,
    InvalidArgumentError,
    OvertakenError,
)


def _applied(store: Store, transaction: Transaction, batch: Batch) -> Receipt | VecdbError:
    """Apply a batch; return its receipt, or the error that refuses it."""
    try:
        return store.apply(transaction, batch)
    except _REFUSALS as refusal:
        # The traceback would keep the transaction's cursors and buffers alive.
        return refusal.with_traceback(None)


def _as_vecdb_error(error: BaseException) -> BaseException:
    if isinstance(error, VecdbError):
        return error
    if isinstance(error, MemoryError):
        return out_of_memory(error)
    failure = InternalError(
        f"the batch could not be written: unexpected {type(error).__name__}, a defect of vecdb",
        Reason.WRITER,
    )
    failure.__cause__ = error
    return failure
