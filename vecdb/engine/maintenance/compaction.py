"""Compaction: rewrites a folder to the size of a fresh load; no other process may have it open.

For each collection in turn:

    graphs    are merged and rewritten without deleted rows
    store     is rewritten beside the old one: live rows in full blocks, the last version of each
              record, no log, and only those tombstones whose row a segment still holds
    rename    the new file is fsynced and replaces the old one

LMDB's file never shrinks, and pages written in random order are about two thirds full; a rewrite
appends all entries in order. Every checksum is verified. A collection with a wrong checksum is left
unchanged, except that a damaged request is copied as it is. Row numbers and seqs stay. Open scrolls
end. If a compaction is killed, its draft is removed when the folder is next opened or compacted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.engine.indexing.indexer import CollectionIndexer
from vecdb.engine.indexing.merge_policy import graph_row_bytes
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.maintenance.backup.backup import finish_store, open_copy
from vecdb.engine.runtime.catalog import Catalog
from vecdb.engine.runtime.data_folder import COMPACTION_DRAFT, remove_leftovers
from vecdb.engine.runtime.options import Options
from vecdb.engine.segments.flushing import flush, row_bytes
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store import layout
from vecdb.engine.store.requests import Requests
from vecdb.engine.store.rows import to_last_version
from vecdb.engine.store.segment_table import in_place
from vecdb.engine.store.store import Store
from vecdb.engine.store.tombstones import read_deleted
from vecdb.engine.system.files import file_lock, fsync_folder, os_errors_translated
from vecdb.engine.system.folder_use import FolderUse
from vecdb.engine.system.modes import make_folder
from vecdb.errors import DataLossError, NotFoundError
from vecdb.reasons import Reason
from vecdb.types import CompactionReport

__all__ = ["compact"]

_DELETED_FRACTION_MAX: Final = 0.01
_SLICE_ROWS, _SLICE_BYTES = 20_000, 32 * 1024**2

Block = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


def compact(path: str | os.PathLike[str]) -> CompactionReport:
    """Compact a data folder; see ``vecdb.compact``."""
    began = time.monotonic()
    root = Path(os.path.realpath(checks.check_local_path(path)))
    if not (root / "FORMAT").is_file():
        raise NotFoundError(f"there is no database in {root}", Reason.NO_DATABASE)
    options = Options()
    with os_errors_translated(str(root)), FolderUse(root, exclusive=True):
        before = folder_bytes(root)
        remove_leftovers(root)
        catalog = Catalog(root, options.map_bytes)  # Opening also empties the trash.
        try:
            names = [each.name for each in catalog.list()]
            for name in names:
                collection_id, _ = catalog.find(name)
                _compact_collection(catalog.folder(collection_id), collection_id, options)
        finally:
            catalog.close()
        after = folder_bytes(root)
    return CompactionReport(
        path=os.fspath(root),
        collections=len(names),
        bytes_before=before,
        bytes_after=after,
        elapsed_s=time.monotonic() - began,
    )


def folder_bytes(root: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(
        os.lstat(os.path.join(place, name)).st_size
        for place, _, names in os.walk(root)
        for name in names
    )


def _compact_collection(folder: Path, collection_id: str, options: Options) -> None:
    draft = folder / COMPACTION_DRAFT
    store = open_copy(folder / "store", collection_id)
    try:
        _finish_graphs(store, folder, collection_id, options)
        environment = Environment(draft, layout.DATABASES, create=True, map_bytes=options.map_bytes)
        try:
            _copy(store, environment, folder / "segments", collection_id)
        finally:
            environment.close()
        finish_store(draft)
        fsync_folder(draft)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    finally:
        store.close()
    os.chmod(draft / "data.mdb", stat.S_IMODE((folder / "store" / "data.mdb").stat().st_mode))
    os.rename(draft / "data.mdb", folder / "store" / "data.mdb")
    (folder / "store" / "lock.mdb").unlink(missing_ok=True)
    fsync_folder(folder / "store")
    shutil.rmtree(draft)


def _finish_graphs(store: Store, folder: Path, collection_id: str, options: Options) -> None:
    """Flush what a running database would flush, and merge graphs into as few as possible."""
    config = store.config
    rows_max = max(1, options.segment_bytes_max // graph_row_bytes(config.dim, config.M))
    segments = folder / "segments"
    make_folder(segments, exist_ok=True)
    flush(
        store,
        folder,
        collection_id,
        bytes_min=options.seal_bytes,
        rows_max=min(rows_max, max(1, 16 * options.seal_bytes // row_bytes(store))),
        joined_rows_max=rows_max,
    )
    CollectionIndexer(
        store,
        folder,
        collection_id,
        threads=options.threads,
        rows_max=rows_max,
        report=lambda event: None,
        should_stop=lambda: False,
        deleted_fraction_max=_DELETED_FRACTION_MAX,
    ).run("optimizing")
    with file_lock(folder / "seal.lock", wait=True), store.environment.read() as transaction:
        known = set(store.read_segments(transaction))
    for entry in os.scandir(segments):
        if not entry.name.isdigit() or int(entry.name) not in known:
            shutil.rmtree(entry.path, ignore_errors=True)


def _copy(store: Store, target: Environment, segments: Path, collection_id: str) -> None:
    """Write live rows and their metadata to a new environment, each database in key order."""
    source = store.environment
    with source.read() as transaction:
        counters = store.read_counters(transaction)
        placed = dict(in_place(store.read_segments(transaction)))
        seq = store.read_state(transaction).seq
    deleted = read_deleted(store, 0, counters.next_row, seq)
    held = np.zeros(0, np.int64)
    for number, entry in placed.items():
        if entry.is_published:
            mapped = Segment(segments / str(number), number, collection_id, entry)
            held = np.union1d(held, mapped.content.rows)
    counters.metadata_count = _copy_records(store, target, deleted)
    _copy_blocks(store, target, deleted, counters.next_row)
    _copy_values(source, target, b"ids")
    _copy_requests(source, target)

    def write(transaction: Transaction) -> None:
        _put_all(transaction, target, b"dead", source, np.intersect1d(deleted, held))
        for number in sorted(placed):
            key = layout.row_key(number)
            value = placed[number].pack(key)
            transaction.put(key, value, db=target.handles.segments, append=True)
        meta = target.handles.meta
        with source.read() as reading, reading.cursor(source.handles.meta) as cursor:
            for name, kept in cursor.iternext(keys=True, values=True):
                layout.unpack_value(name, kept, "meta")
                if bytes(name) not in (b"purging", b"counters"):
                    transaction.put(bytes(name), bytes(kept), db=meta)
        packed = layout.pack_value(b"counters", counters.pack())
        transaction.put(b"counters", packed, db=meta)

    target.transact(write)


def _put_all(
    transaction: Transaction,
    target: Environment,
    name: bytes,
    source: Environment,
    rows: npt.NDArray[np.int64],
) -> None:
    """Copy the values of some rows after verifying their checksums."""
    with source.read() as reading:
        for row in rows.tolist():
            key = layout.row_key(row)
            value = reading.get(key, db=source.database(name)) or b""
            layout.unpack_value(key, value, name.decode())
            transaction.put(key, bytes(value), db=target.database(name), append=True)


def _copy_values(
    source: Environment,
    target: Environment,
    name: bytes,
    is_kept: Callable[[Transaction, memoryview, memoryview], bool] | None = None,
) -> None:
    """Copy a database and verify its checksums.

    Args:
        is_kept: called with transaction, key and value; returns whether the value is copied.
            Checksums are not verified then.
    """
    last: bytes | None = None
    while True:
        with source.read() as reading, reading.cursor(source.database(name)) as cursor:
            if last is None:
                found = cursor.first()
            else:
                found = cursor.set_range(last) and (cursor.key() != last or cursor.next())
            items: list[tuple[bytes, bytes]] = []
            seen = 0
            # Bounded by number only, as the values (an id's row, or a request) are small.
            while found and seen < _SLICE_ROWS:
                key, value = cursor.key(), cursor.value()
                if is_kept is None:
                    layout.unpack_value(key, value, name.decode())
                last, seen = bytes(key), seen + 1
                if is_kept is None or is_kept(reading, key, value):
                    items.append((last, bytes(value)))
                found = cursor.next()
        if not seen:
            return
        if items:
            _append(target, name, items)


def _copy_requests(source: Environment, target: Environment) -> None:
    """Copy the requests, and rebuild entries by age that are damaged or missing.

    A damaged request is copied as it is: a client that repeats it must get an error, because it is
    not known whether the request was executed.
    """
    requests = Requests(source)
    rebuilt: list[tuple[bytes, bytes]] = []

    def is_kept(reading: Transaction, key: memoryview, value: memoryview) -> bool:
        request_id = bytes(key)
        age_key = requests.lost_age(reading, request_id, value)
        if age_key is not None:
            rebuilt.append((age_key, layout.pack_value(age_key, request_id)))
        if request_id.startswith(layout.REQUEST_AGES):
            with contextlib.suppress(DataLossError):
                layout.unpack_value(key, value, "request")
                return True
            return False
        return True

    _copy_values(source, target, b"requests", is_kept)

    def write(transaction: Transaction) -> None:
        for key, value in rebuilt:
            transaction.put(key, value, db=target.handles.requests)

    target.transact(write)


def _append(target: Environment, name: bytes, items: list[tuple[bytes, bytes]]) -> None:
    def write(transaction: Transaction) -> None:
        with transaction.cursor(target.database(name)) as cursor:
            cursor.putmulti(items, append=True)

    target.transact(write)


def _copy_records(store: Store, target: Environment, deleted: npt.NDArray[np.int64]) -> int:
    """Copy the last version of each live row's record; return how many have metadata."""
    with_metadata, next_row = 0, 0
    while True:
        with store.environment.read() as reading:
            kept, next_row = _some_records(store, reading, next_row, deleted)
        with_metadata += sum(bool(layout.unpack_record(b"".join(each))[1]) for each in kept)
        if kept:
            _append(target, b"records", kept)
        if next_row < 0:
            return with_metadata


