"""Columns in memory, for rows that are in no graph yet: the memtable and flat segments.

Columns are files of graph segments (``segments/columns/``). Without them the records of all other
rows would be read for each new filter, at some microseconds a row. So a filter that meets many such
rows makes columns of them, which takes little longer than to evaluate it, and later filters use
these. They are made in blocks, of nodes one after the other:

    | block, seq 7                    | block, seq 9    | undecided: by their records |

A memtable grows: a few further nodes stay undecided, more become a block, together with blocks that
are not much larger, so that there are few. A block is of one seq. Rows whose metadata changed since
are undecided, as those of graphs are (``column_matches``), and if they are many, the block is made
again. A search of an earlier state does not use it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.filters.column_matches import Decided, without_deleted
from vecdb.engine.search.filters.row_runs import runs_of
from vecdb.engine.search.snapshots.memtable import nodes_of
from vecdb.engine.search.snapshots.snapshot import SearchUnit
from vecdb.engine.search.snapshots.streaming import check_not_too_old
from vecdb.engine.segments.columns.columns import Columns, build_columns
from vecdb.engine.segments.columns.evaluating import term_of
from vecdb.engine.segments.columns.node_sets import NodeSet
from vecdb.engine.segments.row_arrays import RowIds
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.weighted_lru import Evictable, WeightedLru
from vecdb.filters import Filter
from vecdb.index_fields import named_paths

__all__ = ["RecentColumns"]

_ROWS_MIN: Final = 256
"""Rows without columns from which these are made; the records of fewer take a millisecond."""

_SLICE_ROWS: Final = 4_000
"""Rows whose records one transaction reads: about 20 ms."""

_MERGED_TIMES: Final = 2
"""A block is made again with the rows after it if it has at most so many times as many."""

_STALE_PART: Final = 1 / 8
"""Part of a block's rows with changed metadata from which it is made again."""

_UNITS_MAX: Final = 64
_BYTES_MAX: Final = 64 * 1024**2
"""Bytes of the columns of a collection. They count in the budget of snapshots, too."""

Rows = npt.NDArray[np.int64]


class _Block(NamedTuple):
    """Columns of the nodes from ``first`` on; ids: of these, as ``term_of`` wants them."""

    first: int
    columns: Columns
    ids: RowIds

    @property
    def end(self) -> int:
        return self.first + self.columns.size

    @property
    def nbytes(self) -> int:
        ids = self.ids
        return self.columns.blob.nbytes + ids.id_offsets.nbytes + ids.id_bytes.nbytes


class _Made(NamedTuple):
    """The blocks of a unit, ascending, without gaps. rows: of the unit, by which it is known."""

    rows: weakref.ref[Rows]
    blocks: tuple[_Block, ...]


