"""The live rows of a collection that match a filter."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import Filter

__all__ = ["matched_rows"]

_SLICE_ROWS: Final = 5_000
"""Rows that one transaction evaluates: about 20 ms."""


def matched_rows(
    store: Store, filter: Filter, deadline: Deadline
) -> tuple[int, npt.NDArray[np.int64]]:
    """Return a seq, and the rows that match, int64, ascending: those whose records did not change
    since that seq matched then; the others may be evaluated as of a later seq.
    """
    with store.environment.read() as transaction:
        store.check_not_dropped(transaction)
        seq = store.read_state(transaction).seq
        end_row = store.read_counters(transaction).next_row
    matches, found, row = filter.matches_json, [], 0
    while row < end_row:
        deadline.check()
        with store.environment.read() as transaction:
            first = store.rows.next_recorded(transaction, row)
            if first is None:
                break
            row = min(first + _SLICE_ROWS, end_row)
            latest = store.read_state(transaction).seq
            deleted = set(store.rows.read_deleted(transaction, first, row, latest).tolist())
            found += [
                at
                for at, encoded, raw in store.rows.iterate_records(transaction, first, row, latest)
                if at not in deleted and matches(encoded.decode(), raw)
            ]
    return seq, np.array(found, np.int64)
