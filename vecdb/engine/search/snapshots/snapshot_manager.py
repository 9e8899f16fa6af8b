"""The snapshot manager: returns to each search a snapshot at least as new as the last commit.

A search reads LMDB's last transaction id, which takes a microsecond, and uses the cached snapshot
if it covers that transaction. Otherwise one thread creates a new snapshot, if possible from the
cached one and the log, while the other threads wait outside transactions. So a search sees every
batch that any process acknowledged before the search began.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.search.snapshots.memtable import Memtable
from vecdb.engine.search.snapshots.recent_batches import RecentBatches
from vecdb.engine.search.snapshots.snapshot import (
    NOTHING_DELETED,
    SegmentSnapshot,
    Snapshot,
    is_clean,
)
from vecdb.engine.search.snapshots.streaming import (
    SnapshotTooOldError,
    Unread,
    check_not_too_old,
    count_live,
)
from vecdb.engine.segments.flushing import load_rows, row_bytes
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.lifecycle import quarantine, quarantine_parts
from vecdb.engine.segments.segment import RowArrays, Segment, SegmentDamagedError, padded_width
from vecdb.engine.segments.verifying import VerifiedSegments, Verifier
from vecdb.engine.store import layout
from vecdb.engine.store.leases import leased
from vecdb.engine.store.segment_table import SegmentEntry, in_place
from vecdb.engine.store.store import Store
from vecdb.engine.store.tombstones import read_deleted, read_deleted_since
from vecdb.engine.system.files import os_errors_translated
from vecdb.engine.system.weighted_lru import Evictable, WeightedLru
from vecdb.errors import (
    DataLossError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
)
from vecdb.reasons import Reason
from vecdb.types import Metric

__all__ = ["SnapshotManager"]

_ATTEMPTS_MAX = 20
_TOO_OLD_MAX = 2
"""Attempts that may fail because the snapshot became too old, before a lease stops purging."""

_BATCHES_AT_ONCE = 1_000
_ANY_NUMBER = 2**62
_CHANGED_MIN, _CHANGED_FRACTION = 1_000, 0.05
"""Rows whose metadata changed, also as a fraction of the live ones, from which the indexer is
notified, so that it writes their columns again."""
_SLICE_ROWS, _SLICE_BYTES = 100_000, 32 * 1024**2
"""One transaction reads at most this many batches of the log, and rows (or bytes) of vectors."""


class _SegmentGoneError(Exception):
    """A segment's files could not be opened."""

    def __init__(self, number: int, generation: int) -> None:
        super().__init__(number, generation)
        self.number, self.generation = number, generation


