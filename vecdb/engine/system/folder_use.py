"""Who uses a data folder: everyone together, or one alone.

Each process that works in a folder holds a shared lock on its file use.lock: an open database, its
indexer, a backup. Who must be alone there (compaction replaces the stores' files) takes it
exclusively. The lock ends with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from vecdb.engine.system.modes import open_lock
from vecdb.errors import FailedPreconditionError, UnavailableError
from vecdb.reasons import Reason

__all__ = ["FolderUse"]

_LOCK_NAME = "use.lock"
PATIENCE_S = 10.0
"""An indexer may still be at work for a database that was just closed."""

_POLL_S = 0.05


class FolderUse:
    """The lock, held until ``close`` or the end of a with-statement.

    Args:
        root: the data folder.
        alone: with nobody else, whose end is waited for a little.

    Raises:
        FailedPreconditionError: IN_USE, somebody is there and ``alone`` is wanted.
        UnavailableError: COMPACTING, somebody is there alone.
    """

    def __init__(self, root: Path, *, alone: bool = False) -> None:
        self._descriptor = open_lock(root / _LOCK_NAME)
        wanted = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(self._descriptor, wanted | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if alone and time.monotonic() < ends:
                    time.sleep(_POLL_S)
                    continue
                self.close()
            if alone:
                raise FailedPreconditionError(
                    f"{root} is open in another process or in this one: close it first",
                    Reason.IN_USE,
                )
            raise UnavailableError(
                f"{root} is being compacted; open it when that is done", Reason.COMPACTING
            )

    def close(self) -> None:
        """Let it go. Closing twice is fine."""
        if self._descriptor >= 0:
            # Said aloud, as a child that was forked meanwhile holds the same lock by its copy.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """What holds the lock, for a process that is started with it."""
        return self._descriptor

    def hand_on(self) -> None:
        """Let go of it without ending the lock, which a process that was started with the
        descriptor holds until its own end."""
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> FolderUse:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
