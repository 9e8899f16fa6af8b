"""An export on disk: the file and the one beside it, which appear whole or not at all.

``save_export`` is told how the bytes come and how pages of ids and metadata are read; so it writes
what an embedded database or a server sends alike. Both files are written under other names, fsynced
and renamed when the size and the SHA-256 of what was written are those that the sender knows, the
side file first.

The side file ``FILE.meta.parquet``, or ``FILE.meta.jsonl`` where pyarrow is not installed, has an
entry a row, in the order of the file's rows:

    faiss_id   the row's number in the file
    id         its id, text
    metadata   its metadata as JSON text, null if it has none
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any, Final, Self

from vecdb import checks
from vecdb.errors import AlreadyExistsError, DataLossError, NotFoundError, VecdbError
from vecdb.os_errors import os_errors_translated
from vecdb.types import ExportEnd, ExportReport, Records, ScrollPage

__all__ = ["SIDE_PAGE_ROWS", "NewFile", "save_export", "side_paths"]

SIDE_PAGE_ROWS: Final = 10_000
"""Rows of a page that ``next_page`` of ``save_export`` is to read."""


def side_paths(path: Path) -> tuple[Path, Path]:
    """The names that the side file of an export may have: Parquet, JSON Lines."""
    return (
        path.with_name(f"{path.name}.meta.parquet"),
        path.with_name(f"{path.name}.meta.jsonl"),
    )


class NewFile:
    """A file that appears under its name when ``finish`` is called; a context manager.

    Attributes:
        path: where it is written until then, beside its place.
        stream: open for writing bytes.

    Raises:
        AlreadyExistsError: PATH_TAKEN, and it is not to be overwritten.
        NotFoundError: NO_FOLDER.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        if not target.parent.is_dir():
            raise NotFoundError(
                f"{target.parent}, where {target.name} should go, is no folder", "NO_FOLDER"
            )
        self._target, self._overwrite = target, overwrite
        if target.is_dir() or (not overwrite and os.path.lexists(target)):
            raise _taken(target)
        self.path = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:12]}")
        self.stream: IO[bytes] = open(self.path, "xb")  # noqa: SIM115  __exit__ closes it.

    def sync(self) -> None:
        """What was written is on disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()

    def finish(self) -> None:
        """Put it in its place, durably; ``sync`` comes first.

        Raises:
            AlreadyExistsError: there is something by now, which is left as it is.
        """
        if self._overwrite:
            os.replace(self.path, self._target)
        else:
            try:
                os.link(self.path, self._target)  # Unlike a rename it replaces nothing.
            except FileExistsError:
                raise _taken(self._target) from None
            except OSError:
                # Not every file system has links.
                if os.path.lexists(self._target):
                    raise _taken(self._target) from None
                os.rename(self.path, self._target)
            else:
                os.unlink(self.path)
        descriptor = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stream.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def _taken(target: Path) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"{target} is there already; give another name, or overwrite=True (--overwrite)",
        "PATH_TAKEN",
    )


def save_export(
    path: str | os.PathLike[str],
    begin: Callable[[], Generator[bytes | ExportEnd, None, None]],
    next_page: Callable[[str], ScrollPage],
    end_scroll: Callable[[str], None],
    *,
    overwrite: bool,
) -> ExportReport:
    """Write an export and its side file.

    Args:
        begin: starts the export: its bytes, then what is known of them. It is closed at the end.
        next_page: a page of a scroll, without vectors, of ``SIDE_PAGE_ROWS`` rows.
        end_scroll: ends one that is not read to its end.

    Raises:
        AlreadyExistsError: PATH_TAKEN: one of the two files is there.
        NotFoundError: NO_FOLDER: there is no folder for them.
        DataLossError: what came is not what was sent.
        ResourceExhaustedError: the disk is full. Nothing is left of the export.
    """
    target = Path(checks.check_path(path)).expanduser().absolute()
    began = time.monotonic()
    with os_errors_translated(str(target)), contextlib.ExitStack() as stack:
        parquet, lines = side_paths(target)
        with_arrow = importlib.util.find_spec("pyarrow") is not None
        side_target, other = (parquet, lines) if with_arrow else (lines, parquet)
        if not overwrite and other.exists():
            raise _taken(other)  # It would be taken for this export's.
        file = stack.enter_context(NewFile(target, overwrite=overwrite))
        side = stack.enter_context(NewFile(side_target, overwrite=overwrite))
        end, size, sha256 = _receive(stack.enter_context(contextlib.closing(begin())), file)
        try:
            _check_whole(end, size, sha256)
            _write_side(side, end, next_page, with_arrow=with_arrow)
            file.sync()  # It may take long, and the scroll needs no lease any more.
        except BaseException:
            with contextlib.suppress(VecdbError):  # Its lease ends by itself.
                end_scroll(end.token)
            raise
        other.unlink(missing_ok=True)
        side.finish()
        try:
            file.finish()
        except BaseException:
            if not overwrite:
                side_target.unlink(missing_ok=True)
            raise
    return ExportReport(
        path=str(target),
        side_path=str(side_target),
        rows=end.rows,
        seq=end.seq,
        bytes=end.bytes,
        sha256=end.sha256,
        work=end.work,
        work_s=end.work_s,
        elapsed_s=time.monotonic() - began,
    )


def _receive(pieces: Iterator[bytes | ExportEnd], file: NewFile) -> tuple[ExportEnd, int, str]:
    """Write the bytes down; what is said of them at the end, and how many they are and their
    SHA-256."""
    size, digest = 0, hashlib.sha256()
    for piece in pieces:
        if isinstance(piece, ExportEnd):
            return piece, size, digest.hexdigest()
        size += len(piece)
        digest.update(piece)
        file.stream.write(piece)
    raise DataLossError(f"the export ended after {size} bytes, before its end", "EXPORT_CUT")


def _check_whole(end: ExportEnd, size: int, sha256: str) -> None:
    if (size, sha256) != (end.bytes, end.sha256):
        raise DataLossError(
            f"expected {end.bytes} bytes with SHA-256 {end.sha256}, got {size} with {sha256}",
            "EXPORT_DAMAGED",
        )


def _write_side(
    file: NewFile, end: ExportEnd, next_page: Callable[[str], ScrollPage], *, with_arrow: bool
) -> None:
    rows = 0
    token: str | None = end.token
    with (_ParquetSide if with_arrow else _LinesSide)(file) as writer:
        while token is not None:
            records, token = next_page(token)
            count = len(records)
            numbers = [int(each) for each in records.ids] if end.numbered else None
            writer.add(numbers or list(range(rows, rows + count)), records)
            rows += count
    if rows != end.rows:
        raise DataLossError(f"expected {end.rows} rows beside the export, got {rows}", "EXPORT_CUT")
    file.sync()


class _SideFile(ABC):
    """A side file under way; a context manager."""

    @abstractmethod
    def __init__(self, file: NewFile) -> None: ...

    @abstractmethod
    def add(self, numbers: list[int], records: Records) -> None:
        """Some more rows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  Not all have an end to write.
        """Write what comes at the end."""


class _LinesSide(_SideFile):
    def __init__(self, file: NewFile) -> None:
        self._file = file

    def add(self, numbers: list[int], records: Records) -> None:
        lines = [
            json.dumps({"faiss_id": number, "id": name, "metadata": raw.decode() if raw else None})
            for number, name, raw in zip(numbers, records.ids, records.raw_metadata, strict=True)
        ]
        self._file.stream.write("".join(f"{line}\n" for line in lines).encode())


class _ParquetSide(_SideFile):
    def __init__(self, file: NewFile) -> None:
        import pyarrow
        import pyarrow.parquet

        self._arrow: Any = pyarrow
        columns = [
            ("faiss_id", pyarrow.int64()),
            ("id", pyarrow.string()),
            ("metadata", pyarrow.string()),
        ]
        self._schema = pyarrow.schema(columns)
        self._writer = pyarrow.parquet.ParquetWriter(file.stream, self._schema)

    def add(self, numbers: list[int], records: Records) -> None:
        if not numbers:
            return
        metadata = [raw.decode() if raw else None for raw in records.raw_metadata]
        columns = {"faiss_id": numbers, "id": records.ids, "metadata": metadata}
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
