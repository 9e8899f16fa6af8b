"""Whether a store's file is still where it was opened.

A folder that is removed, moved or replaced under a process that has it open stays open there: what
is committed goes into files that nobody finds again. So each commit compares the file that has the
name with the one that was opened, by device and inode, and the size with the greatest one seen:
LMDB's file never shrinks by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from vecdb.errors import OutcomeUnknownError, UnavailableError
from vecdb.reasons import Reason

__all__ = ["Place", "not_in_place", "unknown_where"]

_WHAT_TO_DO: Final = (
    "it was removed, moved or replaced; put it back where it was, or close the database (stop the "
    "server) and open it again"
)


class Place:
    """The file of an open store. Its creator calls ``found`` before and after it is opened."""

    def __init__(self, file: Path) -> None:
        self._file = os.fspath(file)
        self._size = 0
        self._identity: tuple[int, int] | None = None

    def found(self) -> None:
        """Remember the file that has the name now."""
        status = os.stat(self._file)
        self._identity = status.st_dev, status.st_ino
        self._size = status.st_size

    def holds(self) -> bool:
        """It is still that file."""
        size = self._look()
        if size is not None:
            self._size = max(size, self._size)
        return size is not None

    def is_shorter(self) -> bool:
        """It is still that file, and shorter than it was."""
        size = self._look()
        if size is None:
            return False
        shorter = size < self._size
        self._size = max(size, self._size)
        return shorter

    def _look(self) -> int | None:
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        same = (status.st_dev, status.st_ino) == self._identity
        return status.st_size if same else None


def not_in_place(folder: Path) -> UnavailableError:
    """Refused before anything was done."""
    return UnavailableError(
        f"{folder} is not the folder that was opened: {_WHAT_TO_DO}; nothing was written",
        Reason.FOLDER_GONE,
    )


def unknown_where(folder: Path) -> OutcomeUnknownError:
    """A commit was made, and then the folder was gone."""
    return OutcomeUnknownError(
        f"{folder} is not the folder that was opened: {_WHAT_TO_DO}; the batch was written into "
        "the folder that was there",
        Reason.FOLDER_GONE,
    )
