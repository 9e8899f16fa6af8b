"""Reading which rows were deleted, in slices, so that no read transaction lasts long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store.store import Store
from vecdb.errors import DataLossError

__all__ = ["read_deleted", "read_deleted_since"]

_SLICE_TOMBSTONES, _SLICE_BATCHES = 10_000, 100


def read_deleted(
    store: Store,
    first_row: int,
    end_row: int,
    seq: int,
    check: Callable[[Transaction], None] | None = None,
) -> npt.NDArray[np.int64]:
    """Rows of an interval that died at or before ``seq``, int64, ascending.

    Deaths of rows that are in no segment any more may be removed at any time: so ``check`` is
    called in each transaction, to raise if the segment that the rows are read for is not in place.
    """
    parts, row = [np.zeros(0, np.int64)], first_row
    while row < end_row:
        with store.environment.read() as transaction:
            if check is not None:
                check(transaction)
            dead, row = store.rows.read_deleted_slice(
                transaction, row, end_row, seq, _SLICE_TOMBSTONES
            )
        parts.append(dead)
    return np.concatenate(parts)


def read_deleted_since(store: Store, after: int, to: int) -> npt.NDArray[np.int64] | None:
    """Rows that died in the batches ``after + 1`` to ``to``, int64, ascending; None if some of the
    log was trimmed or is damaged."""
    parts = [np.zeros(0, np.uint64)]
    for start in range(after, to, _SLICE_BATCHES):
        with store.environment.read() as transaction:
            end = min(to, start + _SLICE_BATCHES)
            try:
                entries = store.rows.read_log(transaction, start, end)
            except DataLossError:
                return None  # As good as trimmed.
        if entries is None:
            return None
        parts += [entry.died for entry in entries]
    return np.sort(np.concatenate(parts)).astype(np.int64)
