"""Permits to run kernels: as many as cores, each with its own scratch memory.

Work is divided into slices of at most about 20 ms. Each slice takes one permit, so that many
callers share the cores fairly. Between slices, and while a thread waits for a permit, it checks its
deadline, so that a deadline or a cancellation takes effect soon. No thread holds a permit while it
waits for another.

A released permit goes to the first thread that asks. This keeps the cores busy if slices are short.
But a running thread that releases a permit and asks for the next is always faster than a waiting
thread that must first wake up, so running work yields to waiting threads between slices.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import CancelledError, FailedPreconditionError
from vecdb.reasons import Reason

if TYPE_CHECKING:
    from vecdb.engine.kernels.compiled import Scratch

    Work: TypeAlias = Callable[[Scratch, int, int], None]

__all__ = ["KernelPool"]

_SLICE_S = 0.010

_PIECE_MAX = 256
"""Maximum of queries in a piece of work."""

_DEADLINE_POLL_S = 0.020
"""Interval at which a thread that waits for a permit checks its deadline."""

_YIELD_S_MAX = 0.005
"""Maximum time that work waits between two slices until a waiting thread has a permit."""

_WAKING_S = 0.000_1
"""Approximate time that a thread takes to wake up."""


class KernelPool:
    """Permits to run kernels: as many as cores, each with scratch memory. One per open database.
    Thread-safe."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._free: queue.SimpleQueue[Scratch | None] = queue.SimpleQueue()
        for _ in range(threads):
            self._free.put(None)  # Scratch memory is allocated on first use.
        self._lock = threading.Lock()
        self._waiting = self._served = 0
        self._executor = ThreadPoolExecutor(threads, "vecdb-kernel") if threads > 1 else None

    def call(self, deadline: Deadline, work: Work, first: int, last: int) -> None:
        """Run one slice, ``work(scratch, first, last)``, with one permit.

        Raises:
            DeadlineExceededError, CancelledError: before the slice begins.
        """
        scratch = self.acquire(deadline)
        try:
            work(scratch, first, last)
        finally:
            self.release(scratch)

    def acquire(self, deadline: Deadline) -> Scratch:
        """Return a permit, which is its scratch memory, to ``release`` after a slice of work.

        Raises:
            DeadlineExceededError, CancelledError: before there is one.
        """
        deadline.check()
        try:
            scratch = self._free.get_nowait()
        except queue.Empty:
            scratch = self._wait_for_permit(deadline)
        if scratch is not None:
            return scratch
        try:
            new: Scratch = load_kernels().Scratch()
        except BaseException:
            self._free.put(None)
            raise
        return new

    def release(self, scratch: Scratch) -> None:
        """Give a permit back."""
        self._free.put(scratch)

    def _wait_for_permit(self, deadline: Deadline) -> Scratch | None:
        with self._lock:
            self._waiting += 1
        served = 0
        try:
            while True:
                try:
                    scratch = self._free.get(timeout=_DEADLINE_POLL_S)
                except queue.Empty:
                    deadline.check()
                else:
                    served = 1
                    return scratch
        finally:
            with self._lock:
                self._waiting -= 1
                self._served += served

    def yield_to_waiters(self) -> None:
        """Wait briefly until a waiting thread has a permit. Call it between two slices, without a
        permit."""
        if not self._waiting:
            return
        served, ends = self._served, time.perf_counter() + _YIELD_S_MAX
        while self._waiting and self._served == served and time.perf_counter() < ends:
            time.sleep(_WAKING_S)

    def run(
        self,
        count: int,
        slice_at_first: int,
        deadline: Deadline,
        work: Work,
    ) -> None:
        """Run ``work(scratch, first, last)`` over [0, count) in slices, on several threads if it
        pays. The size of a slice follows from the duration of earlier ones.

        Raises:
            DeadlineExceededError, CancelledError: between two slices.
            FailedPreconditionError: CLOSED.
        """
        if count == 1:
            self.call(deadline, work, 0, 1)
            return
        pieces = _Pieces(count, slice_at_first, self.threads)

        def measured(scratch: Scratch, first: int, last: int) -> None:
            began = time.perf_counter()
            work(scratch, first, last)
            pieces.report(last - first, time.perf_counter() - began)

        def slice_of(until: Deadline, first: int, last: int) -> None:
            self.call(until, measured, first, last)
            self.yield_to_waiters()

        self._spread(pieces, deadline, slice_of)

    def share(
        self, count: int, piece: int, deadline: Deadline, work: Callable[[Deadline, int, int], None]
    ) -> None:
        """Run ``work(deadline, first, last)`` over [0, count) in pieces, on several threads if it
        pays. ``work`` runs without a permit: it must run each of its slices by ``call`` with that
        deadline, and call ``yield_to_waiters`` after each.

        Raises:
            FailedPreconditionError: CLOSED.
        """
        self._spread(_Pieces(count, piece, self.threads), deadline, work)

    def _spread(
        self, pieces: _Pieces, deadline: Deadline, work: Callable[[Deadline, int, int], None]
    ) -> None:
        if pieces.workers <= 1 or self._executor is None:
            pieces.drain(deadline, work)
            return
        # An error in one thread ends the work of the others at their next check.
        until = deadline.also(pieces.check)
        try:
            helpers = [
                self._executor.submit(pieces.drain, until, work) for _ in range(pieces.workers - 1)
            ]
        except RuntimeError:
            raise FailedPreconditionError("the database is closed", Reason.CLOSED) from None
        try:
            pieces.drain(until, work)
        except BaseException:
            pieces.stop()
            raise
        finally:
            errors = [helper.exception() for helper in helpers if not helper.cancel()]
        for error in errors:
            if error is not None:
                raise error

    def close(self) -> None:
        """Stop the threads; wait until they have ended."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


class _Pieces:
    """Distributes pieces of [0, count) so that all threads finish at about the same time."""

    def __init__(self, count: int, size: int, threads: int) -> None:
        self.workers = min(threads, -(-count // size))
        self._lock = threading.Lock()
        self._next, self._count, self._size, self._stopped = 0, count, size, False

    def drain(self, deadline: Deadline, work: Callable[[Deadline, int, int], None]) -> None:
        """Process pieces until none is left."""
        while (taken := self._take()) is not None:
            work(deadline, *taken)

    def _take(self) -> tuple[int, int] | None:
        with self._lock:
            if self._stopped or self._next >= self._count:
                return None
            # Pieces get smaller towards the end, so that no thread is left with a long one.
            fair = (self._count - self._next) // (2 * self.workers if self.workers > 1 else 1)
            first = self._next
            self._next = min(self._count, first + max(1, min(self._size, fair)))
            return first, self._next

    def report(self, done: int, took_s: float) -> None:
        """Set the size of the next pieces so that each takes about ``_SLICE_S``."""
        wanted = int(done * _SLICE_S / max(took_s, 1e-6))
        with self._lock:
            self._size = max(1, min(wanted, 2 * self._size, _PIECE_MAX))

    def stop(self) -> None:
        """End the work of all threads."""
        self._stopped = True

    def check(self) -> None:
        """Raise CancelledError if the work was stopped. Callers get the error that stopped it."""
        if self._stopped:
            raise CancelledError("another thread of this search has failed")
