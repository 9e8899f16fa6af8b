"""What the columns of a segment say about a filter, as of a snapshot.

Columns are of one seq. Rows whose metadata changed since are never decided by them; each search
finds these rows in the log or in the records (``ChangedRows``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.snapshots.memtable import nodes_of
from vecdb.engine.search.snapshots.snapshot import SearchUnit
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.segments.columns.columns import Columns
from vecdb.engine.segments.columns.evaluating import Term, term_of
from vecdb.engine.segments.columns.node_sets import NodeSet
from vecdb.engine.store.store import Store
from vecdb.filters import Filter

__all__ = [
    "Counted",
    "Decided",
    "counted",
    "decided",
    "has_stale_rows",
    "usable_columns",
    "without_deleted",
]


class Decided(NamedTuple):
    """Nodes of a unit that match, and those whose records decide. Deleted nodes may be
    among the former."""

    certain: NodeSet
    undecided: NodeSet


class Counted(NamedTuple):
    """The number of live nodes that match, and further nodes whose records decide."""

    certain_count: int
    undecided: NodeSet


def usable_columns(unit: SearchUnit, seq: int) -> Columns | None:
    """Return the columns of a unit, if it has some that a reader at ``seq`` can use."""
    columns = unit.parts.get(COLUMNS)
    if columns is None or unit.content is None or columns.seq > seq or not columns.is_intact():
        return None
    return columns


def decided(store: Store, unit: SearchUnit, seq: int, filter: Filter) -> Decided | None:
    """Return what columns say of a unit as of ``seq``; None if it has none."""
    columns = usable_columns(unit, seq)
    if columns is None:
        return None
    certain, possible = _term(columns, unit, filter).bounds
    undecided = possible.minus(certain)
    stale = _stale(store, columns, unit, seq, filter)
    if stale.count:
        certain, undecided = certain.minus(stale), undecided | stale
    return Decided(certain, without_deleted(unit, undecided))


def counted(store: Store, unit: SearchUnit, seq: int, filter: Filter) -> Counted | None:
    """Return how many live nodes of a unit match as of ``seq``, without finding out which.

    Returns:
        None if the unit has no columns, or these would have to find the nodes.
    """
    columns = usable_columns(unit, seq)
    if columns is None:
        return None
    term = _term(columns, unit, filter)
    count = term.count
    if count is None:
        return None
    stale = _stale(store, columns, unit, seq, filter)
    hidden: npt.NDArray[np.integer[Any]] = stale.nodes
    if unit.delete_bitmap.size:
        deleted = unit.deleted_nodes
        hidden = np.union1d(hidden, deleted) if len(hidden) else deleted
    if len(hidden):
        count -= int(np.count_nonzero(term.among(hidden)[0]))
    return Counted(count, without_deleted(unit, stale))


def has_stale_rows(store: Store, columns: Columns, unit: SearchUnit, seq: int) -> bool:
    """Return whether the metadata of some rows of a unit have changed by ``seq`` since its columns
    were made."""
    return len(_changed(store, columns, unit, seq)) > 0


def _term(columns: Columns, unit: SearchUnit, filter: Filter) -> Term:
    assert unit.content is not None
    return term_of(columns, unit.content, filter.root)


def _stale(store: Store, columns: Columns, unit: SearchUnit, seq: int, filter: Filter) -> NodeSet:
    """Return the nodes that columns must not decide."""
    if not filter.needs_metadata:
        return NodeSet.none_of(unit.count)
    return NodeSet.of_nodes(unit.count, _changed(store, columns, unit, seq))


def _changed(store: Store, columns: Columns, unit: SearchUnit, seq: int) -> npt.NDArray[np.int64]:
    """Return the nodes whose metadata have changed by ``seq``, ascending."""
    rows: npt.NDArray[np.int64] = unit.rows[: unit.count]
    if not len(rows) or seq == columns.seq:
        return np.zeros(0, np.int64)
    changed = store.changed_rows.since(columns.seq, seq, int(rows[0]), int(rows[-1]) + 1)
    return nodes_of(rows, changed)


def without_deleted(unit: SearchUnit, nodes: NodeSet) -> NodeSet:
    """Return the nodes of a set that are live in a unit."""
    if not nodes.count or not unit.delete_bitmap.size:
        return nodes
    return nodes.minus(NodeSet.of_bits(unit.count, unit.delete_bitmap))
