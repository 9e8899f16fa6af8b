"""The keeper of views: gives each search one that is as new as the last commit.

A search asks LMDB for the number of its last commit, which takes a microsecond, and takes the view
that covers it. If there is none, one thread makes it, from the last view and the log where it can,
while others wait outside any transaction. So a search sees every batch that was acknowledged before
it began, by whichever process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.memtable import Memtable
from vecdb.engine.search.snapshot import NOTHING_DELETED, SegmentSnapshot, Snapshot, is_clean
from vecdb.engine.search.snapshot_budget import KeepsSnapshots, SnapshotBudget
from vecdb.engine.search.streaming import SnapshotTooOldError, Unread, check_not_too_old, count_live
from vecdb.engine.segments.flushing import load_rows, row_bytes
from vecdb.engine.segments.lifecycle import quarantine, quarantine_parts
from vecdb.engine.segments.segment import RowArrays, Segment, SegmentDamagedError, padded_width
from vecdb.engine.segments.verifying import VerifiedSegments, Verifier
from vecdb.engine.store import layout
from vecdb.engine.store.leases import leased
from vecdb.engine.store.segment_table import SegmentEntry, in_place
from vecdb.engine.store.store import Store
from vecdb.engine.store.tombstones import read_deleted, read_deleted_since
from vecdb.engine.system.files import os_errors_translated
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
"""Times that purging may overtake the making of a view before a pin holds it up."""

_BATCHES_AT_ONCE = 1_000
_ANY_NUMBER = 2**62
_SLICE_ROWS, _SLICE_BYTES = 100_000, 32 * 1024**2
"""Batches of the log and fresh rows that one transaction reads at most."""


class _SegmentGoneError(Exception):
    """A segment's files could not be opened."""

    def __init__(self, number: int, generation: int) -> None:
        super().__init__(number, generation)
        self.number, self.generation = number, generation


