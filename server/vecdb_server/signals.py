"""The signals of a server that runs as the main program of a process."""

from __future__ import annotations

import os
import queue
import signal
from types import FrameType
from typing import Final

__all__ = ["RELOAD", "Signals"]

RELOAD: Final = "reload"
_STOP: Final = "stop"


class Signals:
    """Lets the main thread wait for SIGHUP, SIGTERM, SIGINT or ``stop``.

    A signal handler interrupts the main thread anywhere, also while that holds the lock of an
    Event; setting the Event would then deadlock. ``SimpleQueue.put`` is reentrant.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._signalled = False
        signal.signal(signal.SIGHUP, lambda number, frame: self._calls.put(RELOAD))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def stop(self) -> None:
        """End the wait."""
        self._calls.put(_STOP)

    def wait(self) -> str:
        """Wait for a signal or ``stop``; return what to do."""
        return self._calls.get()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            # All acknowledged writes are on disk, so it is safe to exit.
            os._exit(1)
        self._signalled = True
        self.stop()
