"""Exponential back-off for an operation of a store that keeps failing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from vecdb.errors import DataLossError, UnavailableError, VecdbError
from vecdb.reasons import Reason

__all__ = ["BackOff"]

_PAUSE_FIRST_S: Final = 0.05
_PAUSE_MAX_S: Final = 2.0


class BackOff:
    """The time before which an operation is not retried. The pause doubles with each failure."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._retry_at = 0.0
        self._error: VecdbError | None = None

    def check(self, folder: Path) -> None:
        """Raise if it is too early to retry.

        Raises:
            UnavailableError: STORE_FAILED: retry after the pause.
            DataLossError: the last failure was one, which a retry is unlikely to change.
        """
        error = self._error
        if error is None or time.monotonic() >= self._retry_at:
            return
        if isinstance(error, DataLossError):
            raise DataLossError(error.message, error.reason)
        raise UnavailableError(
            f"the store in {folder} stopped after an error ({error.message}); retry in a moment",
            Reason.STORE_FAILED,
        )

    def failed(self, error: VecdbError) -> None:
        """Record a failure, and double the pause."""
        # A copy without the traceback, which would keep the frames of the failed call alive.
        self._error = type(error)(error.message, error.reason)
        self._pause_s = min(_PAUSE_MAX_S, max(_PAUSE_FIRST_S, 2 * self._pause_s))
        self._retry_at = time.monotonic() + self._pause_s

    def succeeded(self) -> None:
        """Record a success: the next failure starts with the first pause."""
        self._pause_s = 0.0
