"""Where kernels run: one semaphore of as many permits as cores, each with its own scratch memory.

Work is cut into slices of at most about 20 ms, so that a deadline or a cancellation is noticed soon
and many callers share the cores fairly.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vecdb.engine.compiled import load_kernels
from vecdb.engine.deadline import Deadline
from vecdb.errors import FailedPreconditionError

__all__ = ["KernelPool"]

_SLICE_S = 0.010


class KernelPool:
    """Permits to run kernels: as many as cores, each with scratch memory. One for a process's
    database."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._scratch: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(threads):
            self._scratch.put(None)
        self._executor = ThreadPoolExecutor(threads, "vecdb-kernel") if threads > 1 else None

    def call(self, work: Callable[[Any, int, int], None], first: int, last: int) -> None:
        """Run one slice with a permit; it gets the scratch memory."""
        scratch = self._scratch.get()
        try:
            if scratch is None:
                scratch = load_kernels().Scratch()
            work(scratch, first, last)
        finally:
            self._scratch.put(scratch)

    def run(
        self,
        count: int,
        slice_at_first: int,
        deadline: Deadline,
        work: Callable[[Any, int, int], None],
    ) -> None:
        """Run ``work(scratch, first, last)`` over [0, count) in slices, on several threads if
        it pays."""
        if count == 1:
            deadline.check()
            self.call(work, 0, 1)
            return
        workers = min(self.threads, -(-count // slice_at_first))
        if workers <= 1 or self._executor is None:
            self._drain(_Slices(count, slice_at_first, 1), deadline, work)
            return
        slices = _Slices(count, slice_at_first, workers)
        try:
            helpers = [
                self._executor.submit(self._drain, slices, deadline, work)
                for _ in range(workers - 1)
            ]
        except RuntimeError:
            raise FailedPreconditionError("the database is closed", "CLOSED") from None
        try:
            self._drain(slices, deadline, work)
        finally:
            slices.stop()
            errors = [helper.exception() for helper in helpers if not helper.cancel()]
        for error in errors:
            if error is not None:
                raise error

    def _drain(
        self, slices: _Slices, deadline: Deadline, work: Callable[[Any, int, int], None]
    ) -> None:
        while (taken := slices.take()) is not None:
            deadline.check()
            first, last = taken
            began = time.perf_counter()
            self.call(work, first, last)
            slices.report(last - first, time.perf_counter() - began)

    def close(self) -> None:
        """End the threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


class _Slices:
    """Hands out pieces of [0, count), sized so that each takes about ``_SLICE_S``."""

    def __init__(self, count: int, size: int, workers: int) -> None:
        self._lock = threading.Lock()
        self._next, self._count, self._size, self._workers = 0, count, size, workers

    def take(self) -> tuple[int, int] | None:
        with self._lock:
            if self._next >= self._count:
                return None
            # Towards the end the pieces get smaller, so that the threads finish together.
            fair = (self._count - self._next) // (2 * self._workers)
            first = self._next
            self._next = min(self._count, first + max(1, min(self._size, fair)))
            return first, self._next

    def report(self, done: int, took_s: float) -> None:
        wanted = int(done * _SLICE_S / max(took_s, 1e-6))
        with self._lock:
            self._size = max(1, min(wanted, 2 * self._size, 256))

    def stop(self) -> None:
        with self._lock:
            self._next = self._count
