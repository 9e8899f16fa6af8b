"""The files of an import on the caller's machine, for an embedded database and a client alike.

An index file may have a sidecar with the ids and metadata of its rows (``export_files.py`` writes
one): ``FILE.meta.parquet`` or ``FILE.meta.jsonl``. Imports read JSON Lines only, so a Parquet
table is converted to a temporary file of JSON Lines, some rows at a time.
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
from vecdb.export_files import sidecar_paths
from vecdb.reasons import Reason
from vecdb.sidecar_header import KEY

__all__ = ["Sidecar", "open_regular", "sidecar_lines"]

_PARQUET_ROWS: Final = 1_000
_FIELDS: Final = ("faiss_id", "id", "metadata")


class Sidecar(NamedTuple):
    """A sidecar: JSON Lines with ids and metadata.

    Attributes:
        path: the file to read.
        called: the name of the file in messages: the one that the caller gave.
    """

    path: Path
    called: str

    def __str__(self) -> str:
        return self.called


def open_regular(path: Path, called: str) -> int:
    """Open a regular file for reading and return its descriptor.

    Args:
        called: the name of the file in messages.

    Raises:
        NotFoundError: NO_FILE.
        InvalidArgumentError: BAD_FILE: a folder, a pipe, a device.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would block until another process opens it to write.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"file {called} does not exist", Reason.NO_FILE) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArgumentError(f"{called} is not a regular file", Reason.BAD_FILE)
    return descriptor


@contextlib.contextmanager
def sidecar_lines(path: Path, meta: object) -> Iterator[Sidecar | None]:
    """Yield the sidecar of an index file, or None if it has none.

    Args:
        path: the index file.
        meta: path of the sidecar; None for the one beside the index file, False for none.

    Raises:
        NotFoundError: NO_FILE: the file given as ``meta`` does not exist.
        InvalidArgumentError: BAD_META: the Parquet table cannot be read. BAD_PATH.
        MissingExtraError: the sidecar is Parquet and pyarrow is not installed.
    """
    chosen = _chosen(path, meta)
    if chosen is None or chosen.suffix != ".parquet":
        yield None if chosen is None else Sidecar(chosen, str(chosen))
        return
    with tempfile.TemporaryDirectory(prefix="vecdb-import-") as folder:
        lines = Path(folder) / "meta.jsonl"
        _copy_table(chosen, lines)
        yield Sidecar(lines, str(chosen))


def _chosen(path: Path, meta: object) -> Path | None:
    if meta is False:
        return None
    if meta is None:
        return next((each for each in sidecar_paths(path) if each.exists()), None)
    chosen = checks.check_local_path(meta)
    if not chosen.is_file():
        raise NotFoundError(f"file {chosen} does not exist", Reason.NO_FILE)
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
                raise ValueError(f"no column {absent[0]}")
            header = (source.schema_arrow.metadata or {}).get(KEY.encode())
            pending = {} if header is None else {KEY: json_objects.decode(header)}
            for batch in source.iter_batches(_PARQUET_ROWS, columns=list(_FIELDS)):
                for row in batch.to_pylist():
                    out.write(json.dumps(row | pending) + "\n")
                    pending = {}
            if pending:
                out.write(json.dumps(pending) + "\n")
    except FileNotFoundError:
        raise NotFoundError(f"file {table} does not exist", Reason.NO_FILE) from None
    except (ArrowException, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # From the disk. If Arrow cannot decode, it raises OSError without an errno.
        wanted = ", ".join(_FIELDS)
        raise InvalidArgumentError(
            f"{table}: expected a Parquet table with columns {wanted}: {error}", Reason.BAD_META
        ) from None
