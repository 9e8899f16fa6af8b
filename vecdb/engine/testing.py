"""Access for tests to the internals of the engine; nothing else in the product imports it.

``PLACES`` names what tests replace for a time or call directly: constants that they scale, and
functions that they observe, delay or make fail; each place is "module:attribute". The functions
return or set state that the public interface does not show.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.api.collection import Collection
from vecdb.engine.api.database import Database
from vecdb.engine.indexing.indexer import CollectionIndexer
from vecdb.engine.indexing.supervisor import Supervisor
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.runtime.catalog_entry import new_entry
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.search.snapshots.snapshot import SegmentSnapshot, Snapshot
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.segments.lifecycle import Reservation
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store import layout
from vecdb.engine.store.batch import Batch
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.types import CollectionConfig, Receipt

_SNAPSHOTS: Final = "vecdb.engine.search.snapshots"

PLACES: Final = {
    # Constants.
    "batch_step_rows": "vecdb.engine.hnsw.batch_builder:_STEP_ROWS",
    "prepare_changes": "vecdb.engine.runtime.changing:_prepared",
    "evaluated_rows_max": "vecdb.engine.store.changes:_EVALUATED_ROWS_MAX",
    "candidate_cost": "vecdb.engine.search.filters.matched_rows:_CANDIDATE_COST",
    "distinct_values_max": "vecdb.engine.search.filters.facets:_DISTINCT_MAX",
    "listed_rows_few": "vecdb.engine.search.filters.listing:_FEW_ROWS",
    "sure_of_walk": "vecdb.engine.search.filter_plan:_SURE_OF_WALK",
    "scroll_passed_rows_max": "vecdb.engine.store.scroll:_PASSED_ROWS_MAX",
    "catalog_patience_s": "vecdb.engine.runtime.catalog:_PATIENCE_S",
    "changed_rows_min": "vecdb.engine.indexing.outdated:CHANGED_ROWS_MIN",
    "check_in_progress_s": "vecdb.engine.maintenance.checking.catalog:_UNDER_WAY_S",
    "column_distinct_texts_max": "vecdb.engine.segments.columns.collecting:DISTINCT_TEXTS_MAX",
    "column_fields_max": "vecdb.engine.segments.columns.building:FIELDS_MAX",
    "column_paths_max": "vecdb.engine.segments.columns.collecting:PATHS_MAX",
    "column_text_bytes_max": "vecdb.engine.segments.columns.collecting:TEXT_BYTES_MAX",
    "compaction_slice_bytes": "vecdb.engine.maintenance.compaction:_SLICE_BYTES",
    "compaction_slice_rows": "vecdb.engine.maintenance.compaction:_SLICE_ROWS",
    "deadline_poll_s": "vecdb.engine.kernels.pool:_DEADLINE_POLL_S",
    "dropped_poll_s": "vecdb.engine.runtime.upkeep:_DROPPED_POLL_S",
    "extended_rows_min": "vecdb.engine.indexing.indexer:_EXTENDED_ROWS_MIN",
    "flush_pause_first_s": "vecdb.engine.runtime.upkeep:_PAUSE_FIRST_S",
    "flush_poll_s": "vecdb.engine.runtime.upkeep:_FLUSH_POLL_S",
    "flush_wait_s_max": "vecdb.engine.indexing.indexer:_FLUSH_WAIT_S_MAX",
    "import_batch_bytes": "vecdb.engine.interchange.importing.import_file:_BATCH_BYTES",
    "indexer_end_s_max": "vecdb.engine.indexing.supervisor:_END_S_MAX",
    "lookup_slice_records": f"{_SNAPSHOTS}.lookup:_SLICE_RECORDS",
    "meter_failed_pause_s": "vecdb.engine.runtime.metering:_FAILED_PAUSE_S",
    "purge_relief_s": "vecdb.engine.store.purging:_RELIEF_S",
    "purge_step_rows": "vecdb.engine.store.purging:_STEP_ROWS",
    "reader_check_s": "vecdb.engine.kv.environment:_READER_CHECK_S",
    "scan_counted_rows": f"{_SNAPSHOTS}.streaming:_COUNTED_ROWS",
    "memtable_chunk_bytes": f"{_SNAPSHOTS}.memtable:_CHUNK_BYTES",
    "recent_batches_bytes": f"{_SNAPSHOTS}.recent_batches:_BYTES_MAX",
    "scan_slice_bytes": f"{_SNAPSHOTS}.streaming:_SLICE_BYTES",
    "scan_slice_tombstones": f"{_SNAPSHOTS}.streaming:_SLICE_TOMBSTONES",
    "scroll_idle_s": "vecdb.engine.store.scroll_uses:_IDLE_S",
    "scroll_slice_rows": "vecdb.engine.store.scroll:_SLICE_ROWS",
    "scroll_slice_rows_min": "vecdb.engine.store.scroll:_SLICE_ROWS_MIN",
    "slow_compilation_s": "vecdb.engine.kernels.loading:_SLOW_S",
    "trial_cpu_fraction_max": "vecdb.engine.hnsw.choice:_CPU_FRACTION_MAX",
    "trial_new_rows_min": "vecdb.engine.indexing.indexer:_TRIAL_NEW_ROWS_MIN",
    "trial_queries": "vecdb.engine.hnsw.choice:_QUERIES",
    "trial_rows": "vecdb.engine.hnsw.choice:TRIAL_ROWS",
    "trial_rows_min": "vecdb.engine.indexing.indexer:_TRIAL_ROWS_MIN",
    "writer_idle_s": "vecdb.engine.store.writer:_IDLE_S",
    "yield_s_max": "vecdb.engine.kernels.pool:_YIELD_S_MAX",
    # Functions.
    "add_tombstones": "vecdb.engine.store.store:Store._add_tombstones",
    "after_commit": "vecdb.engine.runtime.runtime:Runtime._committed",
    "begin_transaction": "vecdb.engine.kv.environment:Environment._begin",
    "build_progressed": "vecdb.engine.indexing.indexer:CollectionIndexer._progressed",
    "changed_nodes": "vecdb.engine.search.filters.matching:Matcher._changed",
    "commit_transaction": "vecdb.engine.kv.environment:Environment._commit",
    "copy_requests": "vecdb.engine.maintenance.compaction:_copy_requests",
    "copy_store": "vecdb.engine.maintenance.compaction:_copy",
    "columns_for_values": "vecdb.engine.search.filters.column_values:usable_columns",
    "count_records": f"{_SNAPSHOTS}.lookup:_count",
    "export_chunks": "vecdb.engine.interchange.export.export:_chunks",
    "fill_snapshot": f"{_SNAPSHOTS}.snapshot_manager:SnapshotManager._filled_in_slices",
    "find_rows": f"{_SNAPSHOTS}.lookup:_find",
    "is_lock_holder_stopped": "vecdb.engine.kernels.cache:_is_stopped",
    "lease_clock_ns": "vecdb.engine.store.leases:_now_ns",
    "list_segments": "vecdb.engine.maintenance.checking.segments:_listed",
    "measure_samples": "vecdb.engine.search.recall.meter:RecallMeter.step",
    "open_collection": "vecdb.engine.runtime.runtime:Runtime._open_collection",
    "read_npy_header": "vecdb.engine.segments.array_files:_read_header",
    "read_scan_slice": f"{_SNAPSHOTS}.streaming:_read_slice",
    "read_scroll_slice": "vecdb.engine.store.scroll:_read_slice",
    "receive_import": "vecdb.engine.interchange.importing.incoming:_Spool.receive",
    "segment_gone_error": f"{_SNAPSHOTS}.snapshot_manager:_SegmentGoneError",
    "start_indexer": "vecdb.engine.indexing.supervisor:Supervisor._start",
    "take_batches": "vecdb.engine.store.writer:Writer._take",
    "write_batches": "vecdb.engine.store.writer:Writer._write",
}


# ------------------------------------------------------------------------- databases, collections


def runtime_of(database: Database) -> Runtime:
    """Return the runtime of an embedded database."""
    return database._runtime


def open_runtimes() -> list[Runtime]:
    """Return the runtimes that are open in this process, those of servers included."""
    return list(Runtime._open.values())


def opened_of(collection: Collection) -> OpenCollection:
    """Return the process's objects for a collection: store, segments, searcher."""
    return collection._opened


