"""Sidecars of a vector file (ids, metadata), and helpers that all readers share.

Ids are text (one per line), an .npy of text or integers, or a JSON list. Metadata are JSON Lines,
one object per row; an empty line or null means none. Suffixes match in any case, and all but .npy
may be compressed: X.ids.txt.gz. A byte order mark and empty last lines are ignored.

A bad entry is returned as an error in its place: the reader decides whether it raises the error or
skips the row.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from vecdb import json_objects
from vecdb.errors import InvalidArgumentError
from vecdb.json_objects import NotJsonError
from vecdb.reasons import Reason

__all__ = [
    "LINE_BYTES_MAX",
    "READ_BYTES",
    "base_name",
    "beside",
    "check_count",
    "count_lines",
    "decoded",
    "id_source",
    "is_compressed",
    "lines_of",
    "mapped",
    "metadata_source",
    "open_bytes",
    "suffix_of",
    "without_bom",
    "wrong",
]

READ_BYTES = 1024**2
"""Size of one read."""

LINE_BYTES_MAX = 1024**2
"""A longer line is an error, since a binary file may be one endless line. A row of the largest
dimension or the largest metadata, every character escaped, takes less than half of it."""

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"


def suffix_of(path: Path) -> str:
    """Return the suffix without compression, in lower case: ".vec" of "Words.VEC.gz"."""
    return _plain(path).suffix.lower()


def base_name(path: Path) -> str:
    """Return the name without its suffixes: "Words" of "Words.VEC.gz"."""
    return _plain(path).stem


def is_compressed(path: Path) -> bool:
    """Return whether the name ends with .gz."""
    return path.suffix.lower() == ".gz"


def _plain(path: Path) -> Path:
    return path.with_suffix("") if is_compressed(path) else path


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; decompress it if its name ends with .gz.

    Raises:
        InvalidArgumentError: not a complete gzip file; also raised by later reads.
        OSError: the file can't be read.
    """
    with path.open("rb", buffering=READ_BYTES) as raw:
        if not is_compressed(path):
            yield raw
            return
        with _Unpacked(path, raw) as stream:
            yield cast(IO[bytes], stream)


class _Unpacked(gzip.GzipFile):
    """A compressed file that raises our errors."""

    def __init__(self, path: Path, raw: IO[bytes]) -> None:
        super().__init__(fileobj=raw)
        self._path = path

    def read(self, size: int | None = -1) -> bytes:
        with self._errors_translated():
            return super().read(size)

    def readline(self, size: int | None = -1) -> bytes:
        with self._errors_translated():
            return super().readline(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._errors_translated():
            return super().seek(offset, whence)

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise wrong(self._path, f"not a whole gzip file: {error}") from None


def without_bom(line: bytes) -> bytes:
    """Return the first line of a text without its byte order mark."""
    return line.removeprefix(_BOM)


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a text without their ends; a line that is too long is an error."""
    with open_bytes(path) as stream:
        number = 0
        while line := stream.readline(LINE_BYTES_MAX):
            number += 1
            if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
                raise wrong(path, f"line {number} is longer than {LINE_BYTES_MAX:,} bytes")
            yield (without_bom(line) if number == 1 else line).rstrip(b"\r\n")


def count_lines(path: Path) -> tuple[int, int]:
    """Return the number of lines up to the last non-blank one, and of all lines."""
    full = ended = 0
    last = b"\n"
    with open_bytes(path) as stream:
        while chunk := stream.read(READ_BYTES):
            if text := chunk.rstrip(_BLANK):
                full = ended + text.count(b"\n") + 1
            ended += chunk.count(b"\n")
            last = chunk[-1:]
    return full, ended + (last != b"\n")


def id_source(path: Path) -> tuple[Callable[[], Iterator[Any]], int]:
    """Return a function that iterates over the ids (str, int, or an error), and their number."""
    kind = suffix_of(path)
    if kind == ".txt":
        return lambda: _text_ids(path), count_lines(path)[0]
    if kind == ".npy" and not is_compressed(path):
        array = mapped(path)
        if array.ndim != 1 or array.dtype.kind not in "iuU":
            raise wrong(
                path, f"expected text or integers with 1 axis, got {array.dtype} with {array.ndim}"
            )
        return lambda: _array_items(array), len(array)
    if kind == ".json":
        with open_bytes(path) as stream:
            text = stream.read()
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise wrong(path, f"not JSON: {error}") from None
        if not isinstance(listed, list):
            raise wrong(path, f"expected a JSON list, got {type(listed).__name__}")
        return lambda: iter(listed), len(listed)
    raise wrong(path, "ids must be .txt, .npy or .json")


def _array_items(array: npt.NDArray[Any]) -> Iterator[Any]:
    """Yield items as str or int, in pages, as the array is mapped."""
    for first in range(0, len(array), 4096):
        yield from array[first : first + 4096].tolist()


def _text_ids(path: Path) -> Iterator[str | InvalidArgumentError]:
    for number, line in enumerate(lines_of(path), 1):
        yield decoded(path, f"line {number}", line)


def metadata_source(path: Path) -> Iterator[dict[str, Any] | InvalidArgumentError | None]:
    """Yield the metadata of each row, or an error in its place."""
    for number, line in enumerate(lines_of(path), 1):
        yield _metadata_entry(path, number, line) if line.strip() else None


def _metadata_entry(
    path: Path, number: int, line: bytes
) -> dict[str, Any] | InvalidArgumentError | None:
    try:
        entry = json_objects.decode(line)
    except (NotJsonError, RecursionError) as error:
        return wrong(path, f"line {number}: not JSON: {error}")
    if entry is not None and not isinstance(entry, dict):
        got = type(entry).__name__
        return wrong(path, f"line {number}: expected a JSON object, got {got}")
    return entry


def mapped(path: Path) -> npt.NDArray[Any]:
    """Map an .npy file read-only."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        # Any type: a header that is not Python text raises the errors of Python's tokenizer. The
        # message says what is wrong: no magic, a pickle, or fewer bytes than the shape needs.
        raise wrong(path, f"not a readable .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise wrong(path, "not a .npy file but an archive")
    return np.asarray(array)


def decoded(path: Path, place: str, raw: bytes) -> str | InvalidArgumentError:
    """Return an id as text, or the error with the reason and the place."""
    if not raw:
        return wrong(path, f"{place}: the id is empty")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return wrong(path, f"{place}: {raw[:40]!r} is not UTF-8: {error.reason}")


def beside(path: Path, *endings: str) -> Path | None:
    """Return the first sidecar of ``path`` with one of the endings, compressed or not."""
    name = base_name(path)
    found = (path.with_name(name + each + gz) for each in endings for gz in ("", ".gz"))
    return next((candidate for candidate in found if candidate.exists()), None)


def check_count(path: Path, count: int, vectors: Path, rows: int) -> None:
    """Check that there is one entry per row."""
    if count != rows:
        raise wrong(path, f"expected {rows} entries, one for each row of {vectors}, got {count}")


def wrong(path: Path, what: str) -> InvalidArgumentError:
    """Return the error for a file, with its name and the defect."""
    return InvalidArgumentError(f"{path}: {what}", Reason.BAD_FILE)
