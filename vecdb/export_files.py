"""An export on disk: the index file and its sidecar, which appear complete or not at all.

``save_export`` takes functions that return the bytes and the pages of ids and metadata, so an
embedded database and a client share it. Both files are written under temporary names, fsynced, and
renamed once the size and SHA-256 of the written bytes equal those of the sender. An old sidecar is
removed before the rename, and the new one is renamed last: an interrupted export may leave an index
file without a sidecar, but never one with the sidecar of another export.

The sidecar ``FILE.meta.parquet``, or ``FILE.meta.jsonl`` if pyarrow is not installed, has one entry
per row, in the order of the file's rows:

    faiss_id   the row's number in the file
    id         its id, text
    metadata   its metadata as JSON text, null if it has none

and a header with the metric and the graph parameters of the index file (``sidecar_header.py``).
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
from vecdb.sidecar_header import KEY, SidecarHeader
from vecdb.types import ExportEnd, ExportReport, Records, ScrollPage

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SIDE_PAGE_ROWS", "NewFile", "put_in_place", "save_export", "sidecar_paths"]

SIDE_PAGE_ROWS: Final = 10_000
"""Rows of a page that the ``next_page`` argument of ``save_export`` should return."""

_SYNC_BYTES: Final = 64 * 1024**2
"""Bytes between two background fsyncs, so that the last fsync has little left to write."""


def sidecar_paths(path: Path) -> tuple[Path, Path]:
    """Return the possible paths of the sidecar of an export: Parquet, JSON Lines."""
    return (
        path.with_name(f"{path.name}.meta.parquet"),
        path.with_name(f"{path.name}.meta.jsonl"),
    )


class NewFile:
    """A file that appears under its name only when ``finish`` is called; a context manager.

    Attributes:
        target: the final path.
        path: the temporary path, in the same folder.
        overwrite: True to replace an existing file.
        placed: True once ``finish`` moved the file to ``target``.
        stream: the temporary file, open for writing bytes.

    Raises:
        AlreadyExistsError: PATH_TAKEN: the target exists and ``overwrite`` is False.
        NotFoundError: NO_FOLDER.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        if not target.parent.is_dir():
            raise NotFoundError(
                f"cannot write {target.name}: {target.parent} is not a folder", Reason.NO_FOLDER
            )
        self.target, self.overwrite, self.placed = target, overwrite, False
        _check_free(target, overwrite=overwrite)
        # Not derived from the target's name, which may already have the maximum length of a name.
        self.path = target.with_name(f".vecdb.partial-{uuid.uuid4().hex[:12]}")
        self.stream: IO[bytes] = open(self.path, "xb")  # noqa: SIM115  __exit__ closes it.

    def sync(self) -> None:
        """Flush, fsync and close the file."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()

    def finish(self) -> None:
        """Move the file to ``target`` and fsync the folder. Call ``sync`` first.

        Raises:
            AlreadyExistsError: the target was created since; it is left unchanged.
        """
        if self.overwrite:
            os.replace(self.path, self.target)
        else:
            try:
                os.link(self.path, self.target)  # Unlike rename, link never replaces a file.
            except FileExistsError:
                raise _taken(self.target) from None
            except OSError:
                # Some file systems do not support links.
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
            self.stream.close()  # May fail on a full disk; the file is removed anyway.
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def put_in_place(file: NewFile, beside: Sequence[NewFile], stale: Sequence[Path] = ()) -> None:
    """Move a file and its sidecars to their final paths; all of them are synced.

    If this is interrupted, no sidecar is left next to a file that it does not belong to.

    Args:
        file: the main file.
        beside: sidecars that are valid only with ``file``.
        stale: paths of sidecars of an older file that would be taken for sidecars of this one.
            Removed only if ``file`` may be overwritten.

    Raises:
        AlreadyExistsError: a target was created since; none of the files is moved.
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
            f"{target} is a folder, expected the path of a file", Reason.PATH_TAKEN
        )
    if not overwrite and os.path.lexists(target):
        raise _taken(target)


