"""Readers of files of vectors: .npy matrices and the word vectors of word2vec, fastText and GloVe.

    file = open_vectors("cc.en.300.vec")
    file.dim, file.rows                       # 300, 2000000
    for block in file.blocks(20_000):         # ids, float32 (n, dim), metadata or None
        ...

    X.npy        a matrix (n, dim) of numbers, memory-mapped. Ids lie beside it in X.ids.txt (one
                 a line), X.ids.npy (text or integers) or X.ids.json (a list); without, they are
                 the row numbers.
    X.vec X.txt  text, a row a line: a word, a space, dim numbers. word2vec and fastText write a
                 first line "rows dim", GloVe none. A word may hold spaces: the last dim fields
                 are the row.
    X.bin        word2vec's binary: a line "rows dim", then for each row a word, a space, dim
                 little-endian float32, and perhaps a newline.

Metadata may lie beside each in X.metadata.jsonl: a JSON object a row, or an empty line for none.

Files are read in blocks, so that memory is bounded by a block whatever the file's size. What can be
known about a file's shape is checked before its first row is given out; what is wrong further down
is reported with its line or byte offset. NaN and infinity are numbers here; the engine refuses
them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb_server.sidecars import (
    READ_BYTES,
    beside,
    check_count,
    count_lines,
    decoded,
    id_source,
    mapped,
    metadata_lines,
    wrong,
)

__all__ = ["Block", "VectorFile", "open_vectors"]

Vectors = npt.NDArray[np.float32]
_FIRST_LINES = 10
"""Lines of a text file without a header that are looked at to find its dimension."""

_FASTTEXT_MODEL = (793_712_314).to_bytes(4, "little")


class Block(NamedTuple):
    """Consecutive rows of a file.

    Attributes:
        ids: list of str, or of int from an array of integers.
        vectors: float32, shape (len(ids), dim), C order.
        metadata: a dict or None a row; None if there is no file of metadata.
    """

    ids: list[Any]
    vectors: Vectors
    metadata: list[dict[str, Any] | None] | None


class VectorFile(ABC):
    """A file of vectors; made by ``open_vectors``.

    Attributes:
        path: the file. dim: components of a row. rows: how many it holds.
    """

    def __init__(self, path: Path, metadata: Path | None) -> None:
        self.path = path
        self.dim = 0
        self.rows = 0
        self._metadata = metadata

    def blocks(self, block_rows: int, limit: int | None = None) -> Iterator[Block]:
        """The rows in order, ``block_rows`` at a time, at most ``limit`` altogether.

        Raises:
            InvalidArgumentError: the file is not what it should be; names file and place.
        """
        left = self.rows if limit is None else min(limit, self.rows)
        metadata = None if self._metadata is None else metadata_lines(self._metadata)
        # A whole file is read to its end, so that what is left over there is noticed.
        for ids, vectors in self._pairs(block_rows):
            if len(ids) > left:
                ids, vectors = ids[:left], vectors[:left]
            if ids:
                found = None if metadata is None else list(islice(metadata, len(ids)))
                yield Block(ids, vectors, found)
            left -= len(ids)
            if left == 0 and limit is not None:
                return

    def _check_metadata_count(self) -> None:
        if self._metadata is not None:
            check_count(self._metadata, count_lines(self._metadata), self.path, self.rows)

    @abstractmethod
    def _pairs(self, block_rows: int) -> Iterator[tuple[list[Any], Vectors]]:
        """Ids and vectors of all rows, ``block_rows`` at a time."""


def open_vectors(
    path: str | os.PathLike[str],
    ids: str | os.PathLike[str] | None = None,
    metadata: str | os.PathLike[str] | None = None,
) -> VectorFile:
    """The file's reader, by its suffix; header, size and the counts beside it are checked.

    Args:
        path: .npy, .vec, .txt or .bin.
        ids: .txt, .npy or .json beside an .npy; None for the one of the usual name, if it is there.
        metadata: JSON Lines; None for the one of the usual name, if it is there.

    Raises:
        InvalidArgumentError: not such a file, or files whose lengths differ.
        OSError: it can't be read.
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise wrong(path, f"the name must end with one of {', '.join(_READERS)}")
    if path.suffix == ".npy":
        ids = ids or beside(path, ".ids.txt", ".ids.npy", ".ids.json")
    elif ids is not None:
        raise InvalidArgumentError(f"{path} holds its words itself; ids go with .npy files only")
    metadata = metadata or beside(path, ".metadata.jsonl")
    return _READERS[path.suffix](
        path, None if ids is None else Path(ids), None if metadata is None else Path(metadata)
    )


