"""Writing a large file to the disk while it is being produced, a few megabytes at a time.

An fsync of a file that was written in one go hands all of it to the disk at once, and whatever
another thread syncs at that moment, such as the commit of a batch, waits behind it. So of each
piece the system is asked to start writing at once, and the piece before is waited for. This says
nothing about durability: only the fsync at the end does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

__all__ = ["PIECE_BYTES", "WriteBack"]

PIECE_BYTES: Final = 2 * 1024**2
"""The size of large pages (``mapped_pages.py``)."""

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
"""Flags of sync_file_range. Never change them."""

_FAILURES: Final = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""The disk could not write. The system tells this once, so that a later fsync would not fail."""

SyncRange = Callable[[int, int, int, int], int]


def _sync_range() -> SyncRange | None:
    """Return the C library's sync_file_range: 0, or -1 with an errno; None where it has none."""
    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
        found: SyncRange = function
        return found
    return None


_OF_SYSTEM: Final = _sync_range()


class WriteBack:
    """The pieces of one file that is written from its beginning. Not thread-safe.

    Args:
        descriptor: of the file.
    """

    def __init__(self, descriptor: int, sync_range: SyncRange | None = _OF_SYSTEM) -> None:
        self._descriptor = descriptor
        self._sync_range = sync_range
        self._last = self._end = 0

    def written_to(self, end: int) -> None:
        """Note that the file is written up to ``end``, an offset; start writing the new piece, and
        wait until the one before is on its way to the disk.

        Raises:
            OSError: a piece could not be written to the disk.
        """
        last, begin, self._last, self._end = self._last, self._end, self._end, end
        self._sync(begin, end, _WRITE)
        self._sync(last, begin, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)

    def _sync(self, begin: int, end: int, flags: int) -> None:
        if self._sync_range is None or end <= begin:
            return
        if self._sync_range(self._descriptor, begin, end - begin, flags) != 0:
            number = ctypes.get_errno()
            if number in _FAILURES:
                raise OSError(number, os.strerror(number))
            self._sync_range = None  # The file system does not support it.
