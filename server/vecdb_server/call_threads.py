"""A thread pool with one thread per call, started on demand.

A call has a thread from its headers on, and mostly waits: for a message, for a worker, for the
disk. So there may be many threads; idle ones end after a while. grpcio submits calls from its
single serving thread, where ``submit`` must neither raise nor block: if no thread can be started,
the call is queued for an existing one.
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
        count: maximum of threads.
        kept: threads that are kept when idle.
        on_short: called on grpcio's thread if a call has to wait for a thread.
    """

    def __init__(self, count: int, kept: int, on_short: Callable[[], object]) -> None:
        self._count, self._kept, self._on_short = count, kept, on_short
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._spare = 0  # Free threads minus queued calls.
        self._shut = False

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self._threads

    def submit(
        self, fn: Callable[..., Result], /, *args: object, **kwargs: object
    ) -> Future[Result]:
        """Run a function in a thread; the future gets its result or its exception."""
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
        """End the threads as they become free. Never wait for them."""
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
            # Otherwise these locals would keep the call alive until the next one.
            del job, future, fn, args, kwargs
            with self._lock:
                self._spare += 1
