"""What guards an environment: a read-write lock, and patience with what keeps failing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vecdb.errors import DataLossError, UnavailableError, VecdbError
from vecdb.reasons import Reason

__all__ = ["BackOff", "Gate"]

_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 2.0
_LOOK_S = 0.1


class Gate:
    """Many may be inside, or one alone. Who waits for the exclusive side holds newcomers back."""

    def __init__(self) -> None:
        # Taken as it is where nobody is told anything, which costs half.
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._inside = 0
        self._closing = False

    def enter(self) -> None:
        """Go in, beside others; waits while somebody is alone or wants to be."""
        with self._lock:
            while self._closing:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        """Go out."""
        with self._lock:
            self._inside -= 1
            if self._closing and self._inside == 0:
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self, check: Callable[[], None]) -> Iterator[None]:
        """Be in there alone; waits until all others are out. Not for one who is inside.

        Args:
            check: called now and then while waiting; what it raises ends that.
        """
        with self._condition:
            while self._closing:
                self._condition.wait(_LOOK_S)
                if self._closing:
                    check()
            self._closing = True
        try:
            with self._condition:
                while self._inside:
                    self._condition.wait(_LOOK_S)
                    if self._inside:
                        check()
            yield
        finally:
            with self._condition:
                self._closing = False
                self._condition.notify_all()


class BackOff:
    """When something that keeps failing may be tried again."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._again_at = 0.0
        self._error: VecdbError | None = None

    def check(self, folder: Path) -> None:
        """Raise UnavailableError (STORE_FAILED) while it is too early; damage stays DataLossError,
        as no further try mends it."""
        error = self._error
        if error is None or time.monotonic() >= self._again_at:
            return
        if isinstance(error, DataLossError):
            raise DataLossError(error.message, error.reason)
        raise UnavailableError(
            f"the store in {folder} stopped after an error ({error.message}); it is tried again "
            "shortly",
            Reason.STORE_FAILED,
        )

    def failed(self, error: VecdbError) -> None:
        """It failed again: the pause doubles."""
        self._error = type(error)(error.message, error.reason)  # Without its traceback.
        self._pause_s = min(_PAUSE_MAX_S, max(_PAUSE_FIRST_S, 2 * self._pause_s))
        self._again_at = time.monotonic() + self._pause_s

    def worked(self) -> None:
        """It worked: the next failure begins with a short pause."""
        self._pause_s = 0.0
