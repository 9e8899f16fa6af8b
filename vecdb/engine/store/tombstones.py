"""Read tombstones in slices, so that no read transaction lasts long (LMDB cannot reuse pages that
an open one may read)."""

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
    """Return the rows of an interval deleted at or before ``seq``, int64, ascending.

    Tombstones of rows that no segment holds may be removed at any time. So ``check`` is called in
    each transaction: it must raise if the segment that the rows are read for is no longer live.
    """
    parts, row = [np.zeros(0, np.int64)], first_row
    while row < end_row:
        with store.environment.read() as transaction:
            if check is not None:
                check(transaction)
            deleted, row = store.rows.read_deleted_slice(
                transaction, row, end_row, seq, _SLICE_TOMBSTONES
            )
        parts.append(deleted)
    return np.concatenate(parts)


def read_deleted_since(store: Store, after: int, to: int) -> npt.NDArray[np.int64] | None:
    """Return the rows deleted by the batches ``after + 1`` to ``to``, int64, ascending; None if
    some of their log entries were purged or are damaged."""
    parts = [np.zeros(0, np.uint64)]
    for start in range(after, to, _SLICE_BATCHES):
        with store.environment.read() as transaction:
            end = min(to, start + _SLICE_BATCHES)
            try:
                entries = store.rows.read_log(transaction, start, end)
            except DataLossError:
                return None  # The caller then reads the tombstones, as for a purged log.
        if entries is None:
            return None
        parts += [entry.deleted for entry in entries]
    return np.sort(np.concatenate(parts)).astype(np.int64)