class SnapshotManager:
    """Creates snapshots of one collection and caches the newest. Thread-safe."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        collection_id: str,
        *,
        with_memtable: bool = True,
        on_work: Callable[[], None] | None = None,
        verifier: Verifier | None = None,
        held_bytes_max: int | None = None,
        budget: WeightedLru | None = None,
    ) -> None:
        """Create no snapshot yet.

        Args:
            with_memtable: False leaves the memtable out, for work on segments only.
            on_work: called when a new snapshot shows work for the indexer; must not block.
            verifier: compares opened segments with their checksums in the background; without it
                they stay unverified until ``Segment.verify`` is called.
            held_bytes_max: most bytes of the memtable, and most bytes of rows of quarantined
                segments, held in memory; a search reads other rows from the store. None: no limit.
            budget: bounds the memory of the cached snapshots of several managers, which may evict
                each other's. It counts memtables, delete bitmaps and rows of quarantined segments;
                mapped segments are in the page cache.
        """
        self._store = store
        self._on_work = on_work
        self._notified_generation = -1
        self._changed_rows = 0
        """Changes of metadata since the indexer was last notified."""
        self._unreadable: set[int] = set()
        """Segments that are damaged but could not be marked so in the store."""
        self._verified = VerifiedSegments(
            store, self._quarantine_damaged, self._lose_parts, verifier
        )
        self._with_memtable = with_memtable
        self.recent_batches = RecentBatches()
        """Vectors of batches that this process has committed; the writer adds them."""
        self._segments_folder = folder / "segments"
        self._collection_id = collection_id
        self._width = padded_width(store.config.dim)
        self._slice_rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES // (4 * store.config.dim)))
        self._normalise = store.config.metric is Metric.COSINE
        self._held_bytes_max = held_bytes_max
        self._memtable_rows_max = _ANY_NUMBER
        if held_bytes_max is not None:
            self._memtable_rows_max = max(1, int(held_bytes_max / Memtable.row_bytes(self._width)))
        self._budget = budget
        self.used = True
        """Set at each use, see ``WeightedLru``."""

        # The newest snapshot, and the id of a commit that it covers. The id comes from the read
        # transaction: ``last_commit`` may be newer than what that transaction sees.
        self._known: tuple[int, Snapshot | None] = (-1, None)
        self._creating = threading.Lock()

    def snapshot(self) -> Snapshot:
        """Return a snapshot at least as new as the last commit.

        Raises:
            NotFoundError: the collection was dropped.
            DataLossError: the store is damaged.
            UnavailableError: SEGMENTS_CHANGING: every attempt was outrun by writers or purging.
        """
        self.used = True
        known_commit, snapshot = self._known
        if snapshot is not None and self._store.environment.last_commit() == known_commit:
            return snapshot
        with self._store.environment.read() as transaction:
            commit, state = transaction.id(), self._store.read_state(transaction)
        if snapshot is not None and _covers(snapshot.state, state):
            # The commit changed neither seq nor generation; spare later searches this read.
            if self._creating.acquire(blocking=False):
                if self._known[1] is snapshot:
                    self._known = (commit, snapshot)
                self._creating.release()
            return snapshot
        excess: dict[Evictable, int] = {}
        with self._creating:
            _, snapshot = self._known
            if snapshot is None or not _covers(snapshot.state, state):
                snapshot = self._next(snapshot)
                self._known = (commit, snapshot)
                if self._budget is not None:
                    excess = self._budget.put(self, snapshot.private_bytes)
        if excess and self._budget is not None:
            self._budget.evict(excess)
        return snapshot

    @property
    def known(self) -> tuple[int, Snapshot | None]:
        """The newest snapshot, and the number of a commit that it covers."""
        self.used = True
        return self._known

    def forget(self) -> None:
        """Drop the cached snapshot, for example when the collection is closed."""
        with self._creating:
            self._forget()

    def evict(self) -> bool:
        """Do ``forget`` without blocking; return False if a snapshot is being created."""
        if not self._creating.acquire(blocking=False):
            return False
        try:
            self._forget()
        finally:
            self._creating.release()
        return True

    def _forget(self) -> None:
        self._known = (-1, None)
        self.recent_batches.forget()
        if self._budget is not None:
            self._budget.remove(self)

    def verify(self, check: Callable[[], None]) -> bool:
        """Compare the newest snapshot's unverified segments with their checksums.

        Args:
            check: called every few milliseconds; may raise to end the comparison.

        Returns:
            True if all segments are verified; False if some were damaged or replaced: then verify
            a new snapshot.
        """
        all_verified = True
        for segment in [s.segment for s in self.snapshot().segments if s.segment is not None]:
            if not segment.verified and not self._verified.compare(segment, check):
                all_verified = False
        return all_verified

    def _quarantine_damaged(self, number: int) -> bool:
        """Quarantine a segment whose files are damaged or missing: later snapshots read its rows
        from the store. Return False if the segment is no longer live."""
        try:
            return quarantine(self._store, number)
        except (ResourceExhaustedError, UnavailableError, OutcomeUnknownError):
            self._unreadable.add(number)
            self.forget()
            return True

    def _lose_parts(self, segment: Segment, generation: int | None = None) -> None:
        """Note optional parts that are missing or damaged, so that the indexer derives them again.

        If that can't be written, this process goes on without them all the same.
        """
        with contextlib.suppress(ResourceExhaustedError, UnavailableError, OutcomeUnknownError):
            quarantine_parts(self._store, segment.number, segment.damaged_parts, generation)

    def _next(self, last: Snapshot | None) -> Snapshot:
        too_old = 0
        for _ in range(_ATTEMPTS_MAX):
            held = leased(self._store) if too_old >= _TOO_OLD_MAX else contextlib.nullcontext()
            try:
                with held:
                    snapshot = self._advanced(last) or self._built(last)
            except _SegmentGoneError as gone:
                # Another process may just have replaced the segment. If the generation is still
                # the same, the files are really damaged or missing.
                if self._store.current_state().generation == gone.generation:
                    self._quarantine_gone(gone)
                continue
            except SnapshotTooOldError:
                too_old += 1
                continue
            if self._with_memtable:
                self.recent_batches.taken_to(snapshot.state.seq)
            self._notify_work(snapshot)
            return snapshot
        raise UnavailableError(
            f"the segments of the collection changed {_ATTEMPTS_MAX} times while they were opened; "
            "retry later",
            Reason.SEGMENTS_CHANGING,
        )

    def _notify_work(self, snapshot: Snapshot) -> None:
        """Call ``on_work`` once per generation if a segment is quarantined or has many deleted
        rows, and whenever the metadata of many rows have changed. Flat segments need no call:
        flushing notifies the indexer."""
        if self._on_work is None:
            return
        if self._changed_rows >= max(_CHANGED_MIN, _CHANGED_FRACTION * snapshot.live_count):
            self._changed_rows = 0
            self._on_work()
        if self._notified_generation == snapshot.state.generation:
            return
        if any(
            s.segment is None or s.segment.lost_parts or (s.parts.has(GRAPH) and not is_clean(s))
            for s in snapshot.segments
        ):
            self._notified_generation = snapshot.state.generation
            self._on_work()

    def _quarantine_gone(self, gone: _SegmentGoneError) -> None:
        """Quarantine a segment for all processes; if the store can't be written, for this one."""
        try:
            quarantine(self._store, gone.number, gone.generation)
        except (ResourceExhaustedError, UnavailableError, OutcomeUnknownError):
            self._unreadable.add(gone.number)

    def _advanced(self, last: Snapshot | None) -> Snapshot | None:
        """Return the last snapshot advanced by the log; None if it must be created from the store.

        That is so if the segments have changed, or the log is too long, purged or damaged.
        """
        if last is None:
            return None
        with self._store.environment.read() as transaction:
            state = self._store.read_state(transaction)
            if state.generation != last.state.generation:
                return None
            counters = self._store.read_counters(transaction)
            added = counters.next_row - last.memtable.end_row
            if not (self._with_memtable and last.memtable.has_room):
                added = 0
            if state.seq - last.state.seq > _BATCHES_AT_ONCE or added > self._slice_rows:
                return None  # Too much for one transaction.
            try:
                entries = self._store.rows.read_log(transaction, last.state.seq, state.seq)
            except DataLossError:
                return None  # The log only saves work: the tombstones hold the same.
            if entries is None:
                return None
            memtable = last.memtable
            if added:
                of_added = self._store.rows.read_deleted(
                    transaction, memtable.end_row, counters.next_row, state.seq
                )
                memtable = self._filled(transaction, memtable, counters.next_row, of_added)
        self._changed_rows += sum(len(entry.changed) for entry in entries)
        deleted = _deleted_rows(entries)
        segments = last.segments
        if len(deleted):
            segments = tuple(s.with_tombstones(deleted) for s in segments)
            first = np.searchsorted(deleted, memtable.first_row)
            memtable = memtable.with_tombstones(deleted[first:])
        return self._snapshot(state, counters, segments, memtable)

    def _snapshot(
        self,
        state: layout.State,
        counters: layout.Counters,
        segments: tuple[SegmentSnapshot, ...],
        memtable: Memtable,
    ) -> Snapshot:
        """Return a snapshot. The number of live rows that it does not hold is the difference
        between the counter of live rows and the live rows held."""
        rest = None
        if self._with_memtable and memtable.end_row < counters.next_row:
            held = memtable.live_count + sum(segment.live_count for segment in segments)
            if counters.live_count > held:
                rest = Unread(memtable.end_row, counters.next_row, counters.live_count - held)
        return Snapshot(state, counters, segments, memtable, rest)

    def _built(self, last: Snapshot | None) -> Snapshot:
        """Create a snapshot from the store, reusing what is unchanged of the last one.

        It takes many short transactions, yet the snapshot is of one state, the first transaction's:
        rows are only ever added, and tombstones of a later seq are ignored. Tombstones may be
        removed at any time, except those of rows in live segments and of rows whose vectors are
        still stored; the transaction that reads tombstones checks that. Rows deleted after the
        snapshot's seq may be purged before they are read; the last transaction checks for that.
        """
        with self._store.environment.read() as transaction:
            self._store.check_not_dropped(transaction)
            state = self._store.read_state(transaction)
            counters = self._store.read_counters(transaction)
            placed = in_place(self._store.read_segments(transaction))
        deleted, known = None, {}
        if last is not None and last.memtable.first_row <= counters.sealed_to:
            deleted = read_deleted_since(self._store, last.state.seq, state.seq)
        if last is None or deleted is None:
            memtable = Memtable.empty(counters.sealed_to, self._width, self._memtable_rows_max)
        else:
            lost = {n for n, e in placed if e.is_quarantined or n in self._unreadable}
            lost_parts = {n: e.lost_parts for n, e in placed}
            known = {
                s.number: s.with_tombstones(deleted)
                for s in last.segments
                if (s.number in lost if s.segment is None else s.number not in lost)
                and (s.segment is None or s.segment.lost_parts == lost_parts.get(s.number))
            }
            memtable = last.memtable.from_row(counters.sealed_to)
            first = np.searchsorted(deleted, counters.sealed_to)
            memtable = memtable.with_tombstones(deleted[first:])
        segments = []
        held_bytes = sum(s.private_bytes for s in known.values() if s.segment is None)
        # Newest first: new segments are small and are the first to be replaced by others.
        for number, entry in reversed(placed):
            segment = known.get(number)
            if segment is None:
                all_deleted = self._deleted_rows_of(number, entry, state)
                segment = self._opened(number, entry, state, all_deleted, held_bytes)
                held_bytes += segment.private_bytes if segment.segment is None else 0
            segments.append(segment)
        memtable = self._filled_in_slices(memtable, counters.next_row, state.seq)
        with self._store.environment.read() as transaction:
            check_not_too_old(self._store, transaction, state.seq)
        return self._snapshot(state, counters, tuple(reversed(segments)), memtable)

    def _deleted_rows_of(
        self, number: int, entry: SegmentEntry, state: layout.State
    ) -> npt.NDArray[np.int64]:
        """Return the deleted rows of a live segment, int64, ascending.

        Raises:
            _SegmentGoneError: the segment is no longer live.
        """

        def check(transaction: Transaction) -> None:
            present = self._store.read_segments(transaction).get(number)
            if present is None or not present.is_in_place:
                raise _SegmentGoneError(number, state.generation)

        return read_deleted(self._store, entry.first_row, entry.end_row, state.seq, check)

    def _filled_in_slices(self, memtable: Memtable, next_row: int, seq: int) -> Memtable:
        """Add the rows before ``next_row`` that were live at ``seq``, as many as fit."""
        while self._with_memtable and memtable.end_row < next_row and memtable.has_room:
            begin, end = memtable.end_row, min(next_row, memtable.end_row + self._slice_rows)
            with self._store.environment.read() as transaction:
                deleted = self._store.rows.read_deleted(transaction, begin, end, seq)
                memtable = self._filled(transaction, memtable, end, deleted)
        return memtable

    def _opened(
        self,
        number: int,
        entry: SegmentEntry,
        state: layout.State,
        deleted: npt.NDArray[np.int64],
        held_bytes: int,
    ) -> SegmentSnapshot:
        """Open a live segment with its deleted rows.

        The rows of a quarantined segment are read from the store, unless they and the
        ``held_bytes`` of other quarantined segments exceed the limit.

        Raises:
            _SegmentGoneError: the files are missing or damaged.
        """
        first, end = entry.first_row, entry.end_row
        if entry.is_quarantined or number in self._unreadable:
            content, unread_count = RowArrays.joined([], self._width), 0
            wanted = held_bytes + entry.count * row_bytes(self._store)
            if self._held_bytes_max is None or wanted <= self._held_bytes_max:
                content = load_rows(self._store, first, end, state.seq)
            else:
                unread_count = count_live(self._store, first, end, deleted)
            return SegmentSnapshot(
                number, first, end, content, content.parts, NOTHING_DELETED, 0, None, unread_count
            )
        folder = self._segments_folder / str(number)
        try:
            with os_errors_translated(str(folder)):
                segment = Segment(folder, number, self._collection_id, entry)
        except (FileNotFoundError, NotADirectoryError, SegmentDamagedError) as error:
            raise _SegmentGoneError(number, state.generation) from error
        if segment.damaged_parts:
            self._lose_parts(segment, state.generation)
        self._verified.opened(segment)
        opened = SegmentSnapshot(
            number, first, end, segment.content, segment.parts, NOTHING_DELETED, 0, segment
        )
        return opened.with_tombstones(deleted)

    def _filled(
        self,
        transaction: Transaction,
        memtable: Memtable,
        end_row: int,
        deleted: npt.NDArray[np.int64],
    ) -> Memtable:
        """Add the rows before ``end_row`` that are not deleted, as many as fit."""
        for rows, vectors in self._added_rows(transaction, memtable.end_row, end_row):
            first, last = np.searchsorted(deleted, [rows[0], rows[-1] + 1])
            if last > first:
                live = ~np.isin(rows, deleted[first:last], assume_unique=True)
                rows, vectors = rows[live], vectors[live]
            memtable = memtable.appended(rows, vectors, self._normalise)
            if len(rows) and memtable.end_row <= rows[-1]:
                return memtable
        return memtable.known_to(end_row)

    def _added_rows(
        self, transaction: Transaction, first_row: int, end_row: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yield row numbers and vectors of an interval as ``iterate_blocks`` does, in larger parts
        where the batches that wrote them are at hand."""
        from_store = self._store.rows.iterate_blocks
        for first, vectors in self.recent_batches.within(
            self._store, transaction, first_row, end_row
        ):
            if first > first_row:
                yield from from_store(transaction, first_row, first)
            first_row = first + len(vectors)
            yield np.arange(first, first_row), vectors
        if first_row < end_row:
            yield from from_store(transaction, first_row, end_row)


def _deleted_rows(entries: list[layout.LogEntry]) -> npt.NDArray[np.int64]:
    """Return the rows deleted by these batches, ascending."""
    return np.sort(np.concatenate([np.zeros(0, np.uint64), *(e.deleted for e in entries)])).astype(
        np.int64
    )


def _covers(known: layout.State, wanted: layout.State) -> bool:
    return known.seq >= wanted.seq and known.generation >= wanted.generation
