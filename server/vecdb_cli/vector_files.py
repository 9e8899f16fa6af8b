"""Readers of vector files: .npy matrices and the word vectors of word2vec, fastText and GloVe.

    file = open_vectors("cc.en.300.vec")
    file.dim, file.rows                       # 300, 2000000
    for block in file.blocks(20_000):         # ids, float32 (n, dim), metadata or None
        ...

    X.npy        a matrix (n, dim) of numbers, memory-mapped. Sidecar for ids: X.ids.txt (one per
                 line), X.ids.npy (text or integers) or X.ids.json (a list); without one, the ids
                 are the row numbers.
    X.vec X.txt  text, one row per line: a word, a space, dim numbers (``vector_lines``). word2vec
                 and fastText write a first line "rows dim", GloVe does not.
    X.bin        word2vec's binary: a line "rows dim", then for each row a word, a space, dim
                 little-endian float32, and optionally a newline.

Each may have metadata in the sidecar X.metadata.jsonl: a JSON object per row, or an empty line for
none. Suffixes match in any case, and each file may be compressed (X.vec.gz). A pipe is read once;
its format is given by the caller.

Files are read in blocks, so that memory is bounded by a block for any file size. The shape of a
file is checked before its first row is returned. Later errors name line, row or byte offset. An
error that concerns one row only can be passed to a callback, and the other rows are returned. NaN
and infinity are accepted here; the engine refuses them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb_cli.sidecars import (
    LINE_BYTES_MAX,
    READ_BYTES,
    beside,
    check_count,
    count_lines,
    decoded,
    id_source,
    is_compressed,
    mapped,
    metadata_source,
    open_bytes,
    suffix_of,
    without_bom,
    wrong,
)
from vecdb_cli.vector_lines import dimension_of, header_of, parse_lines

__all__ = ["Block", "OnBad", "VectorFile", "open_vectors"]

Vectors = npt.NDArray[np.float32]
OnBad = Callable[[InvalidArgumentError], None]

_FIRST_LINES = 10
"""Number of lines that determine the dimension of a text file without a header."""

_FASTTEXT_MODEL = (793_712_314).to_bytes(4, "little")


class Block(NamedTuple):
    """Rows of a file, in its order.

    Attributes:
        ids: list of str, or of int from an array of integers.
        vectors: float32, shape (len(ids), dim), C order.
        metadata: a dict or None per row; None if the file has no metadata.
        numbers: row numbers in the file, from 0; bad rows are missing.
    """

    ids: list[Any]
    vectors: Vectors
    metadata: list[dict[str, Any] | None] | None
    numbers: list[int]

    def only(self, rows: list[int]) -> Block:
        """Return a block of these rows, given by their positions in this one."""
        metadata = None if self.metadata is None else [self.metadata[row] for row in rows]
        ids, numbers = [self.ids[row] for row in rows], [self.numbers[row] for row in rows]
        return Block(ids, self.vectors[rows], metadata, numbers)


class VectorFile(ABC):
    """A vector file, as returned by ``open_vectors``.

    Attributes:
        path: the file. dim: components of a row.
        rows: number of rows by header or size; None if it is known only after reading to the end.
        is_pipe: the file can be read only once.
    """

    def __init__(self, path: Path, metadata: Path | None) -> None:
        self.path = path
        self.is_pipe = not path.is_file()
        self.dim = 0
        self.rows: int | None = None
        self._metadata = metadata

    def blocks(
        self, block_rows: int, limit: int | None = None, on_bad: OnBad | None = None
    ) -> Iterator[Block]:
        """Yield the rows in order, at most ``block_rows`` at a time.

        Args:
            limit: maximum number of rows to read.
            on_bad: called with the error of each bad row, which is skipped; None to raise the
                first.

        Raises:
            InvalidArgumentError: the file is malformed; with file and place.
        """
        metadata = None if self._metadata is None else metadata_source(self._metadata)
        first, left = 0, limit
        # Without a limit, read to the end of the file, so that trailing garbage is detected.
        for ids, vectors in self._pairs(block_rows):
            if left is not None and len(ids) > left:
                ids, vectors = ids[:left], vectors[:left]
            found = None if metadata is None else list(islice(metadata, len(ids)))
            if ids:
                block = self._block(first, ids, vectors, found, on_bad)
                if block.ids:
                    yield block
            first += len(ids)
            if left is not None:
                left -= len(ids)
                if left == 0:
                    return
        if metadata is not None and next(filter(None, metadata), None) is not None:
            assert self._metadata is not None
            check_count(self._metadata, count_lines(self._metadata)[0], self.path, first)

    def place(self, number: int) -> str:
        """Return the position of a row, for messages."""
        return f"row {number}"

    def _block(
        self,
        first: int,
        ids: list[Any],
        vectors: Vectors,
        metadata: list[Any] | None,
        on_bad: OnBad | None,
    ) -> Block:
        if metadata is not None and len(metadata) < len(ids):
            assert self._metadata is not None
            what = f"expected an entry for each row of {self.path}, got {first + len(metadata)}"
            raise wrong(self._metadata, what)
        block = Block(ids, vectors, metadata, list(range(first, first + len(ids))))
        bad = {
            row: entry for row, entry in enumerate(ids) if isinstance(entry, InvalidArgumentError)
        }
        for row, entry in enumerate(metadata or ()):
            if isinstance(entry, InvalidArgumentError):
                bad.setdefault(row, entry)
        if not bad:
            return block
        for row in sorted(bad):
            if on_bad is None:
                raise bad[row]
            on_bad(bad[row])
        return block.only([row for row in range(len(ids)) if row not in bad])

    def _check_metadata_count(self) -> None:
        """Check the number of entries; blank last lines may be entries or not."""
        if self._metadata is not None and self.rows is not None:
            full, every = count_lines(self._metadata)
            if not full <= self.rows <= every:
                count = full if self.rows < full else every
                check_count(self._metadata, count, self.path, self.rows)

    @abstractmethod
    def _pairs(self, block_rows: int) -> Iterator[tuple[list[Any], Vectors]]:
        """Yield ids (an error for a bad row) and vectors of all rows, ``block_rows`` at a time."""


def open_vectors(
    path: str | os.PathLike[str],
    ids: str | os.PathLike[str] | None = None,
    metadata: str | os.PathLike[str] | None = None,
    *,
    form: str | None = None,
) -> VectorFile:
    """Open a vector file by its suffix; check its header, its size and the lengths of its sidecars.

    Args:
        path: .npy, .vec, .txt or .bin, each also with .gz appended.
        ids: .txt, .npy or .json for an .npy; None for the sidecar, if there is one.
        metadata: JSON Lines; None for the sidecar, if there is one.
        form: "npy", "vec", "txt" or "bin", for a file without such a suffix.

    Raises:
        InvalidArgumentError: not such a file, or lengths that differ.
        OSError: the file can't be read.
    """
    path = Path(path)
    kind = suffix_of(path) if form is None else f".{form.lower().removeprefix('.')}"
    if kind not in _READERS:
        known = ", ".join(_READERS)
        if form is not None:
            raise InvalidArgumentError(f"the form must be one of {known}, got {form!r}")
        raise wrong(path, f"the name must end with one of {known}, perhaps with .gz behind it")
    if kind == ".npy":
        ids = ids or beside(path, ".ids.txt", ".ids.npy", ".ids.json")
    elif ids is not None:
        raise InvalidArgumentError(f"{path} holds its words itself; ids go with .npy files only")
    metadata = metadata or beside(path, ".metadata.jsonl")
    return _READERS[kind](
        path, None if ids is None else Path(ids), None if metadata is None else Path(metadata)
    )


class _NpyFile(VectorFile):
    """A mapped matrix; only one block at a time is copied."""

    def __init__(self, path: Path, ids: Path | None, metadata: Path | None) -> None:
        super().__init__(path, metadata)
        if self.is_pipe or is_compressed(path):
            self._matrix = _mapped_copy(path)
            self.is_pipe = False
        else:
            self._matrix = mapped(path)
        if self._matrix.ndim != 2 or self._matrix.dtype.kind not in "fiu":
            raise wrong(
                path,
                "expected a matrix of numbers with 2 axes, got "
                f"{self._matrix.dtype} with {self._matrix.ndim}",
            )
        self.rows, self.dim = self._matrix.shape
        _check_dim(path, self.dim)
        self._ids: Callable[[], Iterator[Any]] = lambda: iter(range(len(self._matrix)))
        if ids is not None:
            self._ids, count = id_source(ids)
            check_count(ids, count, path, self.rows)
        self._check_metadata_count()

    def _pairs(self, block_rows: int) -> Iterator[tuple[list[Any], Vectors]]:
        ids = self._ids()
        for first in range(0, len(self._matrix), block_rows):
            part = self._matrix[first : first + block_rows]
            with np.errstate(over="ignore"):
                vectors = np.ascontiguousarray(part, dtype=np.float32)
            yield list(islice(ids, len(vectors))), vectors


def _mapped_copy(path: Path) -> npt.NDArray[Any]:
    """Map a file that can't be mapped directly; its temporary copy is deleted with the mapping."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as copy:
        with open_bytes(path) as stream:
            shutil.copyfileobj(stream, copy, READ_BYTES)
        copy.flush()
        try:
            return mapped(Path(copy.name))
        except InvalidArgumentError as error:
            raise wrong(path, error.message.partition(": ")[2]) from None


