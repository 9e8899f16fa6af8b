"""When the scrolls of this process last returned a page.

A lease lasts a minute, so abandoned scrolls at the limit would block new ones for that long. If a
new scroll exceeds the limit, the scroll that has been idle longest is ended, but only if it has
been idle for ``_IDLE_S``, so that scrolls in use are not hit. The times are kept in memory, since
storing them would cost a commit per page; scrolls of other processes end with their lease.
"""

from __future__ import annotations

import time
from typing import Final

from vecdb import limits

__all__ = ["ScrollUses"]

_IDLE_S: Final = 1.0
"""Seconds without a page after which a scroll may be ended for a new one."""


class ScrollUses:
    """Leases of scrolls by their last use.

    Thread-safe without a lock: each step is a single operation of a dict, atomic under the GIL.
    """

    def __init__(self) -> None:
        self._used_at: dict[bytes, float] = {}

    def note(self, lease_id: bytes) -> None:
        """Note that a scroll was used now."""
        self._used_at.pop(lease_id, None)  # Keeps the dict ordered by last use.
        self._used_at[lease_id] = time.monotonic()
        if len(self._used_at) > 2 * limits.LEASES_MAX:
            self._forget_expired()

    def forget(self, lease_id: bytes) -> None:
        """Remove a scroll that has ended."""
        self._used_at.pop(lease_id, None)

    def idle(self) -> list[bytes]:
        """Return the leases of idle scrolls, longest idle first. Some may have ended already."""
        late = time.monotonic() - _IDLE_S
        return [lease_id for lease_id, used_at in list(self._used_at.items()) if used_at <= late]

    def _forget_expired(self) -> None:
        late = time.monotonic() - limits.LEASE_S
        for lease_id, used_at in list(self._used_at.items()):
            if used_at <= late:
                self._used_at.pop(lease_id, None)