def _some_records(
    store: Store, reading: Transaction, first_row: int, deleted: npt.NDArray[np.int64]
) -> tuple[list[tuple[bytes, bytes]], int]:
    """Return up to 32 MB of records from a row on, and the row to continue at; -1 at the end."""
    kept: list[tuple[bytes, bytes]] = []
    size = 0
    with reading.cursor(store.environment.handles.records) as cursor:
        found = cursor.set_range(layout.record_key(first_row, 0))
        while found:
            row = layout.unpack_record_key(cursor.key())[0]
            if size > _SLICE_BYTES or len(kept) >= _SLICE_ROWS:
                return kept, row
            to_last_version(cursor, row)
            at = int(np.searchsorted(deleted, row))
            if at == len(deleted) or deleted[at] != row:
                kept.append((bytes(cursor.key()), bytes(cursor.value())))
                size += len(kept[-1][1])
            found = cursor.next()
    return kept, -1


def _copy_blocks(
    store: Store, target: Environment, deleted: npt.NDArray[np.int64], next_row: int
) -> None:
    """Write the vectors of live rows in full blocks."""
    waiting: list[tuple[bytes, bytes]] = []
    for rows, vectors in _full(_live_rows(store, deleted, next_row), store.config.dim):
        key = layout.row_key(int(rows[0]))
        consecutive = int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        waiting.append((key, layout.pack_block(key, vectors, None if consecutive else rows)))
        if len(waiting) * layout.BLOCK_BYTES_MAX > _SLICE_BYTES:
            _append(target, b"blocks", waiting)
            waiting = []
    if waiting:
        _append(target, b"blocks", waiting)


