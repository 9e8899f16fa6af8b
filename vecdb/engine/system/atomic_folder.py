"""A folder that appears whole or not at all.

It is built beside its place under the name ``<name>.partial-<12 hexadecimal digits>`` and renamed
when it is done. A file in it is locked as long as the process that builds it lives: what a dead one
left is removed by whoever builds there next.
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
    """A context manager; leaving it without ``finish`` removes what was built.

    Args:
        target: its place.
        group: for the group as well; None as the folder that it lies in is.

    Attributes:
        path: where to build.

    Raises:
        NotFoundError: the folder that it is to lie in is not there. It is not made, as a disk that
            is not mounted would otherwise be taken for an empty folder.
    """

    def __init__(self, target: Path, *, group: bool | None = None) -> None:
        self._target = target
        if not target.parent.is_dir():
            raise NotFoundError(
                f"{target.parent}, where {target.name} should go, is no folder", Reason.NO_FOLDER
            )
        with os_errors_translated(str(target), missing=True):
            remove_stale(target)
            self._lock, self.path = _made(target, group)

    def finish(self) -> None:
        """Put it in its place, durably. Its files and folders must be fsynced.

        Raises:
            AlreadyExistsError: there is something by now, which is left as it is.
        """
        try:
            os.rename(self.path, self._target)  # An empty folder gives way, nothing else does.
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise AlreadyExistsError(
                    f"{self._target} is there already", Reason.PATH_TAKEN
                ) from None
            raise
        self.path = self._target
        # Only now: without it the folder would never be known as one that a dead process left.
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
    """Remove the partial folders of ``target`` that nobody builds any more."""
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
            pass  # It is being built.
        finally:
            os.close(lock)


def _made(target: Path, group: bool | None) -> tuple[int, Path]:
    """A new partial folder and its lock, held."""
    while True:
        folder = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:12]}")
        make_folder(folder, group=group)
        try:
            lock = open_lock(folder / LOCK_NAME)
        except FileNotFoundError:
            continue  # Another process took the empty folder for a dead one's.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(folder / LOCK_NAME):
            return lock, folder
        os.close(lock)  # The same, after the file was made and before it was locked.


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # Not empty: no folder of ours.
