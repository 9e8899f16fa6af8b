"""The system's errors with files as ours, for the engine's files and for those of a client."""

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
    """The system's errors with files as ours. That something is not there passes, where callers
    know better, or is NO_FOLDER if ``missing``."""
    try:
        yield
    except VecdbError:
        raise  # A DeadlineExceededError is a TimeoutError, and so one of the system's too.
    except (FileNotFoundError, NotADirectoryError) as error:
        if not missing:
            raise
        raise NotFoundError(
            f"there is no such folder ({what}: {error})", Reason.NO_FOLDER
        ) from error
    except OSError as error:
        text = f"{what}: {error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceExhaustedError(f"the disk is full ({text})", Reason.DISK_FULL) from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ResourceExhaustedError(f"too many open files ({text})", Reason.FILES) from error
        if error.errno == errno.ENOMEM:
            raise ResourceExhaustedError(f"out of memory ({text})", Reason.OUT_OF_MEMORY) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise FailedPreconditionError(f"not allowed ({text})", Reason.PERMISSION) from error
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InvalidArgumentError(f"this is no path: {text}", Reason.BAD_PATH) from error
        raise UnavailableError(f"I/O error ({text})", Reason.IO_ERROR) from error
