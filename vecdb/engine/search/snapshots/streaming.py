"""Read the rows that a snapshot does not hold, for each search, in slices of bounded size.

These are rows that did not fit into the memtable, and large quarantined segments. Each slice is
read in a transaction of its own, as of the snapshot's seq: all stored vectors, without rows deleted
at or before that seq. A row that was live at that seq can be missing only if it was purged since,
so each transaction checks how far purging has come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.search.snapshots.memtable import aligned_rows
from vecdb.engine.segments.segment import padded_width
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import UnavailableError
from vecdb.reasons import Reason
from vecdb.types import Metric

__all__ = ["SnapshotTooOldError", "Unread", "check_not_too_old", "count_live", "read_slices"]

_SLICE_BYTES = 4 * 1024**2
"""Bytes of vectors per slice: about 5 ms to read."""

_SLICE_TOMBSTONES = 20_000
"""Tombstones per slice: about 10 ms. An interval has more only if most of its rows were purged."""

_COUNTED_ROWS = 100_000
"""Row numbers per transaction that only counts."""


class SnapshotTooOldError(UnavailableError):
    """Snapshot too old: rows deleted after it were purged before they were read. A newer snapshot
    does not need them."""


class Unread(NamedTuple):
    """An interval of rows that a snapshot does not hold, and its number of live rows."""

    first_row: int
    end_row: int
    live_count: int


def check_not_too_old(store: Store, transaction: Transaction, seq: int) -> None:
    """Check that no row that was live at ``seq`` has been purged.

    Raises:
        SnapshotTooOldError: OVERTAKEN: purging has passed ``seq``.
    """
    purged_to = store.purged_to(transaction)
    if purged_to > seq:
        raise SnapshotTooOldError(
            f"the snapshot at seq {seq} is too old: deleted rows are purged up to seq {purged_to}; "
            "retry",
            Reason.OVERTAKEN,
        )


def read_slices(
    store: Store, intervals: Sequence[Unread], seq: int, deadline: Deadline
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Yield the rows of intervals that were live at ``seq``, in slices, ascending.

    Yields:
        rows, int64 (n,), and vectors, float32 (n, width) in the kernels' form. The next slice
        overwrites both.

    Raises:
        SnapshotTooOldError: some of the rows may have been purged.
        DataLossError: a block is damaged.
        DeadlineExceededError, CancelledError: before a slice is read.
    """
    width = padded_width(store.config.dim)
    capacity = max(1, _SLICE_BYTES // (4 * width))
    capacity = min(capacity, max((i.end_row - i.first_row for i in intervals), default=1))
    raw = np.empty((capacity, store.config.dim), np.float32)
    rows, vectors = np.empty(capacity, np.int64), aligned_rows(capacity, width)
    normalise, prepare_rows = store.config.metric is Metric.COSINE, load_kernels().prepare_rows
    for interval in intervals:
        row = interval.first_row
        while row < interval.end_row:
            deadline.check()
            count, row = _read_slice(store, row, interval.end_row, seq, rows, raw)
            if count:
                prepare_rows(raw[:count], vectors[:count], normalise)
                yield rows[:count], vectors[:count]


def _read_slice(
    store: Store,
    first_row: int,
    end_row: int,
    seq: int,
    rows: npt.NDArray[np.int64],
    raw: npt.NDArray[np.float32],
) -> tuple[int, int]:
    """Fill the arrays with live rows; return how many, and the row to go on at."""
    count, next_row = 0, end_row
    with store.environment.read() as transaction:
        check_not_too_old(store, transaction, seq)
        for some, vectors in store.rows.iterate_blocks(transaction, first_row, end_row):
            taken = min(len(some), len(rows) - count)
            rows[count : count + taken] = some[:taken]
            raw[count : count + taken] = vectors[:taken]
            count += taken
            if count == len(rows):
                next_row = int(rows[-1]) + 1
                break
        if count == 0:
            return 0, end_row
        first, end = int(rows[0]), int(rows[count - 1]) + 1
        deleted, known_to = store.rows.read_deleted_slice(
            transaction, first, end, seq, min(end - first, _SLICE_TOMBSTONES)
        )
    if known_to < end:  # There are more tombstones: the next slice goes on there.
        count, next_row = int(np.searchsorted(rows[:count], known_to)), known_to
    kept = np.flatnonzero(~np.isin(rows[:count], deleted, assume_unique=True))
    if len(kept) < count:
        rows[: len(kept)], raw[: len(kept)] = rows[kept], raw[kept]
    return len(kept), next_row


def count_live(store: Store, first_row: int, end_row: int, deleted: npt.NDArray[np.int64]) -> int:
    """Return how many rows of an interval have a stored vector and are not in ``deleted``.

    Rows deleted after ``deleted`` (int64, ascending) was read may have been purged since; the
    caller must check with ``check_not_too_old``.
    """
    count = 0
    for start in range(first_row, end_row, _COUNTED_ROWS):
        with store.environment.read() as transaction:
            wanted = np.arange(start, min(end_row, start + _COUNTED_ROWS))
            for _, _, held in store.rows.blocks_holding(transaction, wanted):
                count += len(held) - int(np.isin(held, deleted, assume_unique=True).sum())
    return count
