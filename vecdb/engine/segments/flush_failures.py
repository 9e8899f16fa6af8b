"""Collections whose memtable could not be flushed: why, and when to retry.

A full disk or a damaged block makes a flush fail, and an immediate retry would fail again.
Searches scan the memtable until a flush succeeds, so only speed is lost; ``stats`` reports why.
"""

from __future__ import annotations

import threading
import time

__all__ = ["FlushFailures"]

_PAUSE_FIRST_S, _PAUSE_MAX_S, _BUSY_PAUSE_S = 1.0, 30.0, 0.5
"""Back-off between retries: it doubles with each failure."""


class FlushFailures:
    """Flushes to try again: consecutive failures, and held locks. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: dict[str, tuple[int, float, str]] = {}  # Count, time of the next try, why.

    def failed(self, collection_id: str, why: str) -> None:
        """Note a failed flush; the pause before the next try is longer than the last one."""
        with self._lock:
            count = self._failed.get(collection_id, (0, 0.0, ""))[0] + 1
            pause_s = min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2 ** (count - 1))
            self._failed[collection_id] = (count, time.monotonic() + pause_s, why)

    def busy(self, collection_id: str) -> None:
        """Note a flush that met a held lock: it is tried again soon, and is no failure."""
        with self._lock:
            count, _, why = self._failed.get(collection_id, (0, 0.0, ""))
            self._failed[collection_id] = (count, time.monotonic() + _BUSY_PAUSE_S, why)

    def settled(self, collection_id: str) -> None:
        """Note that a flush succeeded, or that there is nothing left to flush."""
        with self._lock:
            self._failed.pop(collection_id, None)

    def is_early(self, collection_id: str) -> bool:
        """Return whether the pause after the last failure is not over yet."""
        failure = self._failed.get(collection_id)
        return failure is not None and time.monotonic() < failure[1]

    def due(self) -> set[str]:
        """Return the ids of the collections to retry now."""
        now = time.monotonic()
        with self._lock:
            return {c for c, (_, again_at, _) in self._failed.items() if again_at <= now}

    def status(self, collection_id: str) -> str:
        """Return the text for ``stats``, empty without a failure."""
        failure = self._failed.get(collection_id)
        if failure is None or failure[0] == 0:
            return ""
        return f"; the memtable could not be flushed ({failure[0]} times in a row): {failure[2]}"

    def __bool__(self) -> bool:
        return bool(self._failed)