class RecentColumns:
    """The columns in memory of one collection. Thread-safe.

    Args:
        budget: bounds the memory of all collections' snapshots, matches and these columns.
    """

    def __init__(self, store: Store, budget: WeightedLru | None = None) -> None:
        self._store, self._budget = store, budget
        self._lock = threading.Lock()
        self._made: OrderedDict[int, _Made] = OrderedDict()
        self.used = True
        """Set at each use, see ``WeightedLru``."""

    def decided(
        self, unit: SearchUnit, seq: int, filter: Filter, deadline: Deadline
    ) -> Decided | None:
        """Return what columns say of a unit, whose rows are a segment's or the memtable's, as of
        ``seq``; None if there are too few rows for columns.

        Raises:
            SnapshotTooOldError: some of the rows may have been purged.
            DataLossError: a record is damaged.
            DeadlineExceededError, CancelledError: between two slices of rows.
        """
        blocks = self._blocks(unit, seq, deadline)
        if not blocks:
            return None
        self.used = True
        certain: list[npt.NDArray[np.integer]] = []
        undecided: list[npt.NDArray[np.integer]] = []
        for block in blocks:
            if block.columns.seq > seq or block.end > unit.count:
                undecided.append(np.arange(block.first, min(block.end, unit.count)))
                continue
            found, possible = term_of(block.columns, block.ids, filter.root).bounds
            stale = self._stale(block, unit, seq) if filter.needs_metadata else None
            open_nodes = possible.minus(found)
            if stale is not None and stale.count:
                found, open_nodes = found.minus(stale), open_nodes | stale
            certain.append(found.nodes + block.first)
            undecided.append(open_nodes.nodes + block.first)
        undecided.append(np.arange(min(blocks[-1].end, unit.count), unit.count))
        left = NodeSet.of_nodes(unit.count, np.concatenate(undecided))
        matching = np.concatenate([np.zeros(0, np.int32), *certain])
        return Decided(NodeSet.of_nodes(unit.count, matching), without_deleted(unit, left))

    def block_sizes(self, unit: SearchUnit) -> list[int]:
        """Return how many nodes each block of a unit has."""
        with self._lock:
            made = self._made.get(id(unit.rows))
        is_known = made is not None and made.rows() is unit.rows
        return [block.columns.size for block in made.blocks] if made and is_known else []

    def forget(self) -> None:
        """Drop all."""
        with self._lock:
            self._made.clear()
            if self._budget is not None:
                self._budget.remove(self)

    def evict(self) -> bool:
        """Do ``forget``, as ``WeightedLru`` wants it."""
        self.forget()
        return True

    def _stale(self, block: _Block, unit: SearchUnit, seq: int) -> NodeSet:
        rows: Rows = unit.rows[block.first : block.end]
        size = block.columns.size
        if seq == block.columns.seq:
            return NodeSet.none_of(size)
        span = int(rows[0]), int(rows[-1]) + 1
        changed = self._store.changed_rows.since(block.columns.seq, seq, *span)
        return NodeSet.of_nodes(size, nodes_of(rows, changed))

    def _blocks(self, unit: SearchUnit, seq: int, deadline: Deadline) -> tuple[_Block, ...]:
        """Return the blocks of a unit, as many made as pays."""
        key = id(unit.rows)
        with self._lock:
            made = self._made.get(key)
            if made is not None and made.rows() is unit.rows:
                self._made.move_to_end(key)
            else:
                made = None
        known = () if made is None else made.blocks
        blocks = list(known)
        for at, block in enumerate(blocks):
            usable = block.columns.seq < seq and block.end <= unit.count
            if usable and self._stale(block, unit, seq).count > _STALE_PART * block.columns.size:
                blocks[at] = self._new_block(unit, block.first, block.end, seq, deadline)
        first = blocks[-1].end if blocks else 0
        if unit.count - first >= _ROWS_MIN:
            while blocks and first - blocks[-1].first <= _MERGED_TIMES * (unit.count - first):
                first = blocks.pop().first
            blocks.append(self._new_block(unit, first, unit.count, seq, deadline))
        if tuple(blocks) != known:
            self._keep(key, _Made(weakref.ref(unit.rows), tuple(blocks)))
        return tuple(blocks)

    def _new_block(
        self, unit: SearchUnit, first: int, end: int, seq: int, deadline: Deadline
    ) -> _Block:
        """Return a block made from records, as of ``seq``."""
        rows: Rows = unit.rows[first:end].copy()
        ids, slices = [b""] * len(rows), []
        for start in range(0, len(rows), _SLICE_ROWS):
            deadline.check()
            some = rows[start : start + _SLICE_ROWS]
            place = {row: at for at, row in enumerate(some.tolist())}
            metadata = [b""] * len(some)
            with self._store.environment.read() as transaction:
                check_not_too_old(self._store, transaction, seq)
                for run in runs_of(some):
                    for row, encoded, raw in self._store.rows.iterate_records(
                        transaction, *run, seq
                    ):
                        at = place.get(row)
                        if at is not None:
                            ids[start + at], metadata[at] = encoded, raw
            slices.append(metadata)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)), out=offsets[1:])
        row_ids = RowIds(rows, offsets, np.frombuffer(b"".join(ids), np.uint8))
        named = named_paths(self._store.config)
        return _Block(first, build_columns(row_ids, slices, seq, named), row_ids)

    def _keep(self, key: int, made: _Made) -> None:
        excess: dict[Evictable, int] = {}
        with self._lock:
            self._made[key] = made
            self._made.move_to_end(key)
            for other in [key for key, each in self._made.items() if each.rows() is None]:
                del self._made[other]
            while len(self._made) > _UNITS_MAX or (self._nbytes() > _BYTES_MAX and self._made):
                self._made.popitem(last=False)
            if self._budget is not None:
                excess = self._budget.put(self, self._nbytes())
        if excess and self._budget is not None:
            self._budget.evict(excess)

    def _nbytes(self) -> int:
        return sum(block.nbytes for made in self._made.values() for block in made.blocks)