def submit(collection: Collection, batch: Batch) -> Future[Receipt]:
    """Queue a checked batch as ``upsert`` does, without waiting for it."""
    return collection._runtime.submit_delayed(collection._opened, batch)


def put_catalog_entry(
    database: Database, name: str, state: str, collection_id: str = "f" * 16
) -> None:
    """Write a catalogue entry as a create or drop leaves it that was interrupted in ``state``."""
    entry = new_entry(collection_id, CollectionConfig(2), state)
    database._runtime.catalog._put(name, entry)


def close_dropped(database: Database) -> None:
    """Close the collections that another process dropped, as the upkeep thread does."""
    database._runtime._close_dropped()


def look_for_work(database: Database, opened: OpenCollection) -> None:
    """Request what is due for a collection, as after a commit."""
    database._runtime._look_for_work(opened)


# -------------------------------------------------------------------------------- writer, upkeep


def queued_batches(database: Database) -> int:
    """Return the number of batches that no thread of the writer has taken yet."""
    return len(database._runtime.writer._jobs)


def queued_bytes(database: Database) -> int:
    """Return the bytes that count towards the limit of the write queue."""
    return database._runtime.writer._queued_bytes


def writer_threads(database: Database) -> int:
    """Return the number of threads of the writer."""
    return database._runtime.writer._threads


