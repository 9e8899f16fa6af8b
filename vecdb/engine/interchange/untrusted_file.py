"""Reads an untrusted file field by field; every size is checked before memory is allocated.

A count in the file may claim terabytes, and any byte may have any value. So each read is bounded by
the remaining size of the file, and errors name the file, the byte and the field. The file is read
instead of mapped: if it is truncated during the import, that is an error and not a SIGBUS.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vecdb.errors import InvalidArgumentError
from vecdb.import_files import open_regular
from vecdb.reasons import Reason

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["UntrustedFile"]


class UntrustedFile:
    """An open file with a position. For one thread at a time; a context manager.

    Attributes:
        path: the file. size: its bytes when it was opened.
        called: name of the file in messages.
        position: byte offset of the next field.
    """

    def __init__(self, path: str | os.PathLike[str], called: str | None = None) -> None:
        """Open a regular file.

        Args:
            called: name of the file in messages; default: its path.

        Raises:
            NotFoundError: NO_FILE.
            InvalidArgumentError: BAD_FILE: not a regular file (a folder, pipe or device).
        """
        self.path = Path(path)
        self.called = called or str(path)
        descriptor = open_regular(self.path, self.called)
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self.size = os.fstat(descriptor).st_size
        self.position = 0

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def left(self) -> int:
        """Bytes after the position."""
        return self.size - self.position

    def take(self, form: struct.Struct, field: str) -> tuple[Any, ...]:
        """Read and unpack the next field of fixed size."""
        return form.unpack(self.read(self.skip(1, form.size, field), form.size, field))

    def skip(self, count: int, item_bytes: int, field: str) -> int:
        """Skip ``count`` items without reading them; return the byte offset of the first."""
        start, needed = self.position, count * item_bytes
        if needed > self.left:
            raise self.wrong(
                start, field, f"needs {needed} bytes, but the file has only {self.left} more"
            )
        self.position += needed
        return start

    def read(self, start: int, count: int, field: str) -> bytearray:
        """Read ``count`` bytes; the range must have been checked by ``skip``."""
        out = bytearray(count)
        self.read_into(start, memoryview(out), field)
        return out

    def array(self, start: int, dtype: str, count: int, field: str) -> npt.NDArray[Any]:
        """Read ``count`` numbers; the range must have been checked by ``skip``."""
        kind = np.dtype(dtype)
        return np.frombuffer(self.read(start, count * kind.itemsize, field), kind)

    def read_into(self, start: int, out: memoryview, field: str) -> None:
        """Fill a buffer with bytes from ``start``."""
        filled = 0
        while filled < len(out):
            got = os.preadv(self._file.fileno(), [out[filled:]], start + filled)
            if got == 0:
                raise self.wrong(start + filled, field, "the file was truncated while being read")
            filled += got

    def check_end(self) -> None:
        """Raise if bytes follow the position."""
        if self.left:
            raise self.wrong(self.position, "end", f"{self.left} bytes follow the last field")

    def wrong(self, offset: int, field: str, what: str) -> InvalidArgumentError:
        """Return the error for an invalid field at a byte."""
        return InvalidArgumentError(
            f"{self.called}: byte {offset}, {field}: {what}", Reason.BAD_FILE
        )