class SnapshotManager:
    """Makes views of one collection and keeps the newest. Safe to use from many threads."""

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
        budget: SnapshotBudget | None = None,
    ) -> None:
        """Make no view yet.

        Args:
            with_memtable: False leaves the fresh rows out, for those who work on segments only.
            on_work: called when a new view shows work for the indexer; must return at once.
            verifier: compares segments with their checksums once they were opened; without it they
                stay unverified until ``Segment.verify`` is called.
            held_bytes_max: fresh rows, and rows of lost segments, are held in memory up to so many
                bytes each; a search reads the others from the store. None: all are held.
            budget: told how large each view is, to have others forgotten.
        """
        self._store = store
        self._on_work = on_work
        self._told_generation = -1
        self._unreadable: set[int] = set()
        self._verified = VerifiedSegments(store, self._lose, self._lose_parts, verifier)
        self._with_memtable = with_memtable
        self._segments_folder = folder / "segments"
        self._collection_id = collection_id
        self._width = padded_width(store.config.dim)
        self._slice_rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES // (4 * store.config.dim)))
        self._unit = store.config.metric is Metric.COSINE
        self._held_bytes_max = held_bytes_max
        self._memtable_rows_max = _ANY_NUMBER
        if held_bytes_max is not None:
            self._memtable_rows_max = max(1, int(held_bytes_max / Memtable.row_bytes(self._width)))
        self._budget = budget
        self.used_at = 0.0
        # The newest view, and a commit whose state it covers, numbered by the transaction that read
        # the state: ``last_commit`` may already name one that readers do not see yet.
        self._known: tuple[int, Snapshot | None] = (-1, None)
        self._making = threading.Lock()

    def snapshot(self) -> Snapshot:
        """A view of the state that is committed now, or of a newer one."""
        self.used_at = monotonic()
        known_commit, snapshot = self._known
        if snapshot is not None and self._store.environment.last_commit() == known_commit:
            return snapshot
        with self._store.environment.read() as transaction:
            commit, state = transaction.id(), self._store.read_state(transaction)
        if snapshot is not None and _covers(snapshot.state, state):
            # Something else was committed; the next searches need not look again.
            if self._making.acquire(blocking=False):
                if self._known[1] is snapshot:
                    self._known = (commit, snapshot)
                self._making.release()
            return snapshot
        excess: list[KeepsSnapshots] = []
        with self._making:
            _, snapshot = self._known
            if snapshot is None or not _covers(snapshot.state, state):
                snapshot = self._next(snapshot)
                self._known = (commit, snapshot)
                if self._budget is not None:
                    excess = self._budget.note(self, snapshot.private_bytes)
        for manager in excess:
            manager.let_go()
        return snapshot

    def forget(self) -> None:
        """Let the kept view go, as when the collection is closed."""
        with self._making:
            self._forget()

    def let_go(self) -> bool:
        """As ``forget``, but without waiting: False if a view is just being made."""
        if not self._making.acquire(blocking=False):
            return False
        try:
            self._forget()
        finally:
            self._making.release()
        return True

    def _forget(self) -> None:
        self._known = (-1, None)
        if self._budget is not None:
            self._budget.note(self, 0)

    def verify(self, check: Callable[[], None]) -> bool:
        """Compare the segments of the newest view now that were not compared yet; True if there is
        nothing to compare any more, False if some were damaged or replaced: look at a new view.

        Args:
            check: called every few milliseconds, to raise if it is to end.
        """
        sound = True
        for segment in [s.segment for s in self.snapshot().segments if s.segment is not None]:
            if not segment.verified and not self._verified.compare(segment, check):
                sound = False
        return sound

    def _lose(self, number: int) -> bool:
        """A segment turned out to be damaged, or its files are gone: the next view is made without
        them. False if it is not in place any more."""
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
                # Another process may just have replaced it; if the store still speaks of it in
                # the same generation, the files are really gone.
                if self._store.current_state().generation == gone.generation:
                    self._give_up(gone)
                continue
            except SnapshotTooOldError:
                too_old += 1
                continue
            self._tell_of_work(snapshot)
            return snapshot
        raise UnavailableError(
            f"the segments of the collection changed {_ATTEMPTS_MAX} times while they were opened",
            Reason.SEGMENTS_CHANGING,
        )

    def _tell_of_work(self, snapshot: Snapshot) -> None:
        """Once a generation, if a segment is lost or has many dead; flat ones are known of."""
        if self._on_work is None or self._told_generation == snapshot.state.generation:
            return
        if any(
            s.segment is None or s.segment.lost_parts or (s.has_graph and not is_clean(s))
            for s in snapshot.segments
        ):
            self._told_generation = snapshot.state.generation
            self._on_work()

    def _give_up(self, gone: _SegmentGoneError) -> None:
        """Mark a segment lost for everyone; if that can't be written, go without it here."""
        try:
            quarantine(self._store, gone.number, gone.generation)
        except (ResourceExhaustedError, UnavailableError, OutcomeUnknownError):
            self._unreadable.add(gone.number)

    def _advanced(self, last: Snapshot | None) -> Snapshot | None:
        """The last view with the batches since, if the segments are still the same."""
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
                return None  # The log only saves work: everything follows from ``dead`` too.
            if entries is None:
                return None
            memtable = last.memtable
            if added:
                dead = self._store.rows.read_deleted(
                    transaction, memtable.end_row, counters.next_row, state.seq
                )
                memtable = self._filled(transaction, memtable, counters.next_row, dead)
        died = _tombstones(entries)
        segments = last.segments
        if len(died):
            segments = tuple(s.with_tombstones(died) for s in segments)
            memtable = memtable.with_tombstones(died[np.searchsorted(died, memtable.first_row) :])
        return self._snapshot(state, counters, segments, memtable)

    def _snapshot(
        self,
        state: layout.State,
        counters: layout.Counters,
        segments: tuple[SegmentSnapshot, ...],
        memtable: Memtable,
    ) -> Snapshot:
        """A view with what is not held; how many rows of that live is what the others leave."""
        rest = None
        if self._with_memtable and memtable.end_row < counters.next_row:
            held = memtable.live_count + sum(segment.live_count for segment in segments)
            if counters.live_count > held:
                rest = Unread(memtable.end_row, counters.next_row, counters.live_count - held)
        return Snapshot(state, counters, segments, memtable, rest)

    def _built(self, last: Snapshot | None) -> Snapshot:
        """A view from the store; what the last one has in common with it is used again.

        It is made in many short transactions and still of one state, the first one's: batches are
        only added to, and deaths after that seq are passed over. Deaths may be removed, but for
        those in segments in place and of rows whose vectors are there; both are looked at in the
        transaction that reads the deaths. Rows that died after that seq may be purged before they
        are read; that is noticed at the end.
        """
        with self._store.environment.read() as transaction:
            self._store.check_not_dropped(transaction)
            state = self._store.read_state(transaction)
            counters = self._store.read_counters(transaction)
            placed = in_place(self._store.read_segments(transaction))
        died, known = None, {}
        if last is not None and last.memtable.first_row <= counters.sealed_to:
            died = read_deleted_since(self._store, last.state.seq, state.seq)
        if last is None or died is None:
            memtable = Memtable.empty(counters.sealed_to, self._width, self._memtable_rows_max)
        else:
            lost = {n for n, e in placed if e.is_quarantined or n in self._unreadable}
            lost_parts = {n: e.lost_parts for n, e in placed}
            known = {
                s.number: s.with_tombstones(died)
                for s in last.segments
                if (s.number in lost if s.segment is None else s.number not in lost)
                and (s.segment is None or s.segment.lost_parts == lost_parts.get(s.number))
            }
            memtable = last.memtable.from_row(counters.sealed_to)
            memtable = memtable.with_tombstones(died[np.searchsorted(died, counters.sealed_to) :])
        segments = []
        held_bytes = sum(s.private_bytes for s in known.values() if s.segment is None)
        # From the right: there segments are small and soon replaced by others.
        for number, entry in reversed(placed):
            segment = known.get(number)
            if segment is None:
                dead = self._dead_of(number, entry, state)
                segment = self._opened(number, entry, state, dead, held_bytes)
                held_bytes += segment.private_bytes if segment.segment is None else 0
            segments.append(segment)
        memtable = self._filled_in_slices(memtable, counters.next_row, state.seq)
        with self._store.environment.read() as transaction:
            check_not_too_old(self._store, transaction, state.seq)
        return self._snapshot(state, counters, tuple(reversed(segments)), memtable)

    def _dead_of(
        self, number: int, entry: SegmentEntry, state: layout.State
    ) -> npt.NDArray[np.int64]:
        """Rows of a segment in place that have died."""

        def check(transaction: Any) -> None:
            present = self._store.read_segments(transaction).get(number)
            if present is None or not present.is_in_place:
                raise _SegmentGoneError(number, state.generation)

        return read_deleted(self._store, entry.first_row, entry.end_row, state.seq, check)

    def _filled_in_slices(self, memtable: Memtable, next_row: int, seq: int) -> Memtable:
        """With the rows up to ``next_row`` that were live at ``seq``, or as many as there is room
        for."""
        while self._with_memtable and memtable.end_row < next_row and memtable.has_room:
            begin, end = memtable.end_row, min(next_row, memtable.end_row + self._slice_rows)
            with self._store.environment.read() as transaction:
                dead = self._store.rows.read_deleted(transaction, begin, end, seq)
                memtable = self._filled(transaction, memtable, end, dead)
        return memtable

    def _opened(
        self,
        number: int,
        entry: SegmentEntry,
        state: layout.State,
        dead: npt.NDArray[np.int64],
        held_bytes: int,
    ) -> SegmentSnapshot:
        """A segment in place with its deaths; a lost one's rows from the store, if they are not too
        many beside ``held_bytes`` of others."""
        first, end = entry.first_row, entry.end_row
        if entry.is_quarantined or number in self._unreadable:
            content, unread_count = RowArrays.joined([], self._width), 0
            wanted = held_bytes + entry.count * row_bytes(self._store)
            if self._held_bytes_max is None or wanted <= self._held_bytes_max:
                content = load_rows(self._store, first, end, state.seq)
            else:
                unread_count = count_live(self._store, first, end, dead)
            return SegmentSnapshot(
                number, first, end, content, None, NOTHING_DELETED, 0, None, unread_count
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
            number, first, end, segment.content, segment.graph, NOTHING_DELETED, 0, segment
        )
        return opened.with_tombstones(dead)

    def _filled(
        self, transaction: Any, memtable: Memtable, end_row: int, dead: npt.NDArray[np.int64]
    ) -> Memtable:
        """With the rows up to ``end_row`` but for dead ones, or as many as there is room for."""
        blocks = self._store.rows.iterate_blocks(transaction, memtable.end_row, end_row)
        for rows, vectors in blocks:
            first, last = np.searchsorted(dead, [rows[0], rows[-1] + 1])
            if last > first:
                alive = ~np.isin(rows, dead[first:last], assume_unique=True)
                rows, vectors = rows[alive], vectors[alive]
            memtable = memtable.appended(rows, vectors, self._unit)
            if len(rows) and memtable.end_row <= rows[-1]:
                return memtable
        return memtable.known_to(end_row)


def _tombstones(entries: list[layout.LogEntry]) -> npt.NDArray[np.int64]:
    """Rows that died in these batches, ascending."""
    return np.sort(np.concatenate([np.zeros(0, np.uint64), *(e.died for e in entries)])).astype(
        np.int64
    )


def _covers(known: layout.State, wanted: layout.State) -> bool:
    return known.seq >= wanted.seq and known.generation >= wanted.generation
