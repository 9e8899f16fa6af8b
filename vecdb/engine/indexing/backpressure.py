"""Delays writers while the indexer is behind, so that searches need not scan ever more.

Past a backlog (bytes of rows that are in no graph) each upsert waits, longer the larger the backlog
is, at most a second: writers come down to what the indexer sustains and are never blocked. If
there was no indexing progress for a while, waiting would help nobody, and writers go at full speed.
"""

from __future__ import annotations

import threading
import time
from typing import Final

__all__ = ["Backpressure"]

DELAY_S_MAX: Final = 1.0
NO_PROGRESS_S: Final = 30.0


class Backpressure:
    """The delay of one collection's writers. Safe to use from many threads.

    Args:
        backlog_bytes_max: up to here nobody waits; at twice this much everyone waits a second.
    """

    def __init__(self, backlog_bytes_max: int) -> None:
        self._max = backlog_bytes_max
        self._lock = threading.Lock()
        self._backlog_bytes = 0
        self._indexed_rows = 0
        self._progress_at = time.monotonic()

    def note(self, backlog_bytes: int, indexed_rows: int) -> None:
        """What a commit left: bytes in no graph, rows in graphs."""
        with self._lock:
            if indexed_rows != self._indexed_rows or self._backlog_bytes <= self._max:
                self._progress_at = time.monotonic()
            self._backlog_bytes, self._indexed_rows = backlog_bytes, indexed_rows

    def progress(self) -> None:
        """The indexer is getting on with a graph."""
        self._progress_at = time.monotonic()

    @property
    def backlog_bytes(self) -> int:
        """As of the last commit in this process."""
        return self._backlog_bytes

    @property
    def is_stalled(self) -> bool:
        """There is a backlog, and nobody makes it smaller."""
        behind = self._backlog_bytes > self._max
        return behind and time.monotonic() - self._progress_at > NO_PROGRESS_S

    @property
    def delay_s(self) -> float:
        """What the next upsert waits, in seconds."""
        over = self._backlog_bytes / self._max - 1
        return 0.0 if over <= 0 or self.is_stalled else min(DELAY_S_MAX, over)
