"""An export on disk: the file and the one beside it, which appear whole or not at all.

``save_export`` is told how the bytes come and how pages of ids and metadata are read; so it writes
what an embedded database or a server sends alike. Both files are written under other names, fsynced
and renamed when the size and the SHA-256 of what was written are those that the sender knows. An
older side file goes before that, and the new one comes last: cut short, an export may leave a file
with nothing beside it, never one beside which another's ids lie.

The side file ``FILE.meta.parquet``, or ``FILE.meta.jsonl`` where pyarrow is not installed, has an
entry a row, in the order of the file's rows:

    faiss_id   the row's number in the file
    id         its id, text
    metadata   its metadata as JSON text, null if it has none

and a header, in which the index file's metric and graph parameters stand (``side_header.py``).
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
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from vecdb import checks
from vecdb.errors import AlreadyExistsError, DataLossError, NotFoundError, VecdbError
from vecdb.os_errors import os_errors_translated
from vecdb.reasons import Reason
from vecdb.side_header import KEY, SideHeader
from vecdb.types import ExportEnd, ExportReport, Records, ScrollPage

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SIDE_PAGE_ROWS", "NewFile", "put_in_place", "save_export", "side_paths"]

SIDE_PAGE_ROWS: Final = 10_000
"""Rows of a page that ``next_page`` of ``save_export`` is to read."""

_SYNC_BYTES: Final = 64 * 1024**2
"""Written bytes that the disk is asked to take up before the end."""


def side_paths(path: Path) -> tuple[Path, Path]:
    """The names that the side file of an export may have: Parquet, JSON Lines."""
    return (
        path.with_name(f"{path.name}.meta.parquet"),
        path.with_name(f"{path.name}.meta.jsonl"),
    )


class NewFile:
    """A file that appears under its name when ``finish`` is called; a context manager.

    Attributes:
        target: its place. path: where it is written until then, in the same folder.
        overwrite: whether what is there is replaced. placed: whether it is in its place.
        stream: open for writing bytes.

    Raises:
        AlreadyExistsError: PATH_TAKEN, and it is not to be overwritten.
        NotFoundError: NO_FOLDER.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        if not target.parent.is_dir():
            raise NotFoundError(
                f"{target.parent}, where {target.name} should go, is no folder", Reason.NO_FOLDER
            )
        self.target, self.overwrite, self.placed = target, overwrite, False
        _check_free(target, overwrite=overwrite)
        # Short, as the longest name that a file may have leaves no room for more.
        self.path = target.with_name(f".vecdb.partial-{uuid.uuid4().hex[:12]}")
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
        if self.overwrite:
            os.replace(self.path, self.target)
        else:
            try:
                os.link(self.path, self.target)  # Unlike a rename it replaces nothing.
            except FileExistsError:
                raise _taken(self.target) from None
            except OSError:
                # Not every file system has links.
                if os.path.lexists(self.target):
                    raise _taken(self.target) from None
                os.rename(self.path, self.target)
            else:
                os.unlink(self.path)
        self.placed = True
        _sync_folder(self.target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self.stream.close()  # What a full disk has no room for is not wanted either.
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def put_in_place(file: NewFile, beside: Sequence[NewFile], stale: Sequence[Path] = ()) -> None:
    """Put files that belong together in their places; all of them are synced.

    Whenever this is cut short, no file lies beside one that it does not belong to.

    Args:
        beside: what is only right beside ``file``.
        stale: what lay beside an earlier one and would be taken for this one's; removed only where
            files may be overwritten.

    Raises:
        AlreadyExistsError: there is something by now; none of the files is in its place.
    """
    if file.overwrite:
        for path in (*(each.target for each in beside), *stale):
            path.unlink(missing_ok=True)
        _sync_folder(file.target.parent)
    try:
        for each in (file, *beside):
            each.finish()
    except BaseException:
        for each in (file, *beside):
            if each.placed and not each.overwrite:
                each.target.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_free(target: Path, *, overwrite: bool) -> None:
    if target.is_dir():
        raise AlreadyExistsError(
            f"{target} is a folder; give the name of a file", Reason.PATH_TAKEN
        )
    if not overwrite and os.path.lexists(target):
        raise _taken(target)


def _taken(target: Path) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"{target} is there already; give another name, or overwrite=True (--overwrite)",
        Reason.PATH_TAKEN,
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
    target = checks.check_local_path(path).absolute()
    began = time.monotonic()
    with os_errors_translated(str(target)), contextlib.ExitStack() as stack:
        parquet, lines = side_paths(target)
        with_arrow = importlib.util.find_spec("pyarrow") is not None
        side_target, other = (parquet, lines) if with_arrow else (lines, parquet)
        file = stack.enter_context(NewFile(target, overwrite=overwrite))
        for each in (side_target, other):
            _check_nothing_beside(target, each, overwrite=overwrite)
        side = stack.enter_context(NewFile(side_target, overwrite=overwrite))
        disk = stack.enter_context(ThreadPoolExecutor(1, "vecdb-export-sync"))
        end, size, sha256 = _receive(stack.enter_context(contextlib.closing(begin())), file, disk)
        try:
            _check_whole(end, size, sha256)
            syncing = disk.submit(file.sync)  # While pages keep the scroll's lease.
            _write_side(side, end, next_page, with_arrow=with_arrow)
            syncing.result()
        except BaseException:
            with contextlib.suppress(VecdbError):  # Its lease ends by itself.
                end_scroll(end.token)
            raise
        put_in_place(file, [side], [other])
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


def _check_nothing_beside(target: Path, side: Path, *, overwrite: bool) -> None:
    """An import would take it for what belongs to the file."""
    if side.is_dir() or (not overwrite and os.path.lexists(side)):
        raise AlreadyExistsError(
            f"{side} is in the way, as it would be taken for what belongs to {target.name}: "
            "remove it, give another name, or overwrite=True (--overwrite)",
            Reason.PATH_TAKEN,
        )


def _receive(
    pieces: Iterator[bytes | ExportEnd], file: NewFile, disk: Executor
) -> tuple[ExportEnd, int, str]:
    """Write the bytes down; what is said of them at the end, and how many they are and their
    SHA-256. The disk takes them up meanwhile."""
    size, digest, unsynced = 0, hashlib.sha256(), 0
    syncing: Future[None] = disk.submit(lambda: None)
    for piece in pieces:
        if isinstance(piece, ExportEnd):
            syncing.result()
            return piece, size, digest.hexdigest()
        size, unsynced = size + len(piece), unsynced + len(piece)
        digest.update(piece)
        file.stream.write(piece)
        if unsynced >= _SYNC_BYTES and syncing.done():
            syncing.result()  # An error is told once: a later sync would not see it.
            syncing, unsynced = disk.submit(os.fdatasync, file.stream.fileno()), 0
    raise DataLossError(f"the export ended after {size} bytes, before its end", Reason.EXPORT_CUT)


def _check_whole(end: ExportEnd, size: int, sha256: str) -> None:
    if (size, sha256) != (end.bytes, end.sha256):
        raise DataLossError(
            f"expected {end.bytes} bytes with SHA-256 {end.sha256}, got {size} with {sha256}",
            Reason.EXPORT_DAMAGED,
        )


def _write_side(
    file: NewFile, end: ExportEnd, next_page: Callable[[str], ScrollPage], *, with_arrow: bool
) -> None:
    rows = 0
    token: str | None = end.token
    header = None if end.config is None else SideHeader.of(end.config, normalized=end.normalized)
    with (_ParquetSide if with_arrow else _LinesSide)(file, header) as writer:
        while token is not None:
            records, token = next_page(token)
            count = len(records)
            numbers = [int(each) for each in records.ids] if end.numbered else None
            writer.add(numbers or list(range(rows, rows + count)), records)
            rows += count
    if rows != end.rows:
        raise DataLossError(
            f"expected {end.rows} rows beside the export, got {rows}", Reason.EXPORT_CUT
        )
    file.sync()


class _SideFile(ABC):
    """A side file under way; a context manager."""

    @abstractmethod
    def __init__(self, file: NewFile, header: SideHeader | None) -> None: ...

    @abstractmethod
    def add(self, numbers: list[int], records: Records) -> None:
        """Some more rows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Write what comes at the end."""


class _LinesSide(_SideFile):
    def __init__(self, file: NewFile, header: SideHeader | None) -> None:
        self._file = file
        self._to_come: dict[str, Any] = {} if header is None else {KEY: header.as_json()}

    def add(self, numbers: list[int], records: Records) -> None:
        for number, name, raw in zip(numbers, records.ids, records.raw_metadata, strict=True):
            entry = {"faiss_id": number, "id": name, "metadata": raw.decode() if raw else None}
            self._file.stream.write(f"{json.dumps(entry | self._to_come)}\n".encode())
            self._to_come = {}

    def close(self) -> None:
        if self._to_come:
            self._file.stream.write(f"{json.dumps(self._to_come)}\n".encode())


class _ParquetSide(_SideFile):
    def __init__(self, file: NewFile, header: SideHeader | None) -> None:
        import pyarrow
        import pyarrow.parquet

        self._arrow: Any = pyarrow
        columns = [
            ("faiss_id", pyarrow.int64()),
            ("id", pyarrow.string()),
            ("metadata", pyarrow.string()),
        ]
        described = None if header is None else {KEY: json.dumps(header.as_json())}
        self._schema = pyarrow.schema(columns, described)
        self._writer = pyarrow.parquet.ParquetWriter(file.stream, self._schema)

    def add(self, numbers: list[int], records: Records) -> None:
        if not numbers:
            return
        metadata = [raw.decode() if raw else None for raw in records.raw_metadata]
        columns = {"faiss_id": numbers, "id": records.ids, "metadata": metadata}
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
