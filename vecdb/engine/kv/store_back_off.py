"""The pauses between retries of opening a store or committing to it, while the disk fails."""

from __future__ import annotations

from pathlib import Path

from vecdb.engine.system.back_off import BackOff
from vecdb.errors import DataLossError, UnavailableError, VecdbError
from vecdb.reasons import Reason

__all__ = ["StoreBackOff"]


class StoreBackOff(BackOff[VecdbError]):
    """The operations of one store to retry. Thread-safe."""

    def __init__(self) -> None:
        super().__init__(first_s=0.05, max_s=2.0)

    def failed(self, key: str, why: VecdbError) -> None:
        """Note a failure."""
        # A copy without the traceback, which would keep the frames of the failed call alive.
        super().failed(key, type(why)(why.message, why.reason))

    def check(self, key: str, folder: Path) -> None:
        """Raise if it is too early to retry.

        Raises:
            UnavailableError: STORE_FAILED: retry after the pause.
            DataLossError: the last failure was one, which a retry is unlikely to change.
        """
        failure = self.failure(key)
        if failure is None or not self.is_early(key):
            return
        if isinstance(failure.why, DataLossError):
            raise DataLossError(failure.why.message, failure.why.reason)
        raise UnavailableError(
            f"the store in {folder} stopped after an error ({failure.why.message}); retry in a "
            "moment",
            Reason.STORE_FAILED,
        )
