"""Rows that a view does not hold, read from the store in slices of bounded size for each search.

They are what has come in since there was no more room (``memtable.py``), and large segments whose
files are lost. A slice is read in a transaction of its own, as of the view's seq: vectors that are
there, but for those of rows that had died by then. Rows that were alive then can only be missing if
they have been purged since, and each transaction says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.search.memtable import aligned_rows
from vecdb.engine.segments.segment import padded_width
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import UnavailableError
from vecdb.reasons import Reason
from vecdb.types import Metric

__all__ = ["SnapshotTooOldError", "Unread", "check_not_too_old", "count_live", "read_slices"]

_SLICE_BYTES = 4 * 1024**2
"""Vectors of a slice: some 5 ms to read."""

_SLICE_TOMBSTONES = 20_000
"""Deaths of a slice: some 10 ms. More are there only if most rows have been purged."""

_COUNTED_ROWS = 100_000
"""Row numbers of a transaction that only counts."""


class SnapshotTooOldError(UnavailableError):
    """Rows that died after the state of a view were purged before they were read: a newer view does
    not need them."""


class Unread(NamedTuple):
    """An interval of rows that a view does not hold, and how many of them live."""

    first_row: int
    end_row: int
    live_count: int


def check_not_too_old(store: Store, transaction: Transaction, seq: int) -> None:
    """Raise OvertakenError if something may be missing of what was live at ``seq``."""
    purged_to = store.purged_to(transaction)
    if purged_to > seq:
        raise SnapshotTooOldError(
            f"rows were purged up to seq {purged_to} while they were read as of seq {seq}",
            Reason.OVERTAKEN,
        )


def read_slices(
    store: Store, intervals: Sequence[Unread], seq: int, deadline: Deadline
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """The rows of intervals that were live at ``seq``, ascending, as (rows int64 (n,), vectors
    float32 (n, width) in the kernels' form); both are overwritten by the next slice.

    Raises:
        SnapshotTooOldError: some of them have been purged.
        DataLossError: the bytes of some are damaged.
        DeadlineExceededError, CancelledError: before a slice is read.
    """
    width = padded_width(store.config.dim)
    capacity = max(1, _SLICE_BYTES // (4 * width))
    capacity = min(capacity, max((i.end_row - i.first_row for i in intervals), default=1))
    raw = np.empty((capacity, store.config.dim), np.float32)
    rows, vectors = np.empty(capacity, np.int64), aligned_rows(capacity, width)
    unit, prepare_rows = store.config.metric is Metric.COSINE, load_kernels().prepare_rows
    for interval in intervals:
        row = interval.first_row
        while row < interval.end_row:
            deadline.check()
            count, row = _read_slice(store, row, interval.end_row, seq, rows, raw)
            if count:
                prepare_rows(raw[:count], vectors[:count], unit)
                yield rows[:count], vectors[:count]


def _read_slice(
    store: Store,
    first_row: int,
    end_row: int,
    seq: int,
    rows: npt.NDArray[np.int64],
    raw: npt.NDArray[np.float32],
) -> tuple[int, int]:
    """Fill the arrays with live rows; returns how many, and the row to go on at."""
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
        dead, known_to = store.rows.read_deleted_slice(
            transaction, first, end, seq, min(end - first, _SLICE_TOMBSTONES)
        )
    if known_to < end:  # There are more deaths: the next slice goes on there.
        count, next_row = int(np.searchsorted(rows[:count], known_to)), known_to
    kept = np.flatnonzero(~np.isin(rows[:count], dead, assume_unique=True))
    if len(kept) < count:
        rows[: len(kept)], raw[: len(kept)] = rows[kept], raw[kept]
    return len(kept), next_row


def count_live(store: Store, first_row: int, end_row: int, dead: npt.NDArray[np.int64]) -> int:
    """Rows of an interval whose vectors are there and that are not in ``dead`` (ascending), which
    was read before: what has died since may have been purged, which the caller looks at."""
    count = 0
    for start in range(first_row, end_row, _COUNTED_ROWS):
        with store.environment.read() as transaction:
            wanted = np.arange(start, min(end_row, start + _COUNTED_ROWS))
            for _, _, held in store.rows.blocks_holding(transaction, wanted):
                count += len(held) - int(np.isin(held, dead, assume_unique=True).sum())
    return count
