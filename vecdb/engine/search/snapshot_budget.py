"""One budget for the memory of all views of a database: past it, those of the collections that were
used least recently are forgotten. Their next search makes them again.

It counts what is a view's own: fresh rows, bitmaps of the dead, rows of lost segments. Mapped
segments are the page cache's. Counting is done when a view is made, and costs nothing until then
but the moment that a keeper notes when it is used.
"""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["KeepsSnapshots", "SnapshotBudget"]


class KeepsSnapshots(Protocol):
    """What can forget its view."""

    used_at: float

    def let_go(self) -> bool:
        """Forget it now; False if it is just being made."""


class SnapshotBudget:
    """Bytes of the kept views by their keepers. For many threads."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_of: dict[KeepsSnapshots, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    @property
    def bytes_used(self) -> int:
        """What all kept views take."""
        return self._total

    def note(self, manager: KeepsSnapshots, view_bytes: int) -> list[KeepsSnapshots]:
        """A keeper keeps a view of that size now, or none if it is 0.

        Returns:
            Keepers that have to let theirs go, least recently used first. Call ``let_go`` of each
            while no other is held: it takes a lock.
        """
        with self._lock:
            self._total += view_bytes - self._bytes_of.pop(manager, 0)
            if view_bytes:
                self._bytes_of[manager] = view_bytes
            chosen: list[KeepsSnapshots] = []
            excess = self._total - self._bytes_max
            if excess <= 0:
                return chosen
            for other in sorted(self._bytes_of, key=lambda k: k.used_at):
                if excess > 0 and other is not manager:
                    chosen.append(other)
                    excess -= self._bytes_of[other]
            return chosen