class _NpyFile(VectorFile):
    """A mapped matrix; a block is the only part of it that is copied."""

    def __init__(self, path: Path, ids: Path | None, metadata: Path | None) -> None:
        super().__init__(path, metadata)
        self._matrix = mapped(path)
        if self._matrix.ndim != 2 or self._matrix.dtype.kind not in "fiu":
            raise wrong(
                path,
                "expected a matrix of numbers with 2 axes, got "
                f"{self._matrix.dtype} with {self._matrix.ndim}",
            )
        self.rows, self.dim = self._matrix.shape
        _check_dim(path, self.dim)
        self._ids: Callable[[], Iterator[Any]] = lambda: iter(range(self.rows))
        if ids is not None:
            self._ids, count = id_source(ids)
            check_count(ids, count, path, self.rows)
        self._check_metadata_count()

    def _pairs(self, block_rows: int) -> Iterator[tuple[list[Any], Vectors]]:
        ids = self._ids()
        for first in range(0, self.rows, block_rows):
            part = self._matrix[first : first + block_rows]
            with np.errstate(over="ignore"):
                vectors = np.ascontiguousarray(part, dtype=np.float32)
            yield list(islice(ids, len(vectors))), vectors


class _TextFile(VectorFile):
    """Lines of a word and numbers, with or without a header."""

    def __init__(self, path: Path, ids: Path | None, metadata: Path | None) -> None:
        super().__init__(path, metadata)
        with path.open("rb") as stream:
            # Bounded, as a binary file may be one endless line.
            first = [line for _ in range(_FIRST_LINES) if (line := stream.readline(READ_BYTES))]
        header = _header(first[0]) if first else None
        self._header_lines = 0 if header is None else 1
        if header is not None:
            self.rows, self.dim = header
        elif not first:
            raise wrong(path, "the file is empty")
        else:
            # Words with spaces have more fields, so the shortest line shows the dimension.
            self.dim = min(len(_stripped(line).split(b" ")) for line in first) - 1
            self.rows = count_lines(path)
        _check_dim(path, self.dim)
        self._check_metadata_count()

    def _pairs(self, block_rows: int) -> Iterator[tuple[list[Any], Vectors]]:
        found = 0
        with self.path.open("rb", buffering=READ_BYTES) as stream:
            for _ in range(self._header_lines):
                stream.readline()
            while lines := list(islice(stream, block_rows)):
                first_line = found + self._header_lines + 1
                if found + len(lines) > self.rows:
                    place = f"line {self.rows + self._header_lines + 1}"
                    raise wrong(self.path, f"{place}: the header says {self.rows} rows, got more")
                found += len(lines)
                yield self._parsed(lines, first_line)
        if found != self.rows:
            raise wrong(self.path, f"the header says {self.rows} rows, got {found}")

    def _parsed(self, lines: list[bytes], first_line: int) -> tuple[list[Any], Vectors]:
        """All lines at once; only if that fails the line at fault is looked for."""
        split = [_stripped(line).rsplit(b" ", self.dim) for line in lines]
        try:
            if any(len(fields) != self.dim + 1 or b" " in fields[0] for fields in split):
                raise ValueError
            numbers = map(float, chain.from_iterable(fields[1:] for fields in split))
            flat = np.fromiter(numbers, dtype=np.float64, count=len(lines) * self.dim)
            words = [fields[0].decode() for fields in split]
            if "" in words:
                raise ValueError
        except ValueError:
            return self._parsed_slowly(split, first_line)
        return words, _float32(flat).reshape(-1, self.dim)

    def _parsed_slowly(
        self, split: list[list[bytes]], first_line: int
    ) -> tuple[list[Any], Vectors]:
        """Line by line, for blocks with words that hold spaces, or with an error."""
        words, rows = [], np.empty((len(split), self.dim), dtype=np.float64)
        for row, fields in enumerate(split):
            place = f"line {first_line + row}"
            if len(fields) != self.dim + 1:
                raise wrong(
                    self.path,
                    f"{place}: expected a word and {self.dim} numbers, got {len(fields)} fields",
                )
            # A word may hold spaces, but one that ends with a number is a row of another length.
            if _is_number(fields[0].rpartition(b" ")[2]) and b" " in fields[0]:
                raise wrong(
                    self.path, f"{place}: expected a word and {self.dim} numbers, got more numbers"
                )
            words.append(decoded(self.path, place, fields[0]))
            bad = next((field for field in fields[1:] if not _is_number(field)), None)
            if bad is not None:
                raise wrong(self.path, f"{place}: {bad[:40]!r} is not a number")
            rows[row] = [float(field) for field in fields[1:]]
        return words, _float32(rows)