def has_flushes_to_retry(database: Database) -> bool:
    """Return whether a flush failed, or met a held lock, and waits for its retry."""
    return bool(database._runtime.upkeep._flush_failures)


# --------------------------------------------------------------------------------- stores, LMDB


def reader_table(environment: Environment) -> str:
    """Return LMDB's table of reader slots: a line each of pid, thread and transaction."""
    assert environment._lmdb is not None
    return str(environment._lmdb.readers())


def begin_readers(environment: Environment, count: int) -> list[object]:
    """Begin read transactions directly in LMDB; each occupies a reader slot."""
    assert environment._lmdb is not None
    return [environment._lmdb.begin() for _ in range(count)]


def wrap_handle(environment: Environment, wrap: Callable[[Any], Any]) -> None:
    """Replace LMDB's handle of an open environment by what ``wrap`` returns for it."""
    environment._lmdb = wrap(environment._lmdb)


def clock_record(store: Store, transaction: Transaction) -> object:
    """Return the record of a store's clock, None if there is none."""
    return store.clock._record(transaction)


# ------------------------------------------------------------------------------------- searching


def waiting_callers(pool: KernelPool) -> int:
    """Return the number of threads that wait for a permit."""
    return pool._waiting


def free_permits(pool: KernelPool) -> int:
    """Return the number of permits that no thread holds."""
    return pool._free.qsize()


def holds_snapshot(snapshots: SnapshotManager) -> bool:
    """Return whether a snapshot is cached."""
    return snapshots._known[1] is not None


def set_slice_rows(snapshots: SnapshotManager, rows: int) -> None:
    """Set the number of rows that one transaction reads for a new snapshot."""
    snapshots._slice_rows = rows


def on_work(snapshots: SnapshotManager, notify: Callable[[], None]) -> None:
    """Have ``notify`` called when there is work for the indexer."""
    snapshots._on_work = notify


def verify_segment(snapshots: SnapshotManager, segment: Segment) -> bool:
    """Compare a segment with its checksums, as the background verification does."""
    return snapshots._verified.compare(segment, lambda: None)


def deleted_rows_of(
    snapshots: SnapshotManager, number: int, entry: SegmentEntry, state: layout.State
) -> npt.NDArray[np.int64]:
    """Return the deleted rows of a live segment, int64, ascending.

    Raises:
        segment_gone_error, a place: the segment is no longer live.
    """
    return snapshots._deleted_rows_of(number, entry, state)


def measure_recall(collection: Collection, queries: npt.ArrayLike, **search: Any) -> None:
    """Search for each query, and measure the recall with it, as the recall meter does with a
    sample. Open the database with ``recall_meter=0``, so that nothing else measures."""
    meter = collection._opened.meter
    for query in np.asarray(queries):
        meter.arm()
        collection.search(query, **search)
        while meter.step(Deadline()):
            pass


def kept_queries(collection: Collection) -> list[npt.NDArray[np.float32]]:
    """Return the queries that the recall meter keeps for new graphs, oldest first."""
    return list(collection._opened.meter._kept)


# -------------------------------------------------------------------------------------- indexing


def snapshot_of_indexer(indexer: CollectionIndexer) -> Snapshot:
    """Return the newest snapshot that an indexer works with."""
    return indexer._snapshots.snapshot()


def merge_segments(
    indexer: CollectionIndexer, group: list[SegmentSnapshot], taken: Reservation
) -> None:
    """Build one graph segment of a group of segments and publish it."""
    indexer._merge(group, taken)


def note_indexer_failure(supervisor: Supervisor, collection_id: str, why: str) -> None:
    """Record a failure of the indexer with a collection, as at the end of a child process."""
    with supervisor._changed:
        supervisor._back_off.failed(collection_id, why)


# --------------------------------------------------------------------------------------- imports


def spooled_bytes(spool: Any) -> int:
    """Return the size of the index file that an import has written to disk so far."""
    spool.index._stream.flush()
    return int(spool.index.path.stat().st_size)
