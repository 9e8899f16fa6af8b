"""LRU of open stores: bounds how many a process holds open.

An open store takes two files, address space for its map, and the files and mappings of its
segments. An evicted store takes a small object; its next use reopens it, in a millisecond or two.
The order is approximate (the clock algorithm), so that a use only has to set a flag: a store that
was used since the clock hand last passed it is skipped.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

__all__ = ["Evictable", "StoreLru"]


class Evictable(Protocol):
    """A store that can be closed and reopens itself."""

    used: bool

    @property
    def is_open(self) -> bool:
        """Return whether the store holds files and mappings."""

    def evict(self) -> bool:
        """Close the store until its next use, after running transactions; False if not possible."""


class StoreLru:
    """Keeps at most ``open_max`` stores open; a few more while all are in use. Thread-safe."""

    def __init__(self, open_max: int) -> None:
        self._open_max = open_max
        self._ring: deque[Evictable] = deque()
        self._lock = threading.Lock()

    def reopened(self, one: Evictable) -> None:
        """Add a store that was opened, and evict others.

        Never call it inside a transaction: ``evict`` waits for running transactions.
        """
        with self._lock:
            if one not in self._ring:
                self._ring.append(one)
            chosen = self._choose(one)
        for victim in chosen:
            if not victim.evict():
                with self._lock:
                    self._ring.append(victim)

    def forget(self, one: Evictable) -> None:
        """Remove a store that was closed for good."""
        with self._lock:
            if one in self._ring:
                self._ring.remove(one)

    def _choose(self, newest: Evictable) -> list[Evictable]:
        chosen: list[Evictable] = []
        too_many = len(self._ring) - self._open_max
        for _ in range(2 * len(self._ring)):
            if len(chosen) >= too_many:
                break
            one = self._ring.popleft()
            if one is newest or (one.used and one.is_open):
                one.used = False
                self._ring.append(one)
            else:
                chosen.append(one)
        return chosen
