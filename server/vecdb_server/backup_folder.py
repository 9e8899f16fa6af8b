"""The folder for backups that callers request, and the check of the paths that they give.

A path is relative to the folder, or absolute and inside it. A path that leads elsewhere (by ``..``,
a symbolic link, or into the data folder) is rejected before its target is accessed, always with the
same message, which reveals nothing about the files of the machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from vecdb import checks
from vecdb.errors import FailedPreconditionError, InvalidArgumentError
from vecdb.reasons import Reason

__all__ = ["BackupFolder", "no_backup_folder"]


class BackupFolder:
    """A folder for backups.

    Args:
        path: an existing folder.
        data: the data folder of the server.

    Raises:
        InvalidArgumentError: BAD_BACKUP_DIR: it is not a folder, or is inside the data folder.
    """

    def __init__(self, path: str | os.PathLike[str], data: Path) -> None:
        self._given = Path(checks.check_path(path)).expanduser().absolute()
        self._real, self._data = Path(os.path.realpath(self._given)), Path(os.path.realpath(data))
        if not self._real.is_dir():
            raise InvalidArgumentError(
                f"the folder for backups, {self._given}, does not exist; create it first",
                Reason.BAD_BACKUP_DIR,
            )
        if self._real.is_relative_to(self._data):
            raise InvalidArgumentError(
                f"the folder for backups, {self._given}, is inside the data folder {data}",
                Reason.BAD_BACKUP_DIR,
            )

    def path_of(self, requested: str) -> Path:
        """Return the path for a backup that a caller requested.

        Raises:
            InvalidArgumentError: BAD_PATH: it is not inside the folder.
        """
        given = Path(checks.check_path(requested))
        for base in (self._given, self._real):
            if given.is_relative_to(base):
                given = given.relative_to(base)
                break
        if given.is_absolute() or not given.name or ".." in given.parts:
            raise _outside(requested)
        target = self._real / given
        real = Path(os.path.realpath(target))
        if not real.is_relative_to(self._real) or real.is_relative_to(self._data):
            raise _outside(requested)
        return target


def no_backup_folder() -> FailedPreconditionError:
    """Return the error for a server without a folder for backups."""
    return FailedPreconditionError(
        "this server has no folder for backups: start it with vecdb serve --backup-dir DIR, or run "
        "vecdb backup PATH --data DIR on its machine",
        Reason.NO_BACKUP_DIR,
    )


def _outside(requested: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"expected a path relative to the server's folder for backups, got {requested[:200]!r}",
        Reason.BAD_PATH,
    )
