"""The threads that calls have: one each, started when it is needed.

A call has its thread from its headers on, and most of them wait: for a message, for a worker, for
the disk. So there may be many, and those that nobody needs for a while end. grpcio gives calls to
this executor on its one serving thread, where nothing may fail or wait: a machine that has no
further thread makes the call wait for one of those that are there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

__all__ = ["CallThreads"]

Result = TypeVar("Result")

_IDLE_S: Final = 30.0


class CallThreads(Executor):
    """An executor for ``grpc.server``.

    Args:
        count: threads at most.
        kept: threads that stay.
        on_short: called, on grpcio's thread, when a call has to wait for a thread.
    """

    def __init__(self, count: int, kept: int, on_short: Callable[[], object]) -> None:
        self._count, self._kept, self._on_short = count, kept, on_short
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._spare = 0  # Threads less work: those that will ask for work and find none.
        self._shut = False

    @property
    def threads(self) -> int:
        """How many there are."""
        return self._threads

    def submit(
        self, fn: Callable[..., Result], /, *args: object, **kwargs: object
    ) -> Future[Result]:
        """Have it run; what it returns and raises is the future's."""
        future: Future[Result] = Future()
        with self._lock:
            if self._shut:
                raise RuntimeError("the server has been stopped")
            self._spare -= 1
            wanted = self._spare < 0 and self._threads < self._count
            if wanted:
                self._threads += 1
                self._spare += 1
            short = self._spare < 0
        self._work.put((future, fn, args, kwargs))
        if wanted and not self._started():
            short = True
        if short:
            self._on_short()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads as they become free; they are never waited for."""
        with self._lock:
            self._shut = True
            threads = self._threads
        for _ in range(threads):
            self._work.put(None)

    def _started(self) -> bool:
        try:
            threading.Thread(target=self._run, name="vecdb-call", daemon=True).start()
        except (RuntimeError, MemoryError):
            with self._lock:
                self._threads -= 1
                self._spare -= 1
            return False
        return True

    def _run(self) -> None:
        while True:
            try:
                job = self._work.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._threads > self._kept and self._spare > 0:
                        self._threads -= 1
                        self._spare -= 1
                        return
                continue
            if job is None:
                return
            future, fn, args, kwargs = job
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)
            del job, future, fn, args, kwargs  # Or it would keep the call until the next one.
            with self._lock:
                self._spare += 1
