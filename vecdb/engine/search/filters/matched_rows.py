"""The live rows of a collection that match a filter: their number, or their row numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.filters.column_matches import usable_columns
from vecdb.engine.search.filters.matching import Matcher
from vecdb.engine.search.snapshots.snapshot import SearchUnit, Snapshot
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.search.snapshots.streaming import SnapshotTooOldError
from vecdb.engine.store.filtered_rows import FilteredRows
from vecdb.engine.store.leases import leased
from vecdb.engine.store.store import Store
from vecdb.engine.store.tombstones import read_deleted_since
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import Filter, parse_filter

__all__ = ["MatchedRows", "RowsAtSeq"]

_SLICE_ROWS: Final = 5_000
"""Rows that one transaction evaluates: about 20 ms."""

_EVALUATED_ROWS_MAX: Final = 20_000
"""Rows outside of columns that a page of a scroll evaluates to know which rows to read."""

_CANDIDATE_COST: Final = 4
"""Reading all records takes less time than finding more than one row in so many, page by page."""

_ALL: Final = parse_filter({})


class RowsAtSeq(NamedTuple):
    """Rows, int64, ascending, of the state at ``seq``, which is that of ``snapshot``. deadline:
    renews the lease, too; check it between slices of work."""

    seq: int
    rows: npt.NDArray[np.int64]
    deadline: Deadline
    snapshot: Snapshot


class MatchedRows:
    """Finds rows of one collection. Thread-safe."""

    def __init__(self, store: Store, snapshots: SnapshotManager, matcher: Matcher) -> None:
        self._store, self._snapshots, self._matcher = store, snapshots, matcher

    def count(self, filter: Filter, deadline: Deadline) -> int:
        """Return how many live rows match, in one committed state.

        Raises:
            NotFoundError: the collection was dropped.
            DataLossError: a record is damaged.
            DeadlineExceededError, CancelledError.
        """
        snapshot = self._snapshots.snapshot()
        if filter == _ALL:
            return snapshot.live_count
        if snapshot.holds_all:
            try:
                count = 0
                for unit in snapshot.units:
                    count += self._matcher.count_of(snapshot, unit, filter, deadline)
                return count
            except SnapshotTooOldError:
                pass
        with self.at_one_seq(filter, deadline) as found:
            return len(found.rows)

    @contextlib.contextmanager
    def at_one_seq(self, filter: Filter | None, deadline: Deadline) -> Iterator[RowsAtSeq]:
        """Find the rows that match in one committed state, or all live rows; their records at that
        state stay until the context ends. Must not be called inside a transaction. Raises as
        ``count``."""
        with leased(self._store) as keep:
            deadline = deadline.also(keep)
            snapshot = self._snapshots.snapshot()
            seq = snapshot.state.seq
            rows = self._of_snapshot(snapshot, filter or _ALL, deadline, seq)
            yield RowsAtSeq(seq, rows, deadline, snapshot)

    def candidates(
        self, filter: Filter, seq: int, deadline: Deadline
    ) -> npt.NDArray[np.int64] | None:
        """Return rows among which are all that were live at a leased seq and matched then, int64,
        ascending, and none deleted before; None if reading all records takes no longer.

        They are those that match now, and those that changed or were deleted since. Raises as
        ``count``.
        """
        snapshot = self._snapshots.snapshot()
        now, units = snapshot.state.seq, snapshot.units
        others = sum(each.count for each in units if usable_columns(each, now) is None)
        if filter == _ALL or now < seq or not snapshot.holds_all or others > _EVALUATED_ROWS_MAX:
            return None
        count = snapshot.live_count
        if all(usable_columns(each, now) is None for each in units):
            return None
        deleted = read_deleted_since(self._store, seq, now)
        changed = self._store.changed_rows.since(
            seq, now, 0, snapshot.counters.next_row, by_records=False
        )
        if deleted is None or changed is None:
            return None
        try:
            rows = self._of_snapshot(snapshot, filter, deadline, None)
        except SnapshotTooOldError:
            return None
        if _CANDIDATE_COST * (len(rows) + len(deleted) + len(changed)) > count:
            return None
        return np.union1d(rows, np.concatenate([deleted, changed]))

    def rows(self, filter: Filter, deadline: Deadline) -> FilteredRows:
        """Return the rows that match, for ``advance``: those whose records did not change since
        their seq matched then, the others may have been evaluated as of a later seq. Raises as
        ``count``."""
        snapshot = self._snapshots.snapshot()
        try:
            rows = self._of_snapshot(snapshot, filter, deadline, None)
        except SnapshotTooOldError:
            # Rows were purged in the meantime. The latest records are still there.
            rows = self._evaluated(0, snapshot.counters.next_row, filter, deadline, None)
        return FilteredRows(filter, None, snapshot.state.seq, rows)

    def _of_snapshot(
        self, snapshot: Snapshot, filter: Filter, deadline: Deadline, seq: int | None
    ) -> npt.NDArray[np.int64]:
        """Return the rows that match. seq: the state in which rows are evaluated that the snapshot
        does not hold; None for the latest."""
        parts = [self._of_unit(snapshot, unit, filter, deadline) for unit in snapshot.units]
        if not snapshot.holds_all:
            for first, end in _intervals_not_held(snapshot):
                parts.append(self._evaluated(first, end, filter, deadline, seq))
        return np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))

    def _of_unit(
        self, snapshot: Snapshot, unit: SearchUnit, filter: Filter, deadline: Deadline
    ) -> npt.NDArray[np.int64]:
        mask = unit.delete_bitmap
        if filter != _ALL:
            mask = self._matcher.selection_of(snapshot, unit, filter, deadline).mask
        if len(mask) == 0:
            return unit.rows[: unit.count]
        hidden = np.unpackbits(mask, count=unit.count, bitorder="little").view(bool)
        rows: npt.NDArray[np.int64] = unit.rows[: unit.count][~hidden]
        return rows

    def _evaluated(
        self, row: int, end_row: int, filter: Filter, deadline: Deadline, at: int | None
    ) -> npt.NDArray[np.int64]:
        """Return the rows of an interval that match, at a seq, or by the latest records of each."""
        store, matches, found = self._store, filter.matches_json, []
        while row < end_row:
            deadline.check()
            with store.environment.read() as transaction:
                first = store.rows.next_recorded(transaction, row)
                if first is None or first >= end_row:
                    break
                row = min(first + _SLICE_ROWS, end_row)
                seq = store.read_state(transaction).seq if at is None else at
                deleted = set(store.rows.read_deleted(transaction, first, row, seq).tolist())
                records = store.rows.iterate_records(transaction, first, row, seq)
                found += [
                    each
                    for each, encoded, raw in records
                    if each not in deleted and matches(encoded.decode(), raw)
                ]
        return np.array(found, np.int64)


def _intervals_not_held(snapshot: Snapshot) -> list[tuple[int, int]]:
    """Return the intervals of rows, first and end, that are in none of the snapshot's units."""
    intervals = [(each.first_row, each.end_row) for each in snapshot.lost]
    return [*intervals, (snapshot.counters.sealed_to, snapshot.counters.next_row)]