class _TextFile(VectorFile):
    """Text lines of a word and numbers, with or without a header."""

    def __init__(self, path: Path, ids: Path | None, metadata: Path | None) -> None:
        super().__init__(path, metadata)
        # A pipe stays open, since it can't be read twice.
        self._open = ExitStack()
        self._lines = self._open.enter_context(_Lines(path))
        try:
            first = [line for line in islice(self._lines, _FIRST_LINES) if line.strip()]
            if not first:
                raise wrong(path, "the file is empty")
            if first[0].startswith((b"\xff\xfe", b"\xfe\xff")):
                raise wrong(path, "this is UTF-16, expected UTF-8")
            header = header_of(first[0])
            self._header_lines = 0 if header is None else 1
            if header is not None:
                self.rows, self.dim = header
            else:
                self.dim = dimension_of(first)
            _check_dim(path, self.dim)
            if not self.is_pipe:
                self._open.close()
                if header is None:
                    self.rows = count_lines(path)[0]
            self._check_metadata_count()
        except BaseException:
            self._open.close()
            raise
        self._says_rows = header is not None

    def place(self, number: int) -> str:
        """Return the line of a row, from 1."""
        return f"line {number + self._header_lines + 1}"

    def _pairs(self, block_rows: int) -> Iterator[tuple[list[Any], Vectors]]:
        if not self.is_pipe:
            self._lines = self._open.enter_context(_Lines(self.path))
        found = 0
        with self._open:
            whole = _without_blank_end(self._lines.from_start())
            for _ in islice(whole, self._header_lines):
                pass
            while lines := list(islice(whole, block_rows)):
                if self._says_rows and found + len(lines) > (self.rows or 0):
                    place = self.place(self.rows or 0)
                    raise wrong(self.path, f"{place}: the header says {self.rows} rows, got more")
                first_line = found + self._header_lines + 1
                words, rows = parse_lines(self.path, lines, first_line, self.dim)
                with np.errstate(over="ignore"):
                    yield words, rows.astype(np.float32)
                found += len(lines)
        if self._says_rows and found != self.rows:
            raise wrong(self.path, f"the header says {self.rows} rows, got {found}")


