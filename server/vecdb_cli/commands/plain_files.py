"""Export a collection as Parquet, or as an .npy with sidecars.

The rows come from a scroll, so that all are of one seq; vectors are bit for bit as given. Files are
written under temporary names and renamed when they are complete. Only one page is in memory.

    parquet   id string, vector fixed_size_list<float>[dim], metadata string (JSON, null for none)
    npy       X.npy float32 (n, dim); X.ids.txt, an id a line, or X.ids.json where an id has a line
              break in it; X.metadata.jsonl, an object or an empty line a row
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from vecdb.errors import InvalidArgumentError, MissingExtraError
from vecdb.export_files import NewFile, put_in_place
from vecdb.os_errors import os_errors_translated
from vecdb.reasons import Reason
from vecdb.types import Records

__all__ = ["PlainReport", "save_npy", "save_parquet"]

_BATCH = 10_000


@dataclass(frozen=True)
class PlainReport:
    """What was written. side_path: the sidecars, or "none". bytes: size of the file itself."""

    path: str
    side_path: str
    rows: int
    seq: int
    bytes: int
    elapsed_s: float


def save_parquet(collection: Any, path: Path, *, overwrite: bool) -> PlainReport:
    """Write a Parquet file.

    Raises:
        MissingExtraError: pyarrow is not installed.
        AlreadyExistsError: PATH_TAKEN. NotFoundError: NO_FOLDER.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("vecdb export parquet", "parquet") from None
    began, path = time.monotonic(), path.expanduser().absolute()
    dim = collection.dim
    columns = [("id", pyarrow.string()), ("vector", pyarrow.list_(pyarrow.float32(), dim))]
    schema = pyarrow.schema([*columns, ("metadata", pyarrow.string())])
    with os_errors_translated(str(path)), NewFile(path, overwrite=overwrite) as file:
        pages = _Pages(collection)
        with pyarrow.parquet.ParquetWriter(file.stream, schema) as writer:
            for page in pages:
                flat = pyarrow.array(page.vectors.reshape(-1))
                vectors = pyarrow.FixedSizeListArray.from_arrays(flat, dim)
                metadata = [raw.decode() if raw else None for raw in page.raw_metadata]
                table = pyarrow.table([page.ids, vectors, metadata], schema=schema)
                writer.write_table(table)
        file.sync()
        size = file.path.stat().st_size
        file.finish()
    return PlainReport(str(path), "none", pages.rows, pages.seq, size, time.monotonic() - began)


def save_npy(collection: Any, path: Path, *, overwrite: bool) -> PlainReport:
    """Write a matrix with sidecars for ids and metadata, as ``vecdb load`` reads them.

    Raises:
        InvalidArgumentError: the name does not end with .npy.
        AlreadyExistsError: PATH_TAKEN, also by a sidecar. NotFoundError: NO_FOLDER.
    """
    if path.suffix != ".npy":
        raise InvalidArgumentError(f"{path}: the name must end with .npy", Reason.BAD_PATH)
    began, path = time.monotonic(), path.expanduser().absolute()
    texts, listed, lines = (
        path.with_name(path.stem + ending)
        for ending in (".ids.txt", ".ids.json", ".metadata.jsonl")
    )
    with os_errors_translated(str(path)), ExitStack() as stack:
        matrix, ids, as_json, metadata = (
            stack.enter_context(NewFile(each, overwrite=overwrite))
            for each in (path, texts, listed, lines)
        )
        pages = _Pages(collection)
        _write_header(matrix.stream, 0, collection.dim)
        broken = False
        for page in pages:
            matrix.stream.write(np.ascontiguousarray(page.vectors, "<f4").data)
            broken = broken or any("\n" in each or "\r" in each for each in page.ids)
            ids.stream.write("".join(f"{each}\n" for each in page.ids).encode())
            first = pages.rows == len(page)
            text = ",\n".join(json.dumps(each) for each in page.ids)
            as_json.stream.write((("[" if first else ",\n") + text).encode())
            # JSON allows a line break only between values, where a space means the same.
            raw = (each.replace(b"\n", b" ").replace(b"\r", b" ") for each in page.raw_metadata)
            metadata.stream.write(b"".join(each + b"\n" for each in raw))
        as_json.stream.write(b"]\n" if pages.rows else b"[]\n")
        matrix.stream.seek(0)
        _write_header(matrix.stream, pages.rows, collection.dim)
        chosen, other = (as_json, texts) if broken else (ids, listed)
        for file in (chosen, metadata, matrix):
            file.sync()
        size = matrix.path.stat().st_size
        put_in_place(matrix, [chosen, metadata], [other])
    beside = f"{(listed if broken else texts).name}, {lines.name}"
    return PlainReport(str(path), beside, pages.rows, pages.seq, size, time.monotonic() - began)


def _write_header(stream: IO[bytes], rows: int, dim: int) -> None:
    """Write a header; NumPy pads it, so that its size does not depend on the number of rows."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(stream, header)


class _Pages:
    """The pages of a scroll. rows: read so far. seq: of the pages, 0 without any."""

    def __init__(self, collection: Any) -> None:
        self._scroll: Callable[..., Any] = collection.scroll
        self.rows = self.seq = 0

    def __iter__(self) -> Iterator[Records]:
        with self._scroll(_BATCH) as pages:
            for page in pages:
                self.rows += len(page)
                self.seq = page.seq
                yield page
