"""The folder that callers may have backups made in, and how they name what is to be in it.

A path is relative to it, or absolute and inside it. Whatever leads elsewhere (``..``, a symbolic
link, the data folder) is refused in one sentence, before anything there is looked at: so the
refusal says nothing of what there is on the machine.
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
        path: it is there already.
        data: the data folder of the server.

    Raises:
        InvalidArgumentError: BAD_BACKUP_DIR: it is no folder, or lies in the data folder.
    """

    def __init__(self, path: str | os.PathLike[str], data: Path) -> None:
        self._given = Path(checks.check_path(path)).expanduser().absolute()
        self._real, self._data = Path(os.path.realpath(self._given)), Path(os.path.realpath(data))
        if not self._real.is_dir():
            raise InvalidArgumentError(
                f"the folder for backups, {self._given}, is no folder; make it first",
                Reason.BAD_BACKUP_DIR,
            )
        if self._real.is_relative_to(self._data):
            raise InvalidArgumentError(
                f"the folder for backups, {self._given}, lies in the data folder {data}",
                Reason.BAD_BACKUP_DIR,
            )

    def path_of(self, asked: str) -> Path:
        """Where a backup is to be that a caller asked for.

        Raises:
            InvalidArgumentError: BAD_PATH: not inside.
        """
        given = Path(checks.check_path(asked))
        for base in (self._given, self._real):
            if given.is_relative_to(base):
                given = given.relative_to(base)
                break
        if given.is_absolute() or not given.name or ".." in given.parts:
            raise _elsewhere(asked)
        target = self._real / given
        real = Path(os.path.realpath(target))
        if not real.is_relative_to(self._real) or real.is_relative_to(self._data):
            raise _elsewhere(asked)
        return target


def no_backup_folder() -> FailedPreconditionError:
    """What callers are told where there is none."""
    return FailedPreconditionError(
        "this server was given no folder for backups: start it with vecdb serve --backup-dir DIR, "
        "or make the backup on its machine with vecdb backup PATH --data DIR",
        Reason.NO_BACKUP_DIR,
    )


def _elsewhere(asked: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"a backup over the wire is made inside the server's folder for backups: give a path "
        f"relative to it, got {asked[:200]!r}",
        Reason.BAD_PATH,
    )