class _Lines:
    """The lines of a text with their ends; lines that were iterated over can be read again. A
    context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = ExitStack()
        self._first: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        while line := self._next():
            self._first.append(line)
            yield line

    def from_start(self) -> Iterator[bytes]:
        """Iterate from the first line, also after ``__iter__`` has returned some."""
        return chain(self._first, iter(self._next, b""))

    def _next(self) -> bytes:
        line = self._stream.readline(LINE_BYTES_MAX)
        self._number += 1
        if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
            what = f"line {self._number} is longer than {LINE_BYTES_MAX:,} bytes"
            raise wrong(self._path, what)
        return without_bom(line) if self._number == 1 else line

    def __enter__(self) -> _Lines:
        self._stream = self._open.enter_context(open_bytes(self._path))
        self._number = 0
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.__exit__(*exception)


def _without_blank_end(lines: Iterator[bytes]) -> Iterator[bytes]:
    blank: list[bytes] = []
    for line in lines:
        if not line.strip():
            blank.append(line)
            continue
        if blank:
            yield from blank
            blank = []
        yield line


class _BinFile(VectorFile):
    """word2vec's binary format, as word2vec.c and gensim write it."""

    def __init__(self, path: Path, ids: Path | None, metadata: Path | None) -> None:
        super().__init__(path, metadata)
        self._open = ExitStack()
        self._stream = self._open.enter_context(open_bytes(path))
        try:
            self._read_header()
            self._check_metadata_count()
            if not self.is_pipe:
                self._open.close()
        except BaseException:
            self._open.close()
            raise

    def _read_header(self) -> None:
        line = self._stream.readline(100)
        header = header_of(line)
        if line.startswith(_FASTTEXT_MODEL):
            what = "this is a fastText model; load its .vec file instead"
            raise wrong(self.path, what)
        if header is None:
            raise wrong(self.path, 'the first line must be "rows dim"')
        self.rows, self.dim = header
        _check_dim(self.path, self.dim)
        self._data_start = len(line)
        if self.is_pipe or is_compressed(self.path):
            return
        # The shortest row has a word of one byte, followed by a space.
        least = len(line) + self.rows * (2 + 4 * self.dim)
        if (size := self.path.stat().st_size) < least:
            what = f"truncated: {self.rows} rows need at least {least} bytes, got {size}"
            raise wrong(self.path, what)

    def _pairs(self, block_rows: int) -> Iterator[tuple[list[Any], Vectors]]:
        assert self.rows is not None
        if not self.is_pipe:
            self._stream = self._open.enter_context(open_bytes(self.path))
            self._stream.seek(self._data_start)
        with self._open:
            window = _Window(self.path, self._stream, self._data_start)
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
    """The part of a .bin file that is in memory; its offset in the file is for messages."""

    def __init__(self, path: Path, stream: IO[bytes], offset: int) -> None:
        self._path, self._stream = path, stream
        self._offset = offset
        self._buffer = b""
        self._position = 0

    def take(self, row: int, size: int) -> tuple[str | InvalidArgumentError, bytes]:
        """Return the next word (or its error) and the bytes of its vector."""
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
        """Check that at most a newline follows the last row."""
        self._refill(2)
        if self._buffer[self._position :] not in (b"", b"\n"):
            place = self._offset + self._position
            raise wrong(self._path, f"byte {place}: more bytes follow the last row of the header")

    def _refill(self, needed: int) -> None:
        """Drop what was taken and read until ``needed`` bytes are buffered or the file ends."""
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


def _check_dim(path: Path, dim: int) -> None:
    if not limits.DIM.minimum <= dim <= limits.DIM.maximum:
        raise wrong(path, f"dim must be {limits.DIM.minimum} to {limits.DIM.maximum}, got {dim}")
