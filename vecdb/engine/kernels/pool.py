"""Where kernels run: as many permits as cores, each with its own scratch memory.

Work is cut into slices of at most about 20 ms, so that a deadline or a cancellation is noticed soon
and many callers share the cores fairly: each slice takes a permit of its own, nobody holds one
while waiting for another, and who waits asks the deadline meanwhile. A permit that comes back is
for whoever asks first, which keeps the cores busy where slices are short; but a thread that gives
one back and asks for the next is always faster than one that must wake up, so between two slices
work gives way to who waits.
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
"""Queries of a piece of work, at most."""

_ASK_AGAIN_S = 0.020
"""How often those who wait for a permit ask their deadline."""

_GIVE_WAY_S = 0.005
"""How long work waits at most, between two slices, until somebody who waited has a permit."""

_WAKING_S = 0.000_1
"""About what a thread takes to wake up."""


class KernelPool:
    """Permits to run kernels: as many as cores, each with scratch memory. One for a process's
    database."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._free: queue.SimpleQueue[Scratch | None] = queue.SimpleQueue()
        for _ in range(threads):
            self._free.put(None)  # Scratch memory is made when it is needed.
        self._lock = threading.Lock()
        self._waiting = self._served = 0
        self._executor = ThreadPoolExecutor(threads, "vecdb-kernel") if threads > 1 else None

    def call(self, deadline: Deadline, work: Work, first: int, last: int) -> None:
        """Run ``work(scratch, first, last)``, one slice, with a permit of its own.

        Raises:
            DeadlineExceededError, CancelledError: before it begins.
        """
        deadline.check()
        try:
            scratch = self._free.get_nowait()
        except queue.Empty:
            scratch = self._waited_for(deadline)
        try:
            if scratch is None:
                scratch = load_kernels().Scratch()
            work(scratch, first, last)
        finally:
            self._free.put(scratch)

    def _waited_for(self, deadline: Deadline) -> Scratch | None:
        with self._lock:
            self._waiting += 1
        served = 0
        try:
            while True:
                try:
                    scratch = self._free.get(timeout=_ASK_AGAIN_S)
                except queue.Empty:
                    deadline.check()
                else:
                    served = 1
                    return scratch
        finally:
            with self._lock:
                self._waiting -= 1
                self._served += served

    def give_way(self) -> None:
        """To be called between two slices, without a permit: let who waits for one have it."""
        if not self._waiting:
            return
        served, ends = self._served, time.perf_counter() + _GIVE_WAY_S
        while self._waiting and self._served == served and time.perf_counter() < ends:
            time.sleep(_WAKING_S)

    def run(
        self,
        count: int,
        slice_at_first: int,
        deadline: Deadline,
        work: Work,
    ) -> None:
        """Run ``work(scratch, first, last)`` over [0, count) in slices that are sized by what the
        ones before took, on several threads if it pays."""
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
            self.give_way()

        self._spread(pieces, deadline, slice_of)

    def share(
        self, count: int, piece: int, deadline: Deadline, work: Callable[[Deadline, int, int], None]
    ) -> None:
        """Run ``work(deadline, first, last)`` over [0, count) in pieces, on several threads if it
        pays. It holds no permit, does each of its slices by ``call`` with that deadline, and gives
        way after it."""
        self._spread(_Pieces(count, piece, self.threads), deadline, work)

    def _spread(
        self, pieces: _Pieces, deadline: Deadline, work: Callable[[Deadline, int, int], None]
    ) -> None:
        if pieces.workers <= 1 or self._executor is None:
            pieces.drain(deadline, work)
            return
        # One thread's error ends what the others are in the middle of.
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
        """End the threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


class _Pieces:
    """Hands out pieces of [0, count), so that the threads finish together."""

    def __init__(self, count: int, size: int, threads: int) -> None:
        self.workers = min(threads, -(-count // size))
        self._lock = threading.Lock()
        self._next, self._count, self._size, self._stopped = 0, count, size, False

    def drain(self, deadline: Deadline, work: Callable[[Deadline, int, int], None]) -> None:
        """Do the next piece, until there is none."""
        while (taken := self._take()) is not None:
            work(deadline, *taken)

    def _take(self) -> tuple[int, int] | None:
        with self._lock:
            if self._stopped or self._next >= self._count:
                return None
            # Towards the end the pieces get smaller.
            fair = (self._count - self._next) // (2 * self.workers)
            first = self._next
            self._next = min(self._count, first + max(1, min(self._size, fair)))
            return first, self._next

    def report(self, done: int, took_s: float) -> None:
        """Size the next pieces so that each takes about ``_SLICE_S``."""
        wanted = int(done * _SLICE_S / max(took_s, 1e-6))
        with self._lock:
            self._size = max(1, min(wanted, 2 * self._size, _PIECE_MAX))

    def stop(self) -> None:
        """End all threads' work."""
        self._stopped = True

    def check(self) -> None:
        """Raise CancelledError, which nobody gets to see, if the work has been stopped."""
        if self._stopped:
            raise CancelledError("another thread of this search has failed")
