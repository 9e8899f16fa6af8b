"""Detection of a store's file that was removed, moved, replaced or truncated while it is open.

If a folder is removed, moved or replaced, a process that has it open keeps the old files: its
commits would go to files that no path leads to. So each commit compares the device and inode of the
file at the path with those of the opened file. Each transaction compares the size with the largest
one seen: LMDB never shrinks its file, so a smaller file was truncated from outside. Reads are so
short that looking up the path would be felt, so the size is asked of an open descriptor.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from vecdb.errors import OutcomeUnknownError, UnavailableError
from vecdb.reasons import Reason

__all__ = ["OpenedFile", "not_in_place", "unknown_where"]

_REMEDY: Final = (
    "it was removed, moved or replaced; put it back where it was, or close the database (stop the "
    "server) and open it again"
)


class OpenedFile:
    """An open store's file: its identity, and a descriptor until ``close``.

    Attributes:
        descriptor: for reading. LMDB locks only the other file, so closing this one does not
            release a lock of the process.
        commits_at: where in the file the numbers of the last commits are; set by what opens it.
        size_max: the largest size seen, in bytes.

    Raises:
        OSError: the file cannot be opened.
    """

    descriptor = -1
    commits_at = (0, 0)

    def __init__(self, file: Path) -> None:
        self._file = os.fspath(file)
        self.descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self.descriptor)
        self._identity = status.st_dev, status.st_ino
        self.size_max = status.st_size

    def is_in_place(self) -> bool:
        """Return whether the file is still at the path. Works after ``close`` too."""
        try:
            status = os.stat(self._file)
        except OSError:
            return False
        if (status.st_dev, status.st_ino) != self._identity:
            return False
        self.size_max = max(status.st_size, self.size_max)
        return True

    def is_shorter(self) -> bool:
        """Return whether the file is shorter than it was, wherever it is now.

        No other thread may close it during this.
        """
        size = os.lseek(self.descriptor, 0, os.SEEK_END)
        if size > self.size_max:
            self.size_max = size
        return size < self.size_max

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close  # As LMDB does, if an opening that took too long is never used.


def not_in_place(folder: Path) -> UnavailableError:
    """Return the error for an operation that was rejected before it changed anything."""
    return UnavailableError(
        f"{folder} is not the folder that was opened: {_REMEDY}; nothing was written",
        Reason.FOLDER_GONE,
    )


def unknown_where(folder: Path) -> OutcomeUnknownError:
    """Return the error for a commit after which the folder turned out to be gone."""
    return OutcomeUnknownError(
        f"{folder} is not the folder that was opened: {_REMEDY}; the batch was written into "
        "the original folder",
        Reason.FOLDER_GONE,
    )
