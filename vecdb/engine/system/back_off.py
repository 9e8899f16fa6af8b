"""Exponential back-off: when operations that failed are retried.

A full disk or a damaged file makes an operation fail each time, and retries at once would keep the
process busy. So the pause before a retry doubles with each failure in a row. Each operation has a
key, for example the id of its collection, so that one that fails does not delay the others.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["BackOff", "Failure"]

Why = TypeVar("Why")

_DOUBLINGS_MAX = 60
"""More would overflow in the end: a disk may stay full for days."""


@dataclass(frozen=True)
class Failure(Generic[Why]):
    """Failures in a row of one operation. why: of the last one."""

    count: int
    why: Why


class BackOff(Generic[Why]):
    """The operations to retry, by key. Thread-safe.

    Args:
        first_s: pause after a first failure, in seconds.
        max_s: longest pause.
    """

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s, self._max_s = first_s, max_s
        self._lock = threading.Lock()
        self._failures: dict[str, Failure[Why]] = {}
        self._retry_at: dict[str, float] = {}

    def failed(self, key: str, why: Why) -> None:
        """Note a failure; the pause before the retry is twice the last one."""
        with self._lock:
            count = self._failures[key].count + 1 if key in self._failures else 1
            self._failures[key] = Failure(count, why)
            pause_s = min(self._max_s, self._first_s * 2.0 ** min(count - 1, _DOUBLINGS_MAX))
            self._retry_at[key] = time.monotonic() + pause_s

    def postpone(self, key: str, pause_s: float) -> None:
        """Retry after this pause (``math.inf``: not before the next outcome) without counting a
        failure, for example since a lock was held."""
        with self._lock:
            self._retry_at[key] = time.monotonic() + pause_s

    def succeeded(self, key: str) -> None:
        """Note that nothing is left to retry: it succeeded, or is no longer wanted."""
        with self._lock:
            self._failures.pop(key, None)
            self._retry_at.pop(key, None)

    def is_early(self, key: str) -> bool:
        """Return whether the pause before a retry is not over yet."""
        return time.monotonic() < self._retry_at.get(key, 0.0)

    def due(self) -> list[str]:
        """Return the keys to retry now."""
        now = time.monotonic()
        with self._lock:
            return [key for key, retry_at in self._retry_at.items() if retry_at <= now]

    def failure(self, key: str) -> Failure[Why] | None:
        """Return the failures in a row, None after a success."""
        return self._failures.get(key)

    def __bool__(self) -> bool:
        """Whether anything is left to retry."""
        return bool(self._retry_at)
