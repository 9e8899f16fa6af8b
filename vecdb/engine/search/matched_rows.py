"""The live rows of a collection that match a filter: their number, or their row numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.matching import Matcher
from vecdb.engine.search.snapshot import SearchUnit, Snapshot
from vecdb.engine.search.snapshot_manager import SnapshotManager
from vecdb.engine.search.streaming import SnapshotTooOldError
from vecdb.engine.store.filtered_rows import FilteredRows, OvertakenError, advance
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import Filter

__all__ = ["MatchedRows"]

_SLICE_ROWS: Final = 5_000
"""Rows that one transaction evaluates: about 20 ms."""

_ATTEMPTS: Final = 8


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
        if snapshot.holds_all:
            try:
                count = 0
                for unit in snapshot.units:
                    count += self._matcher.count_of(snapshot, unit, filter, deadline)
                return count
            except SnapshotTooOldError:
                pass
        return len(self.at_one_seq(filter, deadline).rows)

    def at_one_seq(self, filter: Filter, deadline: Deadline) -> FilteredRows:
        """Return all rows that match in one committed state. Raises as ``count``."""
        found: FilteredRows | None = None
        for attempt in range(1, _ATTEMPTS + 1):
            found = self.rows(filter, deadline) if found is None else found
            with self._store.environment.read() as transaction:
                self._store.check_not_dropped(transaction)
                seq = self._store.read_state(transaction).seq
                try:
                    return advance(self._store.rows, transaction, found, seq)
                except OvertakenError:
                    if attempt == _ATTEMPTS:
                        raise
            found = None  # The log was purged in the meantime.
        raise AssertionError

    def rows(self, filter: Filter, deadline: Deadline) -> FilteredRows:
        """Return the rows that match, for ``advance``: those whose records did not change since
        their seq matched then, the others may have been evaluated as of a later seq. Raises as
        ``count``."""
        snapshot = self._snapshots.snapshot()
        try:
            parts = [self._of_unit(snapshot, unit, filter, deadline) for unit in snapshot.units]
            if not snapshot.holds_all:
                parts += [
                    self._evaluated(first, end, filter, deadline)
                    for first, end in _intervals_not_held(snapshot)
                ]
        except SnapshotTooOldError:
            # Rows were purged in the meantime. The latest records are still there.
            parts = [self._evaluated(0, snapshot.counters.next_row, filter, deadline)]
        rows = np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))
        return FilteredRows(filter, None, snapshot.state.seq, rows)

    def _of_unit(
        self, snapshot: Snapshot, unit: SearchUnit, filter: Filter, deadline: Deadline
    ) -> npt.NDArray[np.int64]:
        mask = self._matcher.selection_of(snapshot, unit, filter, deadline).mask
        if len(mask) == 0:
            return unit.rows[: unit.count]
        hidden = np.unpackbits(mask, count=unit.count, bitorder="little").view(bool)
        rows: npt.NDArray[np.int64] = unit.rows[: unit.count][~hidden]
        return rows

    def _evaluated(
        self, row: int, end_row: int, filter: Filter, deadline: Deadline
    ) -> npt.NDArray[np.int64]:
        """Return the rows of an interval that match, by the latest records of each."""
        store, matches, found = self._store, filter.matches_json, []
        while row < end_row:
            deadline.check()
            with store.environment.read() as transaction:
                first = store.rows.next_recorded(transaction, row)
                if first is None or first >= end_row:
                    break
                row, seq = min(first + _SLICE_ROWS, end_row), store.read_state(transaction).seq
                deleted = set(store.rows.read_deleted(transaction, first, row, seq).tolist())
                found += [
                    at
                    for at, encoded, raw in store.rows.iterate_records(transaction, first, row, seq)
                    if at not in deleted and matches(encoded.decode(), raw)
                ]
        return np.array(found, np.int64)


def _intervals_not_held(snapshot: Snapshot) -> list[tuple[int, int]]:
    """Return the intervals of rows, first and end, that are in none of the snapshot's units."""
    intervals = [(each.first_row, each.end_row) for each in snapshot.lost]
    return [*intervals, (snapshot.counters.sealed_to, snapshot.counters.next_row)]