def _live_rows(store: Store, deleted: npt.NDArray[np.int64], next_row: int) -> Iterator[Block]:
    step = max(1, min(_SLICE_ROWS, _SLICE_BYTES // (4 * store.config.dim)))
    for start in range(0, next_row, step):
        end = min(next_row, start + step)
        parts: list[Block] = []
        with store.environment.read() as reading:
            for rows, vectors in store.rows.iterate_blocks(reading, start, end):
                live = ~np.isin(rows, deleted, assume_unique=True)
                parts.append((rows[live], vectors[live]))
        yield from parts


def _full(blocks: Iterator[Block], dim: int) -> Iterator[Block]:
    """Yield the same rows in blocks of maximum size.

    A block of rows that are not consecutive stores an offset of four bytes per row.
    """
    size = layout.block_rows_max(dim, with_offsets=True)
    rows, vectors = np.zeros(0, np.int64), np.zeros((0, dim), np.float32)
    for more_rows, more_vectors in blocks:
        rows, vectors = np.append(rows, more_rows), np.concatenate([vectors, more_vectors])
        while len(rows) >= size:
            # A block must not span more rows than an offset of 32 bits can express.
            count = int(np.searchsorted(rows[:size] - rows[0], 2**32))
            yield rows[:count], np.ascontiguousarray(vectors[:count])
            rows, vectors = rows[count:], vectors[count:]
    while len(rows):
        count = int(np.searchsorted(rows[:size] - rows[0], 2**32))
        yield rows[:count], np.ascontiguousarray(vectors[:count])
        rows, vectors = rows[count:], vectors[count:]
