"""When the scrolls of this process were last asked for a page.

Their pins are leases of a minute, so that a thousand that nobody goes on with would keep others out
for as long. Where a new one finds no room, the one that has rested for longest makes some, if that
is long enough for one that is in use not to be hit. It is known here and not on disk: to note each
page there would cost a commit. Scrolls of other processes have their lease.
"""

from __future__ import annotations

import time
from typing import Final

from vecdb import limits

__all__ = ["ScrollUses"]

_IDLE_S: Final = 1.0


class ScrollUses:
    """Pins of scrolls by their last use. For many threads: its steps are single ones of a dict."""

    def __init__(self) -> None:
        self._used_at: dict[bytes, float] = {}

    def note(self, lease_id: bytes) -> None:
        """It has just been used."""
        self._used_at.pop(lease_id, None)  # So that the order is that of the uses.
        self._used_at[lease_id] = time.monotonic()
        if len(self._used_at) > 2 * limits.LEASES_MAX:
            self._forget_expired()

    def forget(self, lease_id: bytes) -> None:
        """It has ended."""
        self._used_at.pop(lease_id, None)

    def idle(self) -> list[bytes]:
        """Those that have rested for long enough, the longest first. Some may have ended."""
        late = time.monotonic() - _IDLE_S
        return [lease_id for lease_id, used_at in list(self._used_at.items()) if used_at <= late]

    def _forget_expired(self) -> None:
        late = time.monotonic() - limits.LEASE_S
        for lease_id, used_at in list(self._used_at.items()):
            if used_at <= late:
                self._used_at.pop(lease_id, None)
