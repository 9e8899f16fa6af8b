"""Who may read what vecdb makes: the user alone, or the group as well if the data folder says so.

A data folder is made with mode 0700, with ``group_access`` 0770. Whatever is made in it, by
whichever process, is 0700 and 0600, or 0770 and 0660 if the folder that it lies in may be written
by the group. The umask changes none of this, and what is there keeps the mode that it has.

A lock of the system (flock) can be taken by whoever can open the file, for reading too. So a lock
file that others can read, as earlier versions made it, is closed to them when it is used next.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

__all__ = [
    "creating",
    "is_for_group",
    "make_folder",
    "make_folders",
    "make_root",
    "open_lock",
    "set_file_mode",
]

_GROUP_WRITES: Final = 0o020
_FOLDER, _GROUP_FOLDER = 0o700, 0o770
_FILE, _GROUP_FILE = 0o600, 0o660


def is_for_group(folder: Path) -> bool:
    """The group may write into the folder."""
    return bool(folder.stat().st_mode & _GROUP_WRITES)


def _file_mode(path: str | Path) -> int:
    """Mode of a new file of this path."""
    return _GROUP_FILE if is_for_group(Path(path).parent) else _FILE


def creating(path: str, flags: int) -> int:
    """The ``opener`` for files that are made: one that is there keeps its mode."""
    wanted = _file_mode(path)
    if not flags & os.O_EXCL:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags & ~os.O_CREAT, wanted)
    descriptor = os.open(path, flags, wanted)
    _correct(descriptor, wanted)
    return descriptor


def set_file_mode(path: Path) -> None:
    """For a file that a library has just made."""
    os.chmod(path, _file_mode(path))


def make_folder(folder: Path, *, exist_ok: bool = False, group: bool | None = None) -> None:
    """Make a folder; not its parents.

    Args:
        exist_ok: one that is there is fine, and keeps its mode.
        group: for the group as well; None as its parent is.

    Raises:
        FileExistsError, FileNotFoundError: as ``mkdir``.
    """
    for_group = is_for_group(folder.parent) if group is None else group
    wanted = _GROUP_FOLDER if for_group else _FOLDER
    try:
        folder.mkdir(wanted)
    except FileExistsError:
        if not exist_ok or not folder.is_dir():
            raise
        return
    found = stat.S_IMODE(folder.stat().st_mode)
    if found & 0o777 != wanted:
        os.chmod(folder, found & 0o7000 | wanted)


def make_folders(folder: Path) -> None:
    """Make a folder and the parents that are missing, all as the first parent that is there."""
    if not folder.is_dir():
        make_folders(folder.parent)
        make_folder(folder, exist_ok=True)


def make_root(folder: Path, *, group: bool) -> None:
    """Make a folder of the user's that may be there, and the parents that are missing; these as
    the umask says."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_folder(folder, exist_ok=True, group=group)


def open_lock(path: Path) -> int:
    """Open a lock file, made if it is not there, and close it to those who could only read it."""
    descriptor = creating(os.fspath(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    allowed = _GROUP_FILE if status.st_mode & _GROUP_WRITES else _FILE
    if stat.S_IMODE(status.st_mode) & ~allowed & 0o777 and status.st_uid == os.geteuid():
        _correct(descriptor, stat.S_IMODE(status.st_mode) & allowed)
    return descriptor


def _correct(descriptor: int, wanted: int) -> None:
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != wanted:
        os.fchmod(descriptor, wanted)
