"""How many collections a process holds open: those least recently used are put to rest.

An open collection takes two files, address space for its store's map, and files and mappings of
its segments. One at rest takes a small object; its next use opens it again, in a millisecond or
two. Who has been used since the hand came by last is passed over (the clock algorithm), as the one
mark that a use can afford is a flag.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

__all__ = ["Awake", "StoreLru"]


class Awake(Protocol):
    """What can be put to rest."""

    used: bool

    @property
    def awake(self) -> bool:
        """It holds what rest would free."""

    def rest(self) -> bool:
        """Free it until the next use; waits for transactions at hand. False: not now."""


class StoreLru:
    """Keeps at most ``open_max`` awake, or a few more while all are in use. For many threads."""

    def __init__(self, open_max: int) -> None:
        self._open_max = open_max
        self._ring: deque[Awake] = deque()
        self._lock = threading.Lock()

    def reopened(self, one: Awake) -> None:
        """Count one in that was opened, and put others to rest. Call it in no transaction."""
        with self._lock:
            if one not in self._ring:
                self._ring.append(one)
            chosen = self._choose(one)
        for victim in chosen:
            if not victim.rest():
                with self._lock:
                    self._ring.append(victim)

    def forget(self, one: Awake) -> None:
        """It was closed for good."""
        with self._lock:
            if one in self._ring:
                self._ring.remove(one)

    def _choose(self, newest: Awake) -> list[Awake]:
        chosen: list[Awake] = []
        too_many = len(self._ring) - self._open_max
        for _ in range(2 * len(self._ring)):
            if len(chosen) >= too_many:
                break
            one = self._ring.popleft()
            if one is newest or (one.used and one.awake):
                one.used = False
                self._ring.append(one)
            else:
                chosen.append(one)
        return chosen
