"""Trimming: deaths that nobody needs any more leave the store.

A row's death must stay as long as anything holds the row: its block, its record, a segment in
place, or one that somebody is making. What segments hold is looked up in their arrays, outside of
any write transaction; that they are still the same, and what is claimed, is looked up inside.

A pass of purging that an earlier version left half done may have taken a vector and left the record
to a later step. Without its death that row would be live to whoever reads records.

A segment that is being made holds what segments in place hold, or rows of the store that were live
at the seq of its claim: a row that is in none and died before that is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.search.snapshot import Snapshot
from vecdb.engine.store.segment_table import reserved_intervals
from vecdb.engine.store.store import Store

__all__ = ["trim_tombstones"]

_TOMBSTONES_AT_ONCE: Final = 20_000

_Tombstones = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rows, ascending, and the seqs of their deaths."""


def trim_tombstones(
    store: Store, snapshot: Snapshot, should_stop: Callable[[], bool] = lambda: False
) -> int:
    """Remove deaths of rows whose bytes have gone, from the store and from every segment.

    Args:
        snapshot: says what is in the segments; if they have changed since, nothing is removed.
        should_stop: asked before each step.

    Returns:
        Deaths removed.
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
    """Deaths from ``first_row`` on of rows that have neither vector nor record, and the row to go
    on at; None at the end."""
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
    """Remove those of the deaths that nothing speaks against; None if the segments changed."""
    store.check_not_dropped(transaction)
    if store.read_state(transaction).generation != snapshot.state.generation:
        return None
    rows, seqs = tombstones
    # A lost segment's rows are read from the store by whoever works on it, as of some seq.
    is_lost = any(segment.segment is None for segment in snapshot.segments)
    for begin, end, seq in reserved_intervals(store.read_segments(transaction)):
        held = (rows >= begin) & (rows < end) & ((seqs > seq) | is_lost)
        rows, seqs = rows[~held], seqs[~held]
    # Neither vector nor record of a dead row comes back, so what was in none is in none.
    store.remove_tombstones(transaction, rows)
    return len(rows)
