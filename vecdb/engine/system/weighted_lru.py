"""A weighted LRU: which entries to evict so that the weights of the rest stay within a limit.

It bounds the open stores of a process (each weighs 1: files, address space and mappings) and the
memory of cached snapshots (each weighs its bytes). An evicted entry is created again by its next
use. The order is approximate (the clock algorithm), so that a use only has to set a flag: an entry
that was used since the clock hand last passed it is skipped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

__all__ = ["Evictable", "WeightedLru"]


class Evictable(Protocol):
    """What can be evicted. used: set to True by each use."""

    used: bool

    def evict(self) -> bool:
        """Release what the weight stands for until the next use; return False if that is not
        possible now."""


class WeightedLru:
    """Keeps the weight within ``weight_max``; above it while all is in use. Thread-safe."""

    def __init__(self, weight_max: int) -> None:
        self._weight_max = weight_max
        self._weights: OrderedDict[Evictable, int] = OrderedDict()  # The hand is at the first.
        self._weight = 0
        self._lock = threading.Lock()

    @property
    def weight(self) -> int:
        """Return the weight of all entries."""
        return self._weight

    def put(self, one: Evictable, weight: int = 1) -> dict[Evictable, int]:
        """Add an entry or set its weight.

        Returns:
            Other entries, with their weights, that were removed to stay within the limit. Pass them
            to ``evict``.
        """
        with self._lock:
            self._set(one, weight)
            return self._removed_for(one)

    def remove(self, one: Evictable) -> None:
        """Remove an entry if it is there."""
        with self._lock:
            self._weight -= self._weights.pop(one, 0)

    def evict(self, removed: dict[Evictable, int]) -> None:
        """Evict what ``put`` has removed; add again what cannot be evicted now.

        Call it without a lock and outside transactions, for which ``Evictable.evict`` may wait.
        """
        for one, weight in removed.items():
            if not one.evict():
                with self._lock:
                    self._set(one, self._weights.get(one, weight))

    def _set(self, one: Evictable, weight: int) -> None:
        self._weight += weight - self._weights.get(one, 0)
        self._weights[one] = weight

    def _removed_for(self, newest: Evictable) -> dict[Evictable, int]:
        removed: dict[Evictable, int] = {}
        for _ in range(2 * len(self._weights)):
            if self._weight <= self._weight_max:
                break
            one, weight = next(iter(self._weights.items()))
            if one is newest or one.used:
                one.used = False
                self._weights.move_to_end(one)
            else:
                removed[one] = self._weights.pop(one)
                self._weight -= weight
        return removed
