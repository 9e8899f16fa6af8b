"""What lies beside a file of vectors (its ids, its metadata) and what all readers of files share.

Ids come as text (one a line), as an .npy of text or integers, or as a JSON list; metadata as JSON
Lines, an object a row, where an empty line or null stands for none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb import json_objects
from vecdb.errors import InvalidArgumentError
from vecdb.json_objects import NotJsonError

__all__ = [
    "READ_BYTES",
    "beside",
    "check_count",
    "count_lines",
    "decoded",
    "id_source",
    "mapped",
    "metadata_lines",
    "wrong",
]

READ_BYTES = 1024**2
"""Files are read in pieces of this size."""


def id_source(path: Path) -> tuple[Callable[[], Iterator[Any]], int]:
    """How to iterate over a file of ids, and how many there are."""
    if path.suffix == ".txt":
        return lambda: _text_lines(path), count_lines(path)
    if path.suffix == ".npy":
        array = mapped(path)
        if array.ndim != 1 or array.dtype.kind not in "iuU":
            raise wrong(
                path, f"expected text or integers with 1 axis, got {array.dtype} with {array.ndim}"
            )
        return lambda: _array_items(array), len(array)
    if path.suffix == ".json":
        try:
            listed = json.loads(path.read_bytes())
        except ValueError as error:
            raise wrong(path, f"not JSON: {error}") from None
        if not isinstance(listed, list):
            raise wrong(path, f"expected a JSON list, got {type(listed).__name__}")
        return lambda: iter(listed), len(listed)
    raise wrong(path, "ids must be .txt, .npy or .json")


def _array_items(array: npt.NDArray[Any]) -> Iterator[Any]:
    """As str or int, a page at a time since the array is mapped."""
    for first in range(0, len(array), 4096):
        yield from array[first : first + 4096].tolist()


def _text_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            yield decoded(path, f"line {number}", line.rstrip(b"\r\n"))


def metadata_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Each row's metadata."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                yield None
                continue
            try:
                entry = json_objects.decode(line)
            except (NotJsonError, RecursionError) as error:
                raise wrong(path, f"line {number}: not JSON: {error}") from None
            if entry is not None and not isinstance(entry, dict):
                got = type(entry).__name__
                raise wrong(path, f"line {number}: expected a JSON object, got {got}")
            yield entry


def mapped(path: Path) -> npt.NDArray[Any]:
    """An .npy file, mapped read-only."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        # numpy says what: no magic, a pickle, or fewer bytes than the header's shape needs.
        raise wrong(path, f"not a readable .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise wrong(path, "not a .npy file but an archive")
    return np.asarray(array)


def count_lines(path: Path) -> int:
    """Lines of a file, with a last one that has no newline."""
    count, last = 0, b"\n"
    with path.open("rb") as stream:
        while chunk := stream.read(READ_BYTES):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def decoded(path: Path, place: str, raw: bytes) -> str:
    """An id as text; ``place`` is said if it is none."""
    if not raw:
        raise wrong(path, f"{place}: the id is empty")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise wrong(path, f"{place}: {raw[:40]!r} is not UTF-8: {error.reason}") from None


def beside(path: Path, *endings: str) -> Path | None:
    """The first file that lies beside ``path`` with another ending."""
    found = (path.with_name(path.stem + ending) for ending in endings)
    return next((candidate for candidate in found if candidate.exists()), None)


def check_count(path: Path, count: int, vectors: Path, rows: int) -> None:
    """One entry a row."""
    if count != rows:
        raise wrong(path, f"expected {rows} entries, one for each row of {vectors}, got {count}")


def wrong(path: Path, what: str) -> InvalidArgumentError:
    """The error for a file: its name and what is wrong with it."""
    return InvalidArgumentError(f"{path}: {what}", "BAD_FILE")
