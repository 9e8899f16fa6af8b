"""Ids in the order of their bytes, page by page.

The database ``ids`` of the store has this order. With a filter, the rows that match are found
first, and each id of the page is looked up among them; if few rows match, all of their ids are
sorted instead. Nothing is kept between pages.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.filters.matched_rows import MatchedRows, RowsAtSeq
from vecdb.engine.search.filters.segment_ids import segment_ids
from vecdb.engine.search.snapshots.lookup import read_records
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import Filter

__all__ = ["list_ids"]

_SLICE_IDS: Final = 10_000
"""Ids that one transaction reads: about 10 ms."""

_FEW_ROWS: Final = 2_000
_SORTED_ROWS_MAX: Final = 100_000


def list_ids(
    store: Store,
    matched: MatchedRows,
    prefix: bytes,
    filter: Filter | None,
    limit: int,
    after: bytes,
    deadline: Deadline,
) -> list[str]:
    """Return at most ``limit`` ids after ``after``; see ``CollectionSurface.list_ids``.

    Raises:
        NotFoundError: the collection was dropped.
        DataLossError: an entry or a record is damaged.
        DeadlineExceededError, CancelledError.
    """
    if filter is None:
        return [each.decode() for each in _walked(store, prefix, None, limit, after, deadline)]
    with matched.at_one_seq(filter, deadline) as found:
        if not _are_few(len(found.rows), found.snapshot.live_count, limit):
            walked = _walked(store, prefix, found.rows, limit, after, found.deadline)
            return [each.decode() for each in walked]
        keys = sorted(_ids_of(store, found))
    return [key.decode() for key in keys if key > after and key.startswith(prefix)][:limit]


def _are_few(matching: int, live: int, limit: int) -> bool:
    """Return whether all ids of the rows that match take less time than those that are passed until
    a page is full."""
    passed = min(live, limit * live // max(matching, 1))
    return matching <= _FEW_ROWS or matching <= min(passed, _SORTED_ROWS_MAX)


def _ids_of(store: Store, found: RowsAtSeq) -> list[bytes]:
    """Return the ids of the rows, in any order."""
    ids = segment_ids(found.snapshot, found.rows)
    lacking = [row for row, key in zip(found.rows.tolist(), ids, strict=True) if key is None]
    if lacking:
        records = read_records(store, lacking, found.seq, found.deadline)
        ids += [record.id.encode() for record in records]
    return [key for key in ids if key is not None]


def _walked(
    store: Store,
    prefix: bytes,
    rows: npt.NDArray[np.int64] | None,
    limit: int,
    after: bytes,
    deadline: Deadline,
) -> list[bytes]:
    """Return ids from the database; rows: only those of these rows, ascending."""
    ids: list[bytes] = []
    # No id has a byte of zero at its end that sorts between two others: it would be longer.
    begin = max(prefix, after + b"\0") if after else prefix
    while len(ids) < limit:
        deadline.check()
        wanted = limit - len(ids) if rows is None else _SLICE_IDS
        with store.environment.read() as transaction:
            store.check_not_dropped(transaction)
            some = store.rows.read_ids(transaction, begin, min(wanted, _SLICE_IDS))
        if not some:
            break
        begin = some[-1][0] + b"\0"
        inside = [each for each in some if each[0].startswith(prefix)]
        if rows is not None:
            numbers = np.array([row for _, row in inside], np.int64)
            kept = np.isin(numbers, rows, assume_unique=True).tolist()
            inside = [each for each, is_kept in zip(inside, kept, strict=True) if is_kept]
        ids += [key for key, _ in inside]
        if not some[-1][0].startswith(prefix):
            break
    return ids[:limit]
