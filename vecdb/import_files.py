"""The files of an import as its caller has them, for an embedded database and a client alike.

Beside an index file may lie another with the ids and metadata of its rows (``export_files.py``
writes one): ``FILE.meta.parquet`` or ``FILE.meta.jsonl``. Imports read JSON Lines alone, so a
Parquet table is copied into a temporary file of lines, some rows at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from vecdb import checks, json_objects
from vecdb.errors import InvalidArgumentError, MissingExtraError, NotFoundError
from vecdb.export_files import side_paths
from vecdb.reasons import Reason
from vecdb.side_header import KEY

__all__ = ["SideFile", "open_regular", "side_lines"]

_PARQUET_ROWS: Final = 1_000
_FIELDS: Final = ("faiss_id", "id", "metadata")


class SideFile(NamedTuple):
    """JSON Lines with ids and metadata.

    Attributes:
        path: where they can be read.
        called: what messages call the file: the one that the caller knows.
    """

    path: Path
    called: str

    def __str__(self) -> str:
        return self.called


def open_regular(path: Path, called: str) -> int:
    """The descriptor of a regular file, open for reading.

    Args:
        called: what messages call it.

    Raises:
        NotFoundError: NO_FILE.
        InvalidArgumentError: BAD_FILE: a folder, a pipe, a device.
    """
    try:
        # Opening a pipe would wait for somebody who writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"there is no file {called}", Reason.NO_FILE) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArgumentError(f"{called} is no regular file", Reason.BAD_FILE)
    return descriptor


@contextlib.contextmanager
def side_lines(path: Path, meta: object) -> Iterator[SideFile | None]:
    """The file beside an index file, None without one.

    Args:
        path: the index file.
        meta: a path; None for what lies beside the index file, False for nothing.

    Raises:
        NotFoundError: NO_FILE: the file that was asked for is not there.
        InvalidArgumentError: BAD_META: the Parquet table can't be read. BAD_PATH.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    chosen = _chosen(path, meta)
    if chosen is None or chosen.suffix != ".parquet":
        yield None if chosen is None else SideFile(chosen, str(chosen))
        return
    with tempfile.TemporaryDirectory(prefix="vecdb-import-") as folder:
        lines = Path(folder) / "meta.jsonl"
        _copy_table(chosen, lines)
        yield SideFile(lines, str(chosen))


def _chosen(path: Path, meta: object) -> Path | None:
    if meta is False:
        return None
    if meta is None:
        return next((each for each in side_paths(path) if each.exists()), None)
    chosen = checks.check_local_path(meta)
    if not chosen.is_file():
        raise NotFoundError(f"there is no file {chosen}", Reason.NO_FILE)
    return chosen


def _copy_table(table: Path, lines: Path) -> None:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtraError("reading Parquet", "parquet") from None
    try:
        with parquet.ParquetFile(table) as source, lines.open("w") as out:
            absent = [name for name in _FIELDS if name not in source.schema_arrow.names]
            if absent:
                raise ValueError(f"it has no column {absent[0]}")
            header = (source.schema_arrow.metadata or {}).get(KEY.encode())
            to_come = {} if header is None else {KEY: json_objects.decode(header)}
            for batch in source.iter_batches(_PARQUET_ROWS, columns=list(_FIELDS)):
                for row in batch.to_pylist():
                    out.write(json.dumps(row | to_come) + "\n")
                    to_come = {}
            if to_come:
                out.write(json.dumps(to_come) + "\n")
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {table}", Reason.NO_FILE) from None
    except (ArrowException, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # The disk's. Arrow raises one without a number for what it can't decode.
        wanted = ", ".join(_FIELDS)
        raise InvalidArgumentError(
            f"{table}: no readable Parquet table of {wanted}: {error}", Reason.BAD_META
        ) from None