class _BinFile(VectorFile):
    """word2vec's binary format, as word2vec.c and gensim write it."""

    def __init__(self, path: Path, ids: Path | None, metadata: Path | None) -> None:
        super().__init__(path, metadata)
        with path.open("rb") as stream:
            line = stream.readline(100)
        header = _header(line)
        if line.startswith(_FASTTEXT_MODEL):
            raise wrong(path, "this is a model of fastText; load the .vec file that lies beside it")
        if header is None:
            raise wrong(path, 'the first line must be "rows dim"')
        self.rows, self.dim = header
        _check_dim(path, self.dim)
        self._data_start = len(line)
        # The shortest row has a word of one byte and the space behind it.
        least = len(line) + self.rows * (2 + 4 * self.dim)
        if (size := path.stat().st_size) < least:
            raise wrong(
                path, f"truncated: {self.rows} rows need at least {least} bytes, got {size}"
            )
        self._check_metadata_count()

    def _pairs(self, block_rows: int) -> Iterator[tuple[list[Any], Vectors]]:
        with self.path.open("rb") as stream:
            stream.seek(self._data_start)
            window = _Window(self.path, stream, self._data_start)
            for first in range(0, self.rows, block_rows):
                count = min(block_rows, self.rows - first)
                words, parts = [], []
                for row in range(first, first + count):
                    word, part = window.take(row, 4 * self.dim)
                    words.append(word)
                    parts.append(part)
                flat = np.frombuffer(b"".join(parts), dtype="<f4")
                yield words, flat.astype(np.float32, copy=False).reshape(count, self.dim)
            window.check_end()


class _Window:
    """The part of a .bin file that is in memory, with its offset in the file for messages."""

    def __init__(self, path: Path, stream: IO[bytes], offset: int) -> None:
        self._path, self._stream = path, stream
        self._offset = offset
        self._buffer = b""
        self._position = 0

    def take(self, row: int, size: int) -> tuple[str, bytes]:
        """The next word and the bytes of its vector."""
        end_max = limits.ID_BYTES.maximum + 2
        end = self._buffer.find(b" ", self._position, self._position + end_max)
        if end < 0 or end + 1 + size > len(self._buffer):
            self._refill(end_max + size)
            end = self._buffer.find(b" ", self._position, self._position + end_max)
        place = f"row {row} at byte {self._offset + self._position}"
        if end < 0:
            raise wrong(self._path, f"{place}: no word of at most {end_max - 2} bytes and a space")
        if end + 1 + size > len(self._buffer):
            got = len(self._buffer) - end - 1
            raise wrong(self._path, f"{place}: truncated: expected {size} bytes, got {got}")
        raw = self._buffer[self._position : end]
        self._position = end + 1 + size
        word = decoded(self._path, place, raw.removeprefix(b"\n"))
        return word, self._buffer[end + 1 : self._position]

    def check_end(self) -> None:
        """Nothing but a newline may follow the last row."""
        self._refill(2)
        if self._buffer[self._position :] not in (b"", b"\n"):
            place = self._offset + self._position
            raise wrong(self._path, f"byte {place}: more bytes follow the last row of the header")

    def _refill(self, needed: int) -> None:
        """Drop what was taken and read on, until ``needed`` bytes are there or the file ends."""
        parts = [self._buffer[self._position :]]
        self._offset += self._position
        self._position = 0
        while sum(map(len, parts)) < needed and (more := self._stream.read(READ_BYTES)):
            parts.append(more)
        self._buffer = b"".join(parts)


_READERS: dict[str, Callable[[Path, Path | None, Path | None], VectorFile]] = {
    ".npy": _NpyFile,
    ".vec": _TextFile,
    ".txt": _TextFile,
    ".bin": _BinFile,
}


def _header(line: bytes) -> tuple[int, int] | None:
    """Rows and dimension from a first line of exactly two integers; None for any other."""
    fields = line.split()
    if (
        line.endswith(b"\n")
        and len(fields) == 2
        and all(f.isdigit() and len(f) < 19 for f in fields)
    ):
        return int(fields[0]), int(fields[1])
    return None


def _stripped(line: bytes) -> bytes:
    """A line without its end; fastText and word2vec put a space before it."""
    return line.rstrip(b"\r\n").rstrip(b" ")


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _float32(values: npt.NDArray[np.float64]) -> Vectors:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _check_dim(path: Path, dim: int) -> None:
    if not limits.DIM.minimum <= dim <= limits.DIM.maximum:
        raise wrong(path, f"dim must be {limits.DIM.minimum} to {limits.DIM.maximum}, got {dim}")
