"""The lock on the use of a data folder: shared for normal use, exclusive for compaction.

Each process that uses a folder holds a shared lock on its file use.lock: an open database, its
indexer, a backup. Compaction takes it exclusively, since it replaces the files of stores. The
system releases the lock when the process ends, also by SIGKILL.
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
"""How long an exclusive user waits: the indexer of a database that was just closed may still be
finishing a job."""

_POLL_S = 0.05


class FolderUse:
    """The lock, held until ``close`` or the end of a with-statement.

    Args:
        root: the data folder.
        exclusive: exclude all other users; wait for them ``PATIENCE_S`` seconds.

    Raises:
        FailedPreconditionError: IN_USE: ``exclusive``, and there are other users.
        UnavailableError: COMPACTING: another process holds the lock exclusively.
    """

    def __init__(self, root: Path, *, exclusive: bool = False) -> None:
        self._descriptor = open_lock(root / _LOCK_NAME)
        wanted = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(self._descriptor, wanted | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if exclusive and time.monotonic() < ends:
                    time.sleep(_POLL_S)
                    continue
                self.close()
            if exclusive:
                raise FailedPreconditionError(
                    f"{root} is open in this or another process; close it first, and retry",
                    Reason.IN_USE,
                )
            raise UnavailableError(
                f"{root} is being compacted; retry when that has finished", Reason.COMPACTING
            )

    def close(self) -> None:
        """Release the lock. Idempotent."""
        if self._descriptor >= 0:
            # Unlock explicitly: a child forked in the meantime has a copy of the descriptor, and
            # closing ours would leave the lock held.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """The descriptor that holds the lock, for a child process to inherit."""
        return self._descriptor

    def hand_over(self) -> None:
        """Close the descriptor without releasing the lock: a child process that inherited the
        descriptor holds it until the child ends."""
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> FolderUse:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
