"""One open collection of a process, shared by all handles on it.

It owns the store, the snapshot manager, the searcher and its recall meter, and decides after
commits when to flush and how long to delay writers. Its store may be evicted (``weighted_lru.py``);
its next use reopens it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from vecdb.engine.indexing.backpressure import Backpressure
from vecdb.engine.indexing.merge_policy import graph_row_bytes, plan
from vecdb.engine.indexing.rewriting import rewrite_flat
from vecdb.engine.indexing.trimming import trim_tombstones
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.kv.environment import Environment
from vecdb.engine.runtime.opening_checks import check_counters
from vecdb.engine.runtime.options import Options
from vecdb.engine.search.filters.matched_rows import MatchedRows
from vecdb.engine.search.recall.meter import RecallMeter
from vecdb.engine.search.search import Searcher
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.segments.flushing import flat_rows_max, flush, row_bytes
from vecdb.engine.segments.verifying import Verifier
from vecdb.engine.store import layout
from vecdb.engine.store.batch import UpsertBatch
from vecdb.engine.store.purging import Purger, garbage_rows
from vecdb.engine.store.segment_table import in_place
from vecdb.engine.store.store import Store, dropped_error
from vecdb.engine.store.stored_name import read_name, write_name
from vecdb.engine.system.call_memory import MemoryBudget
from vecdb.engine.system.modes import make_folder
from vecdb.engine.system.place import not_in_place
from vecdb.engine.system.weighted_lru import WeightedLru
from vecdb.errors import VecdbError
from vecdb.types import Receipt

__all__ = ["OpenCollection", "gone_is_dropped"]

_DELETED_WORTH_A_LOOK = 0.1
"""Rows deleted since the indexer was last notified of them, as a fraction of the live rows."""

_TOMBSTONES_WORTH_A_TRIM = 1_000

_log = logging.getLogger("vecdb.engine")

_CALM_S, _CALM_PART = 1.0, 4
"""If the last flush was this many seconds ago, a quarter of ``seal_bytes`` triggers a flush."""


@contextlib.contextmanager
def gone_is_dropped(folder: Path) -> Iterator[None]:
    """Translate FileNotFoundError if another process has moved the collection's folder.

    Raises:
        NotFoundError: DROPPED.
        UnavailableError: FOLDER_GONE: the data folder itself is gone.
    """
    try:
        yield
    except FileNotFoundError as error:
        if folder.is_dir():
            raise
        if not folder.parent.is_dir():
            raise not_in_place(folder.parent.parent) from error
        raise dropped_error() from error


class Host(Protocol):
    """What the collections of a folder share and notify; implemented by ``Runtime``."""

    options: Options
    pool: KernelPool
    verifier: Verifier
    snapshot_budget: WeightedLru
    call_memory: MemoryBudget

    def wake_indexer(self, collection_id: str) -> None:
        """Notify the indexer that a collection may have graph work."""

    def reopened(self, opened: OpenCollection) -> None:
        """Record that a use has reopened the store of a collection."""

    def gone_error(self, collection_id: str) -> VecdbError:
        """Return the error for a collection whose store is not where it was opened."""


class OpenCollection:
    """An open collection. Safe to use from many threads."""

    def __init__(self, host: Host, collection_id: str, folder: Path) -> None:
        environment = Environment(
            folder / "store",
            layout.DATABASES,
            create=False,
            map_bytes=host.options.map_bytes,
        )
        try:
            self.store = Store(environment, collection_id)
            self.store.call_memory = host.call_memory
            self.store.metadata_bytes_max = host.options.metadata_bytes_max
            with gone_is_dropped(folder):
                make_folder(folder / "segments", exist_ok=True)
            with environment.read() as transaction:
                check_counters(self.store, transaction)
        except BaseException:
            environment.close()
            raise
        self.id = collection_id
        self.folder = folder
        environment.on_reopen = lambda: host.reopened(self)
        environment.missing_error = lambda: host.gone_error(collection_id)
        self._deleted_when_notified = 0
        self.garbage = 0
        """Deleted rows and replaced versions to purge, as of this process's last commit."""

        self._live_count = 0
        self._purger = Purger(self.store)
        self.backpressure = Backpressure(host.options.backlog_bytes_max)
        self._flush_bytes_max = host.options.seal_bytes
        self._flush_bytes_min = max(1, self._flush_bytes_max // _CALM_PART)
        self._sealed_to, self._sealed_at = 0, time.monotonic()
        self._flat_rows = (-1, 0, 0)  # Generation, rows in flat segments, rows in graphs.
        self.snapshots = SnapshotManager(
            self.store,
            folder,
            collection_id,
            on_work=lambda: host.wake_indexer(collection_id),
            verifier=host.verifier,
            held_bytes_max=min(host.options.fresh_bytes_max, host.options.view_bytes_max // 2),
            budget=host.snapshot_budget,
        )
        self._codes = host.options.codes == "auto"
        self.searcher = Searcher(
            self.store,
            self.snapshots,
            host.pool,
            codes=self._codes,
            budget=host.snapshot_budget,
        )
        config = self.store.config
        self.matched = MatchedRows(self.store, self.snapshots, self.searcher.matcher)
        # Without codes, walks reach another recall at the same effort than those of others.
        shared = self.store if self._codes else None
        self.meter = RecallMeter(self.searcher, shared, self.snapshots, config.metric, self._name)
        options = host.options
        self.graph_rows_max = max(
            1, options.segment_bytes_max // graph_row_bytes(config.dim, config.M)
        )
        self._flat_rows_max = flat_rows_max(self.store, options.seal_bytes, self.graph_rows_max)

    def note_name(self, name: str) -> Callable[[str], None]:
        """Return the ``note`` argument of ``Catalog.rename``: it writes the name to the store.

        It does so only for the id of this collection, as the old name may have been given to
        another collection in between.
        """

        def note(collection_id: str) -> None:
            if collection_id == self.id:
                write_name(self.store.environment, name)

        return note

    def _name(self) -> str:
        """Return the name for log lines; the id if the store has none."""
        try:
            with self.store.environment.read() as transaction:
                return read_name(self.store.environment, transaction) or self.id
        except VecdbError:
            return self.id

    def flush(self, bytes_min: int | None = None) -> bool:
        """Flush the memtable if it takes at least ``bytes_min`` bytes.

        Args:
            bytes_min: default: a quarter of the option ``seal_bytes``.

        Returns:
            False if another process is flushing.
        """
        with gone_is_dropped(self.folder):
            return flush(
                self.store,
                self.folder,
                self.id,
                bytes_min=bytes_min or self._flush_bytes_min,
                rows_max=self._flat_rows_max,
                joined_rows_max=self.graph_rows_max,
                codes=self._codes,
            )

    def unfinished(self) -> str | None:
        """Return the id if rows are in no graph or in more graphs than necessary, else None."""
        try:
            snapshot = self.snapshots.snapshot()
        except (VecdbError, OSError) as error:
            _log.warning("closing %s: %s", self.folder, error)
            return None
        work = plan(snapshot.segments, self.graph_rows_max, pace="optimizing")
        return self.id if snapshot.memtable_live_count > 0 or work is not None else None

    def keep_for_snapshots(self, batch: UpsertBatch, answer: Future[Receipt]) -> None:
        """Let the next snapshot have the vectors of a batch once it is committed."""

        def committed(answer: Future[Receipt]) -> None:
            if answer.exception() is None and not answer.result().repeated:
                self.snapshots.recent_batches.keep(answer.result().seq, batch.vectors)

        answer.add_done_callback(committed)

    def count(self) -> int:
        """Return the number of live rows."""
        with self.store.environment.read() as transaction:
            self.store.check_not_dropped(transaction)
            return self.store.read_counters(transaction).live_count

    def check_not_dropped(self) -> None:
        """Raise NotFoundError (DROPPED) if the collection was dropped by any process."""
        self.current_seq()

    def current_seq(self) -> int:
        """Return the seq of the last batch."""
        with self.store.environment.read() as transaction:
            self.store.check_not_dropped(transaction)
            return self.store.read_state(transaction).seq

    def purge_old(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Purge rows deleted longer ago than the grace period; ``should_stop`` ends it early."""
        self._purger.purge_old(should_stop)

    def relieve(self) -> bool:
        """Purge some garbage if there is too much; return True if ``purge_old`` should continue."""
        return self._purger.relieve(self.garbage, self._live_count)

    def trim(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Rewrite flat segments that consist mostly of deleted rows, and trim unneeded tombstones.

        Tombstones are trimmed only if there are many. ``should_stop`` is checked between steps.
        """
        if should_stop():
            return
        with gone_is_dropped(self.folder):
            snapshot = self.snapshots.snapshot()
            rewrite_flat(self.store, self.folder, self.id, snapshot, codes=self._codes)
        snapshot = self.snapshots.snapshot()
        with self.store.environment.read() as transaction:
            tombstones = transaction.stat(self.store.environment.handles.dead)["entries"]
        needed = sum(segment.deleted_count for segment in snapshot.segments)
        if tombstones - needed > max(
            _TOMBSTONES_WORTH_A_TRIM, _DELETED_WORTH_A_LOOK * snapshot.live_count
        ):
            trim_tombstones(self.store, snapshot, should_stop)

    def note_backlog(self) -> layout.Counters:
        """Update the back-pressure with the size of the rows without a graph; return counters."""
        with self.store.environment.read() as transaction:
            counters = self.store.read_counters(transaction)
            self.garbage = garbage_rows(self.store, transaction)
            generation = self.store.read_state(transaction).generation
            if generation != self._flat_rows[0]:
                flat = graph = 0
                for _, entry in in_place(self.store.read_segments(transaction)):
                    flat += 0 if entry.has_graph else entry.count
                    graph += entry.count if entry.has_graph else 0
                self._flat_rows = (generation, flat, graph)
        self._live_count = counters.live_count
        unindexed = counters.next_row - counters.sealed_to + self._flat_rows[1]
        self.backpressure.note(unindexed * row_bytes(self.store), self._flat_rows[2])
        return counters

    def _flush_bytes(self, sealed_to: int) -> int:
        """Return the memtable size that triggers a flush.

        It is smaller while writes come slowly: a flush costs little then, and searches scan less.
        """
        if sealed_to != self._sealed_to:
            self._sealed_to, self._sealed_at = sealed_to, time.monotonic()
        hurried = time.monotonic() - self._sealed_at < _CALM_S
        return self._flush_bytes_max if hurried else self._flush_bytes_min

    def work(self) -> str | None:
        """Return the work that the last commits left, or None.

        "flush": the memtable is large enough. "index": enough rows were deleted since "index" was
        last returned that graphs may need a repair.
        """
        counters = self.note_backlog()
        memtable_bytes = (counters.next_row - counters.sealed_to) * row_bytes(self.store)
        if memtable_bytes >= self._flush_bytes(counters.sealed_to):
            return "flush"
        ever_deleted = counters.next_row - counters.live_count
        if ever_deleted - self._deleted_when_notified < _DELETED_WORTH_A_LOOK * (
            counters.live_count + 1
        ):
            return None
        self._deleted_when_notified = ever_deleted
        return "index" if counters.sealed_to > 0 else None

    @property
    def used(self) -> bool:
        """Whether the store is open and was used since this was last set to False."""
        environment = self.store.environment
        return environment.used and environment.is_open

    @used.setter
    def used(self, used: bool) -> None:
        self.store.environment.used = used

    def evict(self) -> bool:
        """Close files and mappings until the next use; False if the store can't be closed now."""
        self.snapshots.forget()
        self.searcher.matcher.forget()
        self.meter.forget_queries()
        return self.store.environment.evict()

    def close(self, *, dropped: bool = False) -> None:
        """Close the store and drop the snapshots."""
        self.meter.close()
        self.snapshots.forget()
        self.searcher.matcher.forget()
        self.store.close(dropped=dropped)
