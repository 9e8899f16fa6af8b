"""Durable writes of files and folders, checksums, and file locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vecdb.engine.system.modes import creating, open_lock
from vecdb.errors import UnavailableError
from vecdb.os_errors import os_errors_translated
from vecdb.reasons import Reason

__all__ = [
    "checksum_of_file",
    "copy_file",
    "file_lock",
    "fsync_file",
    "fsync_folder",
    "is_full",
    "link_or_copy",
    "names_in",
    "os_errors_translated",
    "patient_lock",
    "write_array",
    "write_file",
]

_LOCK_POLL_S = 0.01
_CHUNK_BYTES = 8 * 1024**2
_LARGE_PAGE_BYTES = 2 * 1024**2
_PROBE_BYTES = 64 * 1024
"""A disk with less free space than this counts as full."""


def fsync_folder(folder: Path) -> None:
    """Make the entries of a folder durable. Without it a new file may be missing after a power
    loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def names_in(folder: Path) -> set[str]:
    """Return the names of a folder's entries; an empty set if the folder does not exist. A caller
    that checked for the folder first would race with its removal."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return set(os.listdir(folder))
    return set()


def write_file(path: Path, content: bytes) -> int:
    """Write a file and fsync it, but not its folder. Return the CRC-32 of the content."""
    with open(path, "wb", opener=creating) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return zlib.crc32(content)


def fsync_file(path: Path) -> None:
    """Fsync a file that other code wrote, but not its folder. Drop it from the page cache, so that
    the next read comes from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        _drop_from_page_cache(descriptor)
    finally:
        os.close(descriptor)


def copy_file(source: BinaryIO, path: Path) -> tuple[int, int]:
    """Copy the rest of ``source`` to a new file and fsync it, but not its folder. Drop the copy
    from the page cache, so that the next read comes from the disk.

    Returns:
        Size in bytes and CRC-32 of the bytes read.
    """
    size = crc = 0
    with open(path, "xb", opener=creating) as file:
        while chunk := source.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        _drop_from_page_cache(file.fileno())
    return size, crc


def _drop_from_page_cache(descriptor: int) -> None:
    """Ask the system, where it supports that, to drop the cached pages of a fsynced file. Then a
    verification reads the disk, and the copy does not evict pages that searches use."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def checksum_of_file(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the CRC-32 of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
    return size, crc


def is_full(folder: Path, file_bytes: int) -> bool:
    """Return whether the disk is full, or a file of this size in the folder cannot grow since the
    process limits file sizes (RLIMIT_FSIZE)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and file_bytes > limit - _PROBE_BYTES:
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _PROBE_BYTES)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return False


def link_or_copy(source: Path, target: Path) -> None:
    """Make another name for a file that never changes, or a synced copy where the file system has
    no links. The folder is the caller's to sync."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        with open(source, "rb") as file:
            copy_file(file, target)


def write_array(path: Path, array: npt.NDArray[np.generic]) -> dict[str, Any]:
    """Write an array as .npy and fsync it. Its data begin at a multiple of 64 bytes, as NumPy
    writes them.

    Each write ends at a multiple of the size of large pages, and the header is not written apart:
    then the system can keep the file in large pages (``mapped_pages.py``).

    Returns:
        Its entry for a manifest: dtype, shape, size of the file in bytes, CRC-32 of its data.
    """
    array = np.ascontiguousarray(array)
    raw = memoryview(array.reshape(-1).view(np.uint8).data if array.size else b"")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    first = _LARGE_PAGE_BYTES - header.tell()
    crc = zlib.crc32(raw[:first])
    with open(path, "wb", opener=creating) as file:
        file.write(header.getvalue() + raw[:first])
        for start in range(first, len(raw), _LARGE_PAGE_BYTES):
            piece = raw[start : start + _LARGE_PAGE_BYTES]
            crc = zlib.crc32(piece, crc)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": size, "crc32": crc}


@contextlib.contextmanager
def patient_lock(
    path: Path, patience_s: float, check: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Hold a ``file_lock``; wait for it at most ``patience_s`` seconds.

    Args:
        check: called before each further attempt; what it raises ends the wait.

    Raises:
        UnavailableError: LOCKED: another process held the lock all that time.
    """
    ends = time.monotonic() + patience_s
    while True:
        with file_lock(path, wait=False) as held:
            if held:
                yield
                return
        if time.monotonic() > ends:
            raise UnavailableError(
                f"another process has held the lock {path} for {patience_s:g} s; continue or end "
                "that process if it was stopped, and retry",
                Reason.LOCKED,
            )
        check()
        time.sleep(_LOCK_POLL_S)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold an exclusive lock between processes on a file; the file is never removed.

    Yield True with the lock held, or False at once if ``wait`` is False and another process or
    thread holds it. The lock is released at the end of the block or of the process.
    """
    descriptor = open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # Unlock explicitly: a child forked in the meantime has a copy of the descriptor, and
            # closing ours would leave the lock held.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
