"""Detection of a store's file that was removed, moved, replaced or truncated while it is open.

If a folder is removed, moved or replaced, a process that has it open keeps the old files: its
commits would go to files that no path leads to. So each commit compares the device and inode of the
file at the path with those of the opened file. It also compares the size with the largest one seen:
LMDB never shrinks its file, so a smaller file was truncated from outside.
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
    """The identity of an open store's file. Call ``remember`` before and after opening it."""

    def __init__(self, file: Path) -> None:
        self._file = os.fspath(file)
        self._size = 0
        self._identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """Record the identity and the size of the file that is at the path now."""
        status = os.stat(self._file)
        self._identity = status.st_dev, status.st_ino
        self._size = status.st_size

    def is_in_place(self) -> bool:
        """Return whether the recorded file is still at the path."""
        size = self._size_if_same()
        if size is not None:
            self._size = max(size, self._size)
        return size is not None

    def is_shorter(self) -> bool:
        """Return whether the recorded file is still at the path and shorter than it was."""
        size = self._size_if_same()
        if size is None:
            return False
        shorter = size < self._size
        self._size = max(size, self._size)
        return shorter

    def _size_if_same(self) -> int | None:
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        same = (status.st_dev, status.st_ino) == self._identity
        return status.st_size if same else None


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