def _taken(target: Path) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"{target} already exists; give another name, or overwrite=True (--overwrite)",
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
    """Write an export and its sidecar.

    Args:
        path: the index file.
        begin: starts the export; returns a generator of its bytes and, last, its trailer. The
            generator is closed at the end.
        next_page: returns a page of a scroll, without vectors, of ``SIDE_PAGE_ROWS`` rows.
        end_scroll: ends a scroll before its last page.
        overwrite: True to replace existing files.

    Raises:
        AlreadyExistsError: PATH_TAKEN: one of the two files exists.
        NotFoundError: NO_FOLDER: the folder does not exist.
        DataLossError: EXPORT_CUT or EXPORT_DAMAGED: the received bytes differ from those sent.
        ResourceExhaustedError: the disk is full; the partial files are removed.
    """
    target = checks.check_local_path(path).absolute()
    began = time.monotonic()
    with os_errors_translated(str(target)), contextlib.ExitStack() as stack:
        parquet, lines = sidecar_paths(target)
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
            # A long fsync must not outlast the scroll's lease, which each page renews: do both at
            # the same time.
            syncing = disk.submit(file.sync)
            _write_sidecar(side, end, next_page, with_arrow=with_arrow)
            syncing.result()
        except BaseException:
            with contextlib.suppress(VecdbError):  # Its lease expires anyway.
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
    """Reject an existing sidecar, since an import would take it for the sidecar of the target."""
    if side.is_dir() or (not overwrite and os.path.lexists(side)):
        raise AlreadyExistsError(
            f"{side} already exists and would be read as the sidecar of {target.name}: "
            "remove it, give another name, or overwrite=True (--overwrite)",
            Reason.PATH_TAKEN,
        )


def _receive(
    pieces: Iterator[bytes | ExportEnd], file: NewFile, disk: Executor
) -> tuple[ExportEnd, int, str]:
    """Write the bytes to the file, with fsyncs in the background. Return the trailer, the number of
    bytes written, and their SHA-256."""
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
            syncing.result()  # The system reports an error once: a later fsync would not raise it.
            syncing, unsynced = disk.submit(os.fdatasync, file.stream.fileno()), 0
    raise DataLossError(f"the export ended after {size} bytes, before its end", Reason.EXPORT_CUT)


def _check_whole(end: ExportEnd, size: int, sha256: str) -> None:
    if (size, sha256) != (end.bytes, end.sha256):
        raise DataLossError(
            f"expected {end.bytes} bytes with SHA-256 {end.sha256}, got {size} with {sha256}",
            Reason.EXPORT_DAMAGED,
        )


def _write_sidecar(
    file: NewFile, end: ExportEnd, next_page: Callable[[str], ScrollPage], *, with_arrow: bool
) -> None:
    rows = 0
    token: str | None = end.token
    header = None if end.config is None else SidecarHeader.of(end.config, normalized=end.normalized)
    with (_ParquetWriter if with_arrow else _LinesWriter)(file, header) as writer:
        while token is not None:
            records, token = next_page(token)
            count = len(records)
            numbers = [int(each) for each in records.ids] if end.numbered else None
            writer.add(numbers or list(range(rows, rows + count)), records)
            rows += count
    if rows != end.rows:
        raise DataLossError(
            f"expected {end.rows} rows in the sidecar, got {rows}", Reason.EXPORT_CUT
        )
    file.sync()


class _SidecarWriter(ABC):
    """A sidecar being written; a context manager."""

    @abstractmethod
    def __init__(self, file: NewFile, header: SidecarHeader | None) -> None: ...

    @abstractmethod
    def add(self, numbers: list[int], records: Records) -> None:
        """Append rows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Write the end of the file."""


class _LinesWriter(_SidecarWriter):
    def __init__(self, file: NewFile, header: SidecarHeader | None) -> None:
        self._file = file
        self._pending: dict[str, Any] = {} if header is None else {KEY: header.as_json()}

    def add(self, numbers: list[int], records: Records) -> None:
        for number, name, raw in zip(numbers, records.ids, records.raw_metadata, strict=True):
            entry = {"faiss_id": number, "id": name, "metadata": raw.decode() if raw else None}
            self._file.stream.write(f"{json.dumps(entry | self._pending)}\n".encode())
            self._pending = {}

    def close(self) -> None:
        if self._pending:
            self._file.stream.write(f"{json.dumps(self._pending)}\n".encode())


class _ParquetWriter(_SidecarWriter):
    def __init__(self, file: NewFile, header: SidecarHeader | None) -> None:
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
