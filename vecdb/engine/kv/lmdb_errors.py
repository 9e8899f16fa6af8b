"""Translation of LMDB's errors to errors of vecdb."""

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
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    VecdbError,
)
from vecdb.reasons import Reason

__all__ = ["disk_full", "in_doubt", "located", "raise_translated", "translated", "translation"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Translate LMDB's errors raised in the block, and add the folder to a DataLossError."""
    try:
        yield
    except Exception as error:
        raise_translated(error, folder)
        raise


def raise_translated(error: BaseException, folder: Path) -> None:
    """Raise the translation if the error is LMDB's; add the folder to a DataLossError."""
    if isinstance(error, lmdb.Error):
        raise translation(error, folder) from error
    if isinstance(error, DataLossError):
        _locate(error, folder)


@contextlib.contextmanager
def located(folder: Path) -> Iterator[None]:
    """Add the folder to the message of a DataLossError raised in the block, since the code that
    finds the damage does not know the folder."""
    try:
        yield
    except DataLossError as error:
        _locate(error, folder)
        raise


def _locate(error: DataLossError, folder: Path) -> None:
    if str(folder) not in error.message:
        error.message += f" ({folder})"


def translation(error: Exception, folder: Path | str) -> VecdbError:
    """Return the error of vecdb for an error of LMDB; the only table of this translation."""
    text = f"{folder}: {error}"
    if "already open in this process" in str(error):
        return UnavailableError(
            f"the store is still being closed; retry ({text})", Reason.STORE_LOCKED
        )
    if isinstance(error, lmdb.DiskError) or _has_errno(error, _FULL):
        return disk_full(text)
    if _has_errno(error, _FORBIDDEN):
        return FailedPreconditionError(
            f"permission denied, nothing was written ({text})", Reason.PERMISSION
        )
    if _has_errno(error, (errno.EMFILE, errno.ENFILE)):
        return ResourceExhaustedError(f"too many open files ({text})", Reason.FILES)
    if isinstance(error, lmdb.MemoryError) or _has_errno(error, (errno.ENOMEM,)):
        return ResourceExhaustedError(
            f"out of memory or address space ({text})", Reason.OUT_OF_MEMORY
        )
    if isinstance(error, lmdb.ReadersFullError | lmdb.TlsFullError | lmdb.TxnFullError):
        return ResourceExhaustedError(f"a limit of LMDB is reached ({text})", Reason.LMDB_FULL)
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError):
        return DataLossError(f"LMDB reports a damaged file ({text})", Reason.LMDB_CORRUPTED)
    if isinstance(error, lmdb.VersionMismatchError | lmdb.IncompatibleError):
        return FailedPreconditionError(
            f"written by another version of LMDB ({text})", Reason.LMDB_VERSION
        )
    if isinstance(error, lmdb.PanicError):
        return UnavailableError(
            f"the store stopped after an I/O error and is being reopened ({text})", Reason.PANIC
        )
    if _has_errno(error, (errno.ENOENT,)):
        return NotFoundError(f"the store does not exist ({text})", Reason.STORE_MISSING)
    if isinstance(error, OSError) or _has_errno(error, (errno.EIO,)):
        return UnavailableError(f"I/O error, nothing was written ({text})", Reason.IO_ERROR)
    return InternalError(f"unexpected LMDB error ({type(error).__name__}: {text})", Reason.LMDB)


def disk_full(text: str) -> ResourceExhaustedError:
    """Return the error for a write that failed for lack of space."""
    return ResourceExhaustedError(
        f"the disk is full, nothing was written ({text})", Reason.DISK_FULL
    )


def in_doubt(error: Exception, folder: Path) -> OutcomeUnknownError:
    """Return the error for a commit that failed while its last step was under way."""
    return OutcomeUnknownError(
        f"the commit in {folder} failed ({error}): the batch was written as a whole or not at all; "
        "read to find out",
        Reason.OUTCOME_UNKNOWN,
    )


def _has_errno(error: Exception, numbers: tuple[int, ...]) -> bool:
    """Return whether the error is a system error with one of these numbers. Exceptions of LMDB
    contain only the text of a system error, not its number."""
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(os.strerror(number) in str(error) for number in numbers)
