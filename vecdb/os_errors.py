"""Translation of OSError to the errors of vecdb, for the engine's files and those of a client."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from vecdb.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    VecdbError,
)
from vecdb.reasons import Reason

__all__ = ["os_errors_translated"]


@contextlib.contextmanager
def os_errors_translated(what: str, *, missing: bool = False) -> Iterator[None]:
    """Translate OSError raised in the block to errors of vecdb.

    Args:
        what: prefix of the message.
        missing: translate FileNotFoundError and NotADirectoryError to NO_FOLDER. Without it they
            pass unchanged, for callers that handle them.

    Raises:
        NotFoundError: NO_FOLDER, if ``missing``.
        ResourceExhaustedError: DISK_FULL, FILES, OUT_OF_MEMORY.
        FailedPreconditionError: PERMISSION.
        InvalidArgumentError: BAD_PATH.
        UnavailableError: IO_ERROR, any other OSError.
    """
    try:
        yield
    except VecdbError:
        raise  # DeadlineExceededError is a TimeoutError and so an OSError: keep it as it is.
    except (FileNotFoundError, NotADirectoryError) as error:
        if not missing:
            raise
        raise NotFoundError(f"folder does not exist ({what}: {error})", Reason.NO_FOLDER) from error
    except OSError as error:
        text = f"{what}: {error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceExhaustedError(f"the disk is full ({text})", Reason.DISK_FULL) from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ResourceExhaustedError(f"too many open files ({text})", Reason.FILES) from error
        if error.errno == errno.ENOMEM:
            raise ResourceExhaustedError(f"out of memory ({text})", Reason.OUT_OF_MEMORY) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise FailedPreconditionError(
                f"permission denied ({text})", Reason.PERMISSION
            ) from error
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InvalidArgumentError(f"invalid path ({text})", Reason.BAD_PATH) from error
        raise UnavailableError(f"I/O error ({text})", Reason.IO_ERROR) from error
