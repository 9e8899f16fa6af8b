"""A file from elsewhere, read piece by piece with every size compared before anything is allocated.

A count in the file may promise terabytes, and any byte may be anything. So each piece is bounded by
what the file still holds, and what is wrong is told with the file, the byte and the field. Pieces
are read rather than mapped: a file that is cut while it is read is an error then, not a signal.
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
        path, size: where it is, and its bytes when it was opened.
        called: what messages call it.
        position: where the next field begins.
    """

    def __init__(self, path: str | os.PathLike[str], called: str | None = None) -> None:
        """Open a regular file.

        Args:
            called: what messages call it, None for its path.

        Raises:
            NotFoundError: NO_FILE.
            InvalidArgumentError: BAD_FILE: a folder, a pipe, a device.
        """
        self.path = Path(path)
        self.called = called or str(path)
        descriptor = open_regular(self.path, self.called)
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self.size = os.fstat(descriptor).st_size
        self.position = 0

    def close(self) -> None:
        """Close it; twice is fine."""
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
        """Bytes behind the position."""
        return self.size - self.position

    def take(self, form: struct.Struct, field: str) -> tuple[Any, ...]:
        """The next field of fixed size, unpacked."""
        return form.unpack(self.read(self.skip(1, form.size, field), form.size, field))

    def skip(self, count: int, item_bytes: int, field: str) -> int:
        """Go past so many items; where they begin. Nothing is read."""
        start, needed = self.position, count * item_bytes
        if needed > self.left:
            raise self.wrong(
                start, field, f"needs {needed} bytes, but the file has only {self.left} more"
            )
        self.position += needed
        return start

    def read(self, start: int, count: int, field: str) -> bytearray:
        """So many bytes from a place that is known to lie within the file."""
        out = bytearray(count)
        self.read_into(start, memoryview(out), field)
        return out

    def array(self, start: int, dtype: str, count: int, field: str) -> npt.NDArray[Any]:
        """So many numbers from a place that is known to lie within the file."""
        kind = np.dtype(dtype)
        return np.frombuffer(self.read(start, count * kind.itemsize, field), kind)

    def read_into(self, start: int, out: memoryview, field: str) -> None:
        """Fill a buffer of bytes."""
        filled = 0
        while filled < len(out):
            got = os.preadv(self._file.fileno(), [out[filled:]], start + filled)
            if got == 0:
                raise self.wrong(start + filled, field, "the file ends here, it has become shorter")
            filled += got

    def check_end(self) -> None:
        """Nothing may follow."""
        if self.left:
            raise self.wrong(self.position, "end", f"{self.left} bytes follow the last field")

    def wrong(self, offset: int, field: str, what: str) -> InvalidArgumentError:
        """The error for what is wrong at a byte."""
        return InvalidArgumentError(
            f"{self.called}: byte {offset}, {field}: {what}", Reason.BAD_FILE
        )
