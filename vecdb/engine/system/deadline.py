"""The deadline and the cancellation of a call.

Long work calls ``deadline.check()`` between slices of at most 20 ms. It raises if the deadline has
passed or the call was cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from vecdb import checks
from vecdb.errors import CancelledError, DeadlineExceededError

__all__ = ["Deadline"]


class Deadline:
    """A point in time on the monotonic clock, and a test for cancellation.

    Args:
        timeout_s: seconds from now; None for no deadline.
        is_cancelled: called at each check; None if the call cannot be cancelled.

    Raises:
        InvalidArgumentError: ``timeout_s`` is not a number above 0.
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
        """Check the deadline and the cancellation.

        Raises:
            DeadlineExceededError: the deadline has passed.
            CancelledError: the call was cancelled.
        """
        if self._ends is not None and time.monotonic() >= self._ends:
            raise DeadlineExceededError(f"the deadline of {self.timeout_s:g} s has passed")
        if self._is_cancelled is not None and self._is_cancelled():
            raise CancelledError("the caller cancelled the call")

    def also(self, function: Callable[[], None]) -> Deadline:
        """Return the same deadline with checks that also call ``function``, in the thread that
        checks."""
        return _Also(self, function)

    def remaining_s(self) -> float | None:
        """Return the seconds left, at least 0; None without a deadline."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())


class _Also(Deadline):
    """A deadline whose checks also call a function."""

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
