"""LMDB's errors as ours."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import lmdb

from vecdb.errors import (
    DataLossError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    VecdbError,
)
from vecdb.reasons import Reason

__all__ = ["disk_full", "located", "translated", "translation"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """What LMDB raises within, raised as ours."""
    with located(folder):
        try:
            yield
        except lmdb.Error as error:
            raise translation(error, folder) from error


@contextlib.contextmanager
def located(folder: Path) -> Iterator[None]:
    """What is damaged is named where it is noticed; here it is known where it lies."""
    try:
        yield
    except DataLossError as error:
        if str(folder) not in error.message:
            error.message += f" ({folder})"
        raise


def translation(error: Exception, folder: Path | str) -> VecdbError:
    """LMDB's error as ours: the one table for it."""
    text = f"{folder}: {error}"
    if "already open in this process" in str(error):
        return UnavailableError(f"it is still being closed, retry ({text})", Reason.STORE_LOCKED)
    if isinstance(error, lmdb.DiskError) or _says(error, _FULL):
        return disk_full(text)
    if _says(error, _FORBIDDEN):
        return FailedPreconditionError(
            f"not allowed, nothing was written ({text})", Reason.PERMISSION
        )
    if _says(error, (errno.EMFILE, errno.ENFILE)):
        return ResourceExhaustedError(f"too many open files ({text})", Reason.FILES)
    if isinstance(error, lmdb.MemoryError) or _says(error, (errno.ENOMEM,)):
        return ResourceExhaustedError(
            f"out of memory or address space ({text})", Reason.OUT_OF_MEMORY
        )
    if isinstance(error, lmdb.ReadersFullError | lmdb.TlsFullError | lmdb.TxnFullError):
        return ResourceExhaustedError(f"too much at once for LMDB ({text})", Reason.LMDB_FULL)
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError):
        return DataLossError(f"LMDB finds its file damaged ({text})", Reason.LMDB_CORRUPTED)
    if isinstance(error, lmdb.VersionMismatchError | lmdb.IncompatibleError):
        return FailedPreconditionError(
            f"written by another version of LMDB ({text})", Reason.LMDB_VERSION
        )
    if isinstance(error, lmdb.PanicError):
        return UnavailableError(
            f"the store stopped after an I/O error and is being opened again ({text})", Reason.PANIC
        )
    if _says(error, (errno.ENOENT,)):
        return NotFoundError(f"there is no store ({text})", Reason.STORE_MISSING)
    if isinstance(error, OSError) or _says(error, (errno.EIO,)):
        return UnavailableError(f"I/O error, nothing was written ({text})", Reason.IO_ERROR)
    return InternalError(f"unexpected LMDB error ({type(error).__name__}: {text})", Reason.LMDB)


def disk_full(text: str) -> ResourceExhaustedError:
    """A write that found no room."""
    return ResourceExhaustedError(
        f"the disk is full, nothing was written ({text})", Reason.DISK_FULL
    )


def _says(error: Exception, numbers: tuple[int, ...]) -> bool:
    """True if the error is one of the system's with one of these numbers, of which LMDB's own
    exceptions keep only the text."""
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(os.strerror(number) in str(error) for number in numbers)
