"""The rows of a set of ids, as of a snapshot, looked up in the store."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import And, IdIn, Node

__all__ = ["IdRows", "ids_in", "rows_with_ids"]

_SLICE_IDS: Final = 2_000
"""Ids that one transaction looks up: about 5 ms. Cursors take longer for each of more ids."""

_KEPT_MAX: Final = 16
"""Sets of ids that are kept with a snapshot."""


class IdRows(NamedTuple):
    """The rows of a set of ids.

    Attributes:
        rows: int64, ascending, those that the snapshot has under these ids.
        is_complete: whether these are all. Ids that were deleted or written after the snapshot was
            taken may have had other rows in it.
    """

    rows: npt.NDArray[np.int64]
    is_complete: bool


def ids_in(node: Node) -> IdIn | None:
    """Return a set of ids that a filter restricts rows to; None if there is none."""
    if isinstance(node, And):
        sets = [term for term in node.terms if isinstance(term, IdIn)]
        return min(sets, key=lambda each: len(each.ids), default=None)
    return node if isinstance(node, IdIn) else None


def rows_with_ids(store: Store, snapshot: Snapshot, wanted: IdIn, deadline: Deadline) -> IdRows:
    """Return the rows of ids, once for all units of a snapshot.

    Raises:
        DataLossError: an entry is damaged.
        DeadlineExceededError, CancelledError: between two slices of ids.
    """
    known = snapshot.id_rows.get(wanted)
    if known is None:
        known = _looked_up(store, snapshot, wanted, deadline)
        if len(snapshot.id_rows) < _KEPT_MAX:
            snapshot.id_rows[wanted] = known
    return known


def _looked_up(store: Store, snapshot: Snapshot, wanted: IdIn, deadline: Deadline) -> IdRows:
    encoded = sorted(text.encode() for text in wanted.ids)
    rows: list[int] = []
    is_complete = True
    for start in range(0, len(encoded), _SLICE_IDS):
        deadline.check()
        some = encoded[start : start + _SLICE_IDS]
        with store.environment.read() as transaction:
            is_newer = store.read_state(transaction).seq != snapshot.state.seq
            found = store.rows.find(transaction, some).values()
        # A live row that the snapshot knows was live in it, too, under the same id.
        old = [row for row in found if row < snapshot.counters.next_row]
        is_complete = is_complete and (not is_newer or len(old) == len(some))
        rows += old
    return IdRows(np.array(sorted(rows), np.int64), is_complete)
