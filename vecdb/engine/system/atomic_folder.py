"""A folder that appears complete or not at all.

It is built beside its target under the name ``<name>.partial-<12 hexadecimal digits>`` and renamed
when it is complete. The building process holds a lock on a file in it. If that process is killed,
the lock is free, and the next build of the same target removes the partial folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vecdb.engine.system.files import fsync_folder, os_errors_translated
from vecdb.engine.system.modes import make_folder, open_lock
from vecdb.errors import AlreadyExistsError, NotFoundError
from vecdb.reasons import Reason

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PartialFolder", "remove_stale"]

LOCK_NAME: Final = "partial.lock"
_IN_THE_WAY: Final = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


class PartialFolder:
    """A folder being built; a context manager. Leaving it without ``finish`` removes the folder.

    Args:
        target: the final path.
        group: True to give the group access; None to do as the parent folder does.

    Attributes:
        path: the folder to build in; the final path after ``finish``.

    Raises:
        NotFoundError: NO_FOLDER: the parent folder does not exist. It is not created, since it may
            be the mount point of a disk that is not mounted.
    """

    def __init__(self, target: Path, *, group: bool | None = None) -> None:
        self._target = target
        if not target.parent.is_dir():
            raise NotFoundError(
                f"cannot create {target.name}: {target.parent} is not a folder", Reason.NO_FOLDER
            )
        with os_errors_translated(str(target), missing=True):
            remove_stale(target)
            self._lock, self.path = _create(target, group)

    def finish(self) -> None:
        """Rename the folder to its target and fsync the parent. Its content must be fsynced.

        Raises:
            AlreadyExistsError: PATH_TAKEN: the target was created since; it is left unchanged.
        """
        try:
            os.rename(self.path, self._target)  # Replaces an empty folder, and nothing else.
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise AlreadyExistsError(
                    f"{self._target} already exists", Reason.PATH_TAKEN
                ) from None
            raise
        self.path = self._target
        # Removed only after the rename: without its lock file a partial folder that a killed
        # process left could not be recognized.
        (self.path / LOCK_NAME).unlink()
        fsync_folder(self.path)
        fsync_folder(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if self.path != self._target:
                shutil.rmtree(self.path, ignore_errors=True)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)


def remove_stale(target: Path) -> None:
    """Remove the partial folders of ``target`` whose building process has ended."""
    pattern = re.compile(re.escape(target.name) + r"\.partial-[0-9a-f]{12}")
    with os.scandir(target.parent) as entries:
        found = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]
    for folder in found:
        try:
            lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            _remove_if_empty(folder)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # Another process is building it.
        finally:
            os.close(lock)


def _create(target: Path, group: bool | None) -> tuple[int, Path]:
    """Create a partial folder and lock it."""
    while True:
        folder = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:12]}")
        make_folder(folder, group=group)
        try:
            lock = open_lock(folder / LOCK_NAME)
        except FileNotFoundError:
            continue  # Another process took the empty folder for a stale one and removed it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(folder / LOCK_NAME):
            return lock, folder
        os.close(lock)  # It was removed after the file was created and before it was locked.


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # Not empty: vecdb did not create it.
