"""Permissions of files and folders: for the user only, or also for the group of the data folder.

A data folder is created with mode 0700, with ``group_access`` 0770. All folders and files in it are
created with 0700 and 0600; with 0770 and 0660 if their parent folder is writable by the group. The
umask has no effect. Existing files and folders keep their mode.

Any user who can open a file, even only for reading, can take a lock on it (flock). So a lock file
that others can read, as earlier versions created it, loses those permissions on its next use.
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
    """Return whether the group may write to the folder."""
    return bool(folder.stat().st_mode & _GROUP_WRITES)


def _file_mode(path: str | Path) -> int:
    """Return the mode for a new file at this path."""
    return _GROUP_FILE if is_for_group(Path(path).parent) else _FILE


def creating(path: str, flags: int) -> int:
    """Open a file that may be created; the ``opener`` argument of ``open``. An existing file keeps
    its mode."""
    wanted = _file_mode(path)
    if not flags & os.O_EXCL:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags & ~os.O_CREAT, wanted)
    descriptor = os.open(path, flags, wanted)
    _correct(descriptor, wanted)
    return descriptor


def set_file_mode(path: Path) -> None:
    """Set the mode of a file that a library has just created."""
    os.chmod(path, _file_mode(path))


def make_folder(folder: Path, *, exist_ok: bool = False, group: bool | None = None) -> None:
    """Create a folder, but not its parents.

    Args:
        exist_ok: accept an existing folder; it keeps its mode.
        group: True to give the group access; None to do as the parent folder does.

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
    """Create a folder and its missing parents, with the access of the first existing parent."""
    if not folder.is_dir():
        make_folders(folder.parent)
        make_folder(folder, exist_ok=True)


def make_root(folder: Path, *, group: bool) -> None:
    """Create a folder at a path that the user gave, unless it exists. Its missing parents get
    modes by the umask."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_folder(folder, exist_ok=True, group=group)


def open_lock(path: Path) -> int:
    """Open a lock file; create it if it does not exist. Remove permissions that would let other
    users take the lock."""
    descriptor = creating(os.fspath(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    allowed = _GROUP_FILE if status.st_mode & _GROUP_WRITES else _FILE
    if stat.S_IMODE(status.st_mode) & ~allowed & 0o777 and status.st_uid == os.geteuid():
        _correct(descriptor, stat.S_IMODE(status.st_mode) & allowed)
    return descriptor


def _correct(descriptor: int, wanted: int) -> None:
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != wanted:
        os.fchmod(descriptor, wanted)
