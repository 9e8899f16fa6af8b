"""The writer: one thread a process that commits batches, many at a time.

Callers check and encode their batches, put them into the queue and wait. The thread takes all that
wait for one collection, applies each in one transaction, and answers all after the one fsync. A
batch that is refused (a condition, a request id used twice) has changed nothing, and the others go
on. If the group fails it was aborted, and each batch runs alone, so that one bad batch takes no
other with it.

Callers wait on a future, so an interrupted caller (Ctrl-C in a notebook) leaves the writer whole.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from vecdb.engine.batch import DeleteBatch, UpsertBatch
from vecdb.engine.call_memory import out_of_memory
from vecdb.engine.store import Store
from vecdb.errors import (
    ConditionFailedError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    VecdbError,
)
from vecdb.types import Receipt

__all__ = ["Writer"]

_log = logging.getLogger("vecdb.engine")

GROUP_BYTES_MAX = 8 * 1024**2
"""A group ends once it holds this much: a transaction stays well under a second."""


@dataclass(frozen=True)
class _Job:
    store: Store
    batch: UpsertBatch | DeleteBatch
    nbytes: int
    after_commit: Callable[[], None]
    answer: Future[Receipt]


class Writer:
    """The queue and its thread, started with the first batch.

    Args:
        queue_bytes_max: batches waiting beyond this are refused.
    """

    def __init__(self, queue_bytes_max: int) -> None:
        self._queue_bytes_max = queue_bytes_max
        self._jobs: deque[_Job] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(
        self, store: Store, batch: UpsertBatch | DeleteBatch, after_commit: Callable[[], None]
    ) -> Future[Receipt]:
        """Queue a checked batch; the future gives its receipt once it is on disk.

        Args:
            after_commit: called in the writer's thread after each commit that held the batch; must
                return at once.

        Raises:
            ResourceExhaustedError: the queue is full. Nothing was written.
        """
        job = _Job(store, batch, batch.nbytes, after_commit, Future())
        with self._changed:
            if self._closed:
                raise FailedPreconditionError("the database is closed", "CLOSED")
            if self._jobs and self._queued_bytes + job.nbytes > self._queue_bytes_max:
                raise ResourceExhaustedError(
                    f"the write queue holds {self._queued_bytes} bytes, at most "
                    f"{self._queue_bytes_max}; nothing was written, try again",
                    "QUEUE_FULL",
                )
            self._jobs.append(job)
            self._queued_bytes += job.nbytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vecdb-writer", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Write what is queued, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (group := self._take()) is not None:
            try:
                self._write(group)
            except BaseException as error:
                # Nothing may end this thread: all writes of the process wait for it.
                for job in group:
                    if not job.answer.done():
                        job.answer.set_exception(_presentable(error))

    def _take(self) -> list[_Job] | None:
        """The next jobs of one collection, in order; waits for the first."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            store = self._jobs[0].store
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
            return group

    def _write(self, group: list[_Job]) -> None:
        store = group[0].store
        try:
            outcomes = store.environment.transact(
                lambda transaction: [_applied(store, transaction, job.batch) for job in group]
            )
        except OutcomeUnknownError as error:
            for job in group:
                job.answer.set_exception(error)
            return
        except BaseException as error:
            if len(group) == 1:
                group[0].answer.set_exception(_presentable(error))
                return
            for job in group:
                self._write([job])
            return
        for job, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, VecdbError):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)
        try:
            group[-1].after_commit()
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
    failure = InternalError("the batch could not be written, a defect of vecdb", "WRITER")
    failure.__cause__ = error
    return failure
