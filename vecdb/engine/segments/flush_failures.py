"""Collections whose fresh rows could not be sealed: why, and when it is tried again.

A full disk or a damaged block makes sealing fail, and it would fail again at once. Searches scan
the fresh rows meanwhile, so nothing is lost but speed; ``stats`` says why.
"""

from __future__ import annotations

import threading
import time

__all__ = ["FlushFailures"]

_PAUSE_FIRST_S, _PAUSE_MAX_S = 1.0, 30.0


class FlushFailures:
    """Failures in a row of each collection. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: dict[str, tuple[int, float, str]] = {}  # Count, when again, why.

    def failed(self, collection_id: str, why: str) -> None:
        """Sealing failed: the next try is later than the last was."""
        with self._lock:
            count = self._failed.get(collection_id, (0, 0.0, ""))[0] + 1
            pause_s = min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2 ** (count - 1))
            self._failed[collection_id] = (count, time.monotonic() + pause_s, why)

    def settled(self, collection_id: str) -> None:
        """Sealing worked, or there is nothing to seal any more."""
        with self._lock:
            self._failed.pop(collection_id, None)

    def is_early(self, collection_id: str) -> bool:
        """It failed a short while ago."""
        failure = self._failed.get(collection_id)
        return failure is not None and time.monotonic() < failure[1]

    def due(self) -> set[str]:
        """Those that are to be tried again now."""
        now = time.monotonic()
        with self._lock:
            return {c for c, (_, again_at, _) in self._failed.items() if again_at <= now}

    def status(self, collection_id: str) -> str:
        """For ``stats``; empty if all is well."""
        failure = self._failed.get(collection_id)
        if failure is None:
            return ""
        return f"; fresh rows could not be sealed ({failure[0]} in a row): {failure[2]}"

    def __bool__(self) -> bool:
        return bool(self._failed)
