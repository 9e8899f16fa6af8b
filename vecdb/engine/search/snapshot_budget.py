"""One memory budget for the cached snapshots of all collections of a database (LRU).

When it is exceeded, the snapshots of the least recently used collections are evicted; their next
search creates them again. A snapshot's size counts its memtable, delete bitmaps and rows of
quarantined segments. Mapped segments do not count, since they are in the page cache. Sizes are
summed only when a snapshot is created; a search itself only records its time.
"""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["KeepsSnapshots", "SnapshotBudget"]


class KeepsSnapshots(Protocol):
    """A cache of one snapshot that can be evicted. used_at: seconds, ``time.monotonic``."""

    used_at: float

    def evict(self) -> bool:
        """Drop the snapshot; return False if one is being created at the moment."""


class SnapshotBudget:
    """Sizes of the cached snapshots by their managers. Thread-safe."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_of: dict[KeepsSnapshots, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    @property
    def bytes_used(self) -> int:
        """Return the size of all cached snapshots in bytes."""
        return self._total

    def note(self, manager: KeepsSnapshots, snapshot_bytes: int) -> list[KeepsSnapshots]:
        """Set the size of a manager's cached snapshot, 0 if it caches none.

        Returns:
            Managers whose snapshots must be evicted, least recently used first. Call ``evict`` of
            each without holding a lock, since it takes the manager's.
        """
        with self._lock:
            self._total += snapshot_bytes - self._bytes_of.pop(manager, 0)
            if snapshot_bytes:
                self._bytes_of[manager] = snapshot_bytes
            chosen: list[KeepsSnapshots] = []
            excess = self._total - self._bytes_max
            if excess <= 0:
                return chosen
            for other in sorted(self._bytes_of, key=lambda k: k.used_at):
                if excess > 0 and other is not manager:
                    chosen.append(other)
                    excess -= self._bytes_of[other]
            return chosen
