"""A reader-writer lock between threads, which prefers writers and can give up waiting.

Shared mode is taken at each transaction, so it costs a plain lock twice. Exclusive mode is rare
(reopening, growing the map) and may have to wait for a transaction that never ends: so it polls and
calls a function that may raise.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["ReaderWriterLock"]

_POLL_S: Final = 0.1


class ReaderWriterLock:
    """Held by many threads in shared mode, or by one in exclusive mode. Not reentrant.

    A thread that waits for exclusive mode blocks new shared holders, so that it cannot starve.
    """

    def __init__(self) -> None:
        # The condition shares this lock. Acquiring the lock directly, where no thread is notified,
        # costs half as much as acquiring it through the condition.
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._shared_count = 0
        self._exclusive = False

    def acquire_shared(self) -> None:
        """Acquire in shared mode; block while a thread holds or awaits exclusive mode."""
        with self._lock:
            while self._exclusive:
                self._condition.wait()
            self._shared_count += 1

    def release_shared(self) -> None:
        """Release one acquisition in shared mode, by any thread."""
        with self._lock:
            self._shared_count -= 1
            if self._exclusive and self._shared_count == 0:
                self._condition.notify_all()

    @contextlib.contextmanager
    def exclusive(self, check: Callable[[], None]) -> Iterator[None]:
        """Hold in exclusive mode; wait until no other thread holds it in either mode.

        A thread that holds it in shared mode must not call this: it would wait for itself.

        Args:
            check: called every 0.1 s while waiting; an exception from it ends the wait.
        """
        with self._condition:
            while self._exclusive:
                self._condition.wait(_POLL_S)
                if self._exclusive:
                    check()
            self._exclusive = True
        try:
            with self._condition:
                while self._shared_count:
                    self._condition.wait(_POLL_S)
                    if self._shared_count:
                        check()
            yield
        finally:
            with self._condition:
                self._exclusive = False
                self._condition.notify_all()
