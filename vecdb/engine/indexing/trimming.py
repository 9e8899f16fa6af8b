"""Trimming: delete the tombstones that nothing needs any more.

A tombstone must stay as long as anything holds its row: the block, the record, a live segment, or a
segment being built. Which rows the segments hold is read from their arrays, outside any write
transaction. The write transaction then checks that the segments are still the same, and which
intervals are reserved.

The record counts too: an interrupted purge of an earlier version may have removed a row's vector
and left its record. Without the tombstone that row would look live to readers of records.

A segment being built holds rows of live segments, or rows of the store that were live at the seq of
its reservation. So it cannot hold a row that is in no live segment and was deleted before that seq.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.store.segment_table import reserved_intervals
from vecdb.engine.store.store import Store

__all__ = ["trim_tombstones"]

_TOMBSTONES_AT_ONCE: Final = 20_000

_Tombstones = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Deleted rows, ascending, and the seqs that deleted them; int64 (n,) each."""


def trim_tombstones(
    store: Store, snapshot: Snapshot, should_stop: Callable[[], bool] = lambda: False
) -> int:
    """Delete the tombstones of rows that neither the store nor any segment holds any more.

    Args:
        snapshot: the live segments; if they have changed since, nothing is removed.
        should_stop: called before each step; True ends the trim.

    Returns:
        The number of tombstones removed.

    Raises:
        NotFoundError: the collection was dropped.
    """
    removed = 0
    next_row: int | None = 0
    while next_row is not None and not should_stop():
        with store.environment.read() as transaction:
            (rows, seqs), next_row = _not_in_store(store, transaction, next_row)
        for segment in snapshot.segments:
            kept = ~np.isin(rows, segment.content.rows, assume_unique=True)
            rows, seqs = rows[kept], seqs[kept]
        if len(rows):
            count = store.environment.transact(partial(_trim, store, snapshot, (rows, seqs)))
            if count is None:
                return removed
            removed += count
    return removed


def _not_in_store(
    store: Store, transaction: Transaction, first_row: int
) -> tuple[_Tombstones, int | None]:
    """Return the tombstones from ``first_row`` on of rows that have neither vector nor record, and
    the row to go on at, None at the end."""
    end_row = store.read_counters(transaction).next_row
    rows, seqs, reached = store.rows.read_tombstones(
        transaction, first_row, end_row, _TOMBSTONES_AT_ONCE
    )
    held = [own for _, _, own in store.rows.blocks_holding(transaction, rows)]
    if held:
        gone = ~np.isin(rows, np.concatenate(held), assume_unique=True)
        rows, seqs = rows[gone], seqs[gone]
    gone = ~store.rows.recorded(transaction, rows)
    rows, seqs = rows[gone], seqs[gone]
    return (rows, seqs), reached if reached < end_row else None


def _trim(
    store: Store, snapshot: Snapshot, tombstones: _Tombstones, transaction: Transaction
) -> int | None:
    """Delete the tombstones that no reservation needs; return how many, None if the segments have
    changed."""
    store.check_not_dropped(transaction)
    if store.read_state(transaction).generation != snapshot.state.generation:
        return None
    rows, seqs = tombstones
    # A quarantined segment is rebuilt from rows read from the store at a seq that may be older than
    # the reservation's: then keep all tombstones of reserved intervals.
    is_lost = any(segment.segment is None for segment in snapshot.segments)
    for begin, end, seq in reserved_intervals(store.read_segments(transaction)):
        held = (rows >= begin) & (rows < end) & ((seqs > seq) | is_lost)
        rows, seqs = rows[~held], seqs[~held]
    # The store need not be checked again: a deleted row's vector and record never come back.
    store.remove_tombstones(transaction, rows)
    return len(rows)
