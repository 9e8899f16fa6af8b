"""Small things with files: what it takes to be on disk, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import tempfile
import time
import zlib
from collections.abc import Iterator
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
    "names_in",
    "os_errors_translated",
    "patient_lock",
    "write_array",
    "write_file",
]

_LOCK_POLL_S = 0.01
_CHUNK_BYTES = 8 * 1024**2
_PROBE_BYTES = 64 * 1024
"""Less room than this counts as a full disk."""


def fsync_folder(folder: Path) -> None:
    """Make the entries of a folder durable: a new file is not there after a power loss without
    it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def names_in(folder: Path) -> set[str]:
    """Names of what lies in a folder; none if there is no such folder, or not any more: one that is
    looked for first may go before it is listed."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return set(os.listdir(folder))
    return set()


def write_file(path: Path, content: bytes) -> int:
    """Write a file and fsync it; its folder is the caller's. Returns the CRC-32 of the content."""
    with open(path, "wb", opener=creating) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return zlib.crc32(content)


def fsync_file(path: Path) -> None:
    """Make a file durable that others wrote; its folder is the caller's. Who reads it next reads it
    from disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        _drop_from_memory(descriptor)
    finally:
        os.close(descriptor)


def copy_file(source: BinaryIO, path: Path) -> tuple[int, int]:
    """Copy what is left of ``source`` into a new file and fsync it; its folder is the caller's. Who
    reads it next reads it from disk.

    Returns:
        Size and CRC-32 of the bytes that were read.
    """
    size = crc = 0
    with open(path, "xb", opener=creating) as file:
        while chunk := source.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        _drop_from_memory(file.fileno())
    return size, crc


def _drop_from_memory(descriptor: int) -> None:
    """Ask the system, where it can be asked, to forget the pages of a file that was fsynced: a copy
    is to be compared as it is on disk, and takes no memory from what is searched."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def checksum_of_file(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
    return size, crc


def is_full(folder: Path, file_bytes: int) -> bool:
    """The disk has no room, or a file of this size in the folder may not grow (RLIMIT_FSIZE)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and file_bytes > limit - _PROBE_BYTES:
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _PROBE_BYTES)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return False


def write_array(path: Path, array: npt.NDArray[np.generic]) -> dict[str, Any]:
    """Write an array as .npy, fsynced; its data begin at a multiple of 64 bytes, as NumPy does it.

    Returns:
        What a manifest says of it: dtype, shape, bytes of the file, CRC-32 of its data.
    """
    array = np.ascontiguousarray(array)
    raw = memoryview(array.reshape(-1).view(np.uint8).data if array.size else b"")
    crc = 0
    with open(path, "wb", opener=creating) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        for start in range(0, len(raw), _CHUNK_BYTES):
            chunk = raw[start : start + _CHUNK_BYTES]
            crc = zlib.crc32(chunk, crc)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": size, "crc32": crc}


@contextlib.contextmanager
def patient_lock(path: Path, patience_s: float) -> Iterator[None]:
    """``file_lock`` that waits, but not for ever.

    Raises:
        UnavailableError: LOCKED, it was held all the time.
    """
    ends = time.monotonic() + patience_s
    while True:
        with file_lock(path, wait=False) as held:
            if held:
                yield
                return
        if time.monotonic() > ends:
            raise UnavailableError(
                f"another process has held {path} for {patience_s:g} s; continue or end that "
                "process if it was stopped, and retry",
                Reason.LOCKED,
            )
        time.sleep(_LOCK_POLL_S)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold an exclusive lock between processes on a file, which stays where it is.

    Yields True with the lock held, or False at once if ``wait`` is false and another holds it. The
    lock ends with the block or with the process, whichever is first.
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
            # Said aloud, as a child that was forked meanwhile holds the same lock by its copy.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
