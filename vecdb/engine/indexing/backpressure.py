"""Delay writers while the indexer is behind, which bounds the rows that each search must scan.

The backlog is the size in bytes of the rows that are in no graph. Above a limit each upsert is
delayed, in proportion to the excess, by at most one second. So writers slow down to the rate of
the indexer and are never blocked. Without indexing progress for ``NO_PROGRESS_S`` a delay has no
use, and writers run at full speed.
"""

from __future__ import annotations

import threading
import time
from typing import Final

__all__ = ["Backpressure"]

DELAY_S_MAX: Final = 1.0
"""Longest delay of an upsert, in seconds."""

NO_PROGRESS_S: Final = 30.0
"""Seconds without indexing progress after which the indexer counts as stalled."""


class Backpressure:
    """The delay of one collection's writers. Thread-safe.

    Args:
        backlog_bytes_max: backlog up to which there is no delay; at twice this size it is one
            second.
    """

    def __init__(self, backlog_bytes_max: int) -> None:
        self._max = backlog_bytes_max
        self._lock = threading.Lock()
        self._backlog_bytes = 0
        self._indexed_rows = 0
        self._progress_at = time.monotonic()

    def note(self, backlog_bytes: int, indexed_rows: int) -> None:
        """Record the state after a commit: bytes of rows in no graph, and rows in graphs."""
        with self._lock:
            if indexed_rows != self._indexed_rows or self._backlog_bytes <= self._max:
                self._progress_at = time.monotonic()
            self._backlog_bytes, self._indexed_rows = backlog_bytes, indexed_rows

    def progress(self) -> None:
        """Record that the indexer has made progress with a graph."""
        self._progress_at = time.monotonic()

    @property
    def backlog_bytes(self) -> int:
        """Return the backlog in bytes, as of the last commit of this process."""
        return self._backlog_bytes

    @property
    def is_stalled(self) -> bool:
        """Return whether there is a backlog above the limit and no indexing progress."""
        behind = self._backlog_bytes > self._max
        return behind and time.monotonic() - self._progress_at > NO_PROGRESS_S

    @property
    def delay_s(self) -> float:
        """Return the delay of the next upsert, in seconds."""
        over = self._backlog_bytes / self._max - 1
        return 0.0 if over <= 0 or self.is_stalled else min(DELAY_S_MAX, over)
