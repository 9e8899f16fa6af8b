"""Which rows of a search unit match a filter, as of a snapshot.

    matches_of  from the rows' records, read in short transactions
    Matcher     the same, and keeps what it found

What was found for the nodes of a segment, or of the memtable, stays true until one of their records
changes: rows are never replaced, and deleted ones may be among the matches. The log says which
records changed between two seqs. Only those, and the rows that the memtable got since, are read
again.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.search.filters.column_matches import counted, decided
from vecdb.engine.search.filters.id_rows import ids_in, rows_with_ids
from vecdb.engine.search.filters.recent_columns import RecentColumns
from vecdb.engine.search.filters.row_runs import runs_of
from vecdb.engine.search.snapshots.memtable import nodes_of
from vecdb.engine.search.snapshots.snapshot import SearchUnit, Snapshot
from vecdb.engine.search.snapshots.streaming import check_not_too_old
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.segments.columns.node_sets import NodeSet
from vecdb.engine.segments.matches import Matches
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.weighted_lru import Evictable, WeightedLru
from vecdb.errors import DataLossError
from vecdb.filters import Filter, IdIn

__all__ = ["Matcher", "Selection", "matches_of"]

_SLICE_ROWS: Final = 5_000
"""Rows whose records one transaction reads: about 20 ms."""

_LOG_MAX: Final = 1_000
"""Batches of the log that are read to bring something up to date; after more it is found again."""

_ENTRIES_MAX: Final = 512
_BYTES_MAX: Final = 64 * 1024**2
"""Entries kept for a collection, and their bytes. They count in the budget of snapshots, too."""

_COUNTED_MAX: Final = 32
"""Rows that a count evaluates each time; what is found for more is kept."""

_ENTRY_BYTES: Final = 500

_NODES_AN_ID: Final = 8
"""Of more ids, it takes less time to compare all ids of a segment than to look them up."""

_LISTED_PART: Final = 0.1
"""Above this share of matches, nodes are hardly ever listed."""


@dataclass(frozen=True)
class Selection:
    """The live rows of a unit that match a filter.

    Attributes:
        matches: which nodes match, deleted ones included.
        mask: the delete bitmap that a search uses: bits of deleted nodes, and of those that do not
            match; empty if all nodes may be returned.
        count: live nodes that match.
        rows: all nodes.
    """

    matches: Matches
    mask: npt.NDArray[np.uint8]
    count: int
    rows: int

    @cached_property
    def ways(self) -> dict[Hashable, Any]:
        """A cache of ``plan``: the way for each request that was planned with this selection."""
        return {}

    @cached_property
    def nodes(self) -> npt.NDArray[np.int32]:
        """The live nodes that match, int32 (count,), ascending."""
        nodes = np.empty(self.count, np.int32)
        if len(self.mask):
            load_kernels().list_live(self.mask, self.rows, nodes)
        else:
            nodes[:] = np.arange(self.count)
        return nodes

    @cached_property
    def blocks(self) -> int:
        """The number of blocks of 16 nodes with one that is live and matches."""
        whole = len(self.mask) // 2 * 2
        if not len(self.mask):
            return -(-self.count // 16)
        return (
            int(np.count_nonzero(self.mask[:whole].view(np.uint16) != 0xFFFF)) + len(self.mask) % 2
        )

    @staticmethod
    def of(unit: SearchUnit, matches: Matches) -> Selection:
        """Return the live matches of a unit."""
        n = unit.count
        if matches.count == n:
            return Selection(matches, unit.delete_bitmap, unit.live_count, n)
        mask = np.empty((n + 7) // 8, np.uint8)
        count = load_kernels().mask_others(matches.bits(n), unit.delete_bitmap, n, mask)
        return Selection(matches, mask, count, n)


def matches_of(
    store: Store,
    snapshot: Snapshot,
    unit: SearchUnit,
    filter: Filter,
    deadline: Deadline,
    recent: RecentColumns | None = None,
) -> Matches:
    """Return which nodes of a unit match, by the columns of its segment, by ``recent`` ones, and by
    records at the snapshot's seq.

    Records decide for all rows without columns; for rows whose metadata changed since these were
    made; and where columns do not decide. Nodes that the unit's delete bitmap marks may be included
    or not.

    Raises:
        SnapshotTooOldError: some of the rows may have been purged.
        DataLossError: a record is damaged.
        DeadlineExceededError, CancelledError: between two slices of rows.
    """
    rows, seq = unit.rows[: unit.count], snapshot.state.seq
    wanted, columns = ids_in(filter.root), unit.parts.get(COLUMNS)
    if wanted is not None and (columns is None or len(wanted.ids) * _NODES_AN_ID <= unit.count):
        with_ids = rows_with_ids(store, snapshot, wanted, deadline)
        if with_ids.is_complete:
            return _among(store, rows, with_ids.rows, seq, filter, deadline)
    found = decided(store, unit, seq, filter)
    if found is None and recent is not None:
        found = recent.decided(unit, seq, filter, deadline)
    if found is None:
        return Matches.of_marks(_evaluated(store, rows, seq, filter, deadline))
    if not found.undecided.count:
        return found.certain.matches()
    nodes = found.undecided.nodes
    more = nodes[_evaluated(store, rows[nodes], seq, filter, deadline)]
    return (found.certain | NodeSet.of_nodes(len(rows), more)).matches()


def _among(
    store: Store,
    rows: npt.NDArray[np.int64],
    some: npt.NDArray[np.int64],
    seq: int,
    filter: Filter,
    deadline: Deadline,
) -> Matches:
    """Return which nodes match, none of them but those of some rows. Both int64, ascending."""
    nodes = nodes_of(rows, some)
    if not isinstance(filter.root, IdIn):
        nodes = nodes[_evaluated(store, rows[nodes], seq, filter, deadline)]
    return NodeSet.of_nodes(len(rows), nodes.astype(np.int32)).matches()


def _evaluated(
    store: Store, rows: npt.NDArray[np.int64], seq: int, filter: Filter, deadline: Deadline
) -> npt.NDArray[np.bool_]:
    """Return bool (n,): which rows, int64 (n,), ascending, have a record at seq that matches."""
    marks, matches = np.zeros(len(rows), bool), filter.matches_json
    for start in range(0, len(rows), _SLICE_ROWS):
        deadline.check()
        some = rows[start : start + _SLICE_ROWS]
        found = []
        with store.environment.read() as transaction:
            check_not_too_old(store, transaction, seq)
            for first, end in runs_of(some):
                found += [
                    row
                    for row, encoded, raw in store.rows.iterate_records(
                        transaction, first, end, seq
                    )
                    if matches(encoded.decode(), raw)
                ]
        marks[start + nodes_of(some, np.array(found, np.int64))] = True
    return marks


@dataclass(frozen=True)
class _Entry:
    """What was found for the first ``count`` nodes of a unit, as of a seq.

    Attributes:
        rows: of the unit, by which it is known. Files of a segment that was replaced must not stay
            mapped for it.
        delete_bitmap: of the unit that ``selection`` was made for.
    """

    rows: weakref.ref[npt.NDArray[np.int64]]
    seq: int
    count: int
    delete_bitmap: npt.NDArray[np.uint8]
    selection: Selection

    @property
    def nbytes(self) -> int:
        selection = self.selection
        nodes = 4 * selection.count if selection.count < _LISTED_PART * selection.rows else 0
        return _ENTRY_BYTES + selection.matches.nbytes + 2 * selection.mask.nbytes + nodes

    def fits(self, unit: SearchUnit) -> bool:
        return self.count == unit.count and self.delete_bitmap is unit.delete_bitmap


class Matcher:
    """Finds which rows match, and keeps it. Thread-safe.

    Attributes:
        recent: columns of rows that are in no graph.

    Args:
        budget: bounds the memory of all collections' snapshots and matches.
    """

    def __init__(self, store: Store, budget: WeightedLru | None = None) -> None:
        self._store, self._budget = store, budget
        self.recent = RecentColumns(store, budget)
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[int, bytes], _Entry] = OrderedDict()
        self._bytes = 0
        self.used = True
        """Set at each use, see ``WeightedLru``."""

    def count_of(
        self, snapshot: Snapshot, unit: SearchUnit, filter: Filter, deadline: Deadline
    ) -> int:
        """Return how many live nodes of a unit match, by columns alone where they know it without
        reading nodes. Raises as ``matches_of``."""
        found = counted(self._store, unit, snapshot.state.seq, filter)
        if found is None or found.undecided.count > _COUNTED_MAX:
            return self.selection_of(snapshot, unit, filter, deadline).count
        rows = unit.rows[found.undecided.nodes]
        if not len(rows):
            return found.certain_count
        marks = _evaluated(self._store, rows, snapshot.state.seq, filter, deadline)
        return found.certain_count + int(np.count_nonzero(marks))

    def selection_of(
        self, snapshot: Snapshot, unit: SearchUnit, filter: Filter, deadline: Deadline
    ) -> Selection:
        """Return which live nodes of a unit match. Raises as ``matches_of``."""
        chunks = snapshot.memtable.chunks
        if unit.content is None and all(unit.rows is not chunk.rows for chunk in chunks):
            # Rows that were read for this search only.
            matches = matches_of(self._store, snapshot, unit, filter, deadline)
            return Selection.of(unit, matches)
        self.used = True
        key, seq = (id(unit.rows), filter.key), snapshot.state.seq
        with self._lock:
            known = self._entries.get(key)
            if known is not None:
                self._entries.move_to_end(key)
        if known is not None and known.rows() is not unit.rows:
            known = None
        if known is not None and seq < known.seq and ids_in(filter.root) is not None:
            known = None  # Rows under these ids that were deleted since may be missing.
        if known is not None and known.seq == seq and known.fits(unit):
            return known.selection
        found = None if known is None else self._updated(known, seq, unit, filter, deadline)
        if found is None:
            found = matches_of(self._store, snapshot, unit, filter, deadline, self.recent)
        matches = found
        if known is not None and matches is known.selection.matches and known.fits(unit):
            selection = known.selection
        else:
            selection = Selection.of(unit, matches)
        if known is None or known.seq <= seq:
            rows = weakref.ref(unit.rows)
            self._keep(key, _Entry(rows, seq, unit.count, unit.delete_bitmap, selection))
        return selection

    def _changed(self, unit: SearchUnit, one: int, other: int) -> npt.NDArray[np.int64] | None:
        """Return the nodes whose records changed between two seqs; None if the log is purged or
        damaged, or too long to read."""
        first, last = min(one, other), max(one, other)
        if first == last:
            return np.zeros(0, np.int64)
        if last - first > _LOG_MAX:
            return None
        with self._store.environment.read() as transaction:
            try:
                entries = self._store.rows.read_log(transaction, first, last)
            except DataLossError:
                return None  # The log only saves work.
        if entries is None:
            return None
        rows = [entry.changed for entry in entries if len(entry.changed)]
        if not rows:
            return np.zeros(0, np.int64)
        return nodes_of(unit.rows[: unit.count], np.unique(np.concatenate(rows)).astype(np.int64))

    def _updated(
        self, known: _Entry, seq: int, unit: SearchUnit, filter: Filter, deadline: Deadline
    ) -> Matches | None:
        """Return what is known, with the changed nodes and those after the known ones read; None if
        too much changed."""
        changed = self._changed(unit, known.seq, seq)
        if changed is None or (len(changed) and seq < known.seq):
            return None
        matches, count = known.selection.matches, unit.count
        if known.count == count and not len(changed):
            return matches
        marks = matches.marks(count)
        added = np.arange(min(known.count, count), count)
        nodes = np.concatenate([changed[changed < known.count], added])
        marks[nodes] = _evaluated(self._store, unit.rows[nodes], seq, filter, deadline)
        return Matches.of_marks(marks)

    def _keep(self, key: tuple[int, bytes], entry: _Entry) -> None:
        excess: dict[Evictable, int] = {}
        with self._lock:
            self._remove(key)
            self._entries[key] = entry
            self._bytes += entry.nbytes
            while len(self._entries) > _ENTRIES_MAX or self._bytes > _BYTES_MAX:
                self._remove(next(iter(self._entries)))
            if self._budget is not None:
                excess = self._budget.put(self, self._bytes)
        if excess and self._budget is not None:
            self._budget.evict(excess)

    def _remove(self, key: tuple[int, bytes]) -> None:
        entry = self._entries.pop(key, None)
        self._bytes -= 0 if entry is None else entry.nbytes

    def forget(self) -> None:
        """Drop all, for example when the collection's files are closed."""
        self.recent.forget()
        with self._lock:
            self._entries.clear()
            self._bytes = 0
            if self._budget is not None:
                self._budget.remove(self)

    def evict(self) -> bool:
        """Do ``forget``, as ``WeightedLru`` wants it."""
        self.forget()
        return True
