"""How long a caller is willing to wait, and whether it still does.

Long work asks between slices of at most 20 ms: ``deadline.check()`` raises when the time is up or
the caller has gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from vecdb import checks
from vecdb.errors import CancelledError, DeadlineExceededError

__all__ = ["Deadline"]


class Deadline:
    """A moment on the monotonic clock, and a way to ask for cancellation.

    Args:
        timeout_s: seconds from now, None for no end.
        is_cancelled: asked at each check; None for never.
    """

    __slots__ = ("_ends", "_is_cancelled", "timeout_s")

    def __init__(
        self, timeout_s: float | None = None, is_cancelled: Callable[[], bool] | None = None
    ) -> None:
        timeout_s = checks.check_timeout(timeout_s)
        self.timeout_s = timeout_s
        self._ends = None if timeout_s is None else time.monotonic() + timeout_s
        self._is_cancelled = is_cancelled

    def check(self) -> None:
        """Raise DeadlineExceededError or CancelledError if it is time to stop."""
        if self._ends is not None and time.monotonic() >= self._ends:
            raise DeadlineExceededError(f"the deadline of {self.timeout_s:g} s has passed")
        if self._is_cancelled is not None and self._is_cancelled():
            raise CancelledError("the caller cancelled the call")

    def also(self, function: Callable[[], None]) -> Deadline:
        """The same deadline, each of whose checks calls ``function`` too, in whichever thread."""
        return _Also(self, function)

    def remaining_s(self) -> float | None:
        """Seconds left, at least 0; None without an end."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())


class _Also(Deadline):
    """A deadline whose checks do something else besides."""

    __slots__ = ("_deadline", "_function")

    def __init__(self, deadline: Deadline, function: Callable[[], None]) -> None:
        super().__init__()
        self._deadline, self._function = deadline, function
        self.timeout_s = deadline.timeout_s

    def check(self) -> None:
        self._deadline.check()
        self._function()

    def remaining_s(self) -> float | None:
        return self._deadline.remaining_s()
