"""The rows that match a filter, for a write that changes them: found at one seq, changed at
another.

They are found before the write, in short read transactions, and so is what they change to. The
transaction of the write then brings them up to its own seq (``advance``): by the log it removes
what was deleted since, and evaluates again what was added or changed. So the write changes exactly
the rows that match when it is applied, as if it had found them itself. If too much was written
since for a short transaction, or the log is purged, the write is refused with OVERTAKEN before it
has changed anything, and its caller brings them up to date and tries again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store.rows import RowReader
from vecdb.errors import InvalidArgumentError, UnavailableError
from vecdb.filters import Filter
from vecdb.reasons import Reason

__all__ = ["FilteredRows", "OvertakenError", "Prepared", "advance"]


_SLICE_ROWS: Final = 256
"""Records that are in memory at once."""


class Prepared(NamedTuple):
    """What a write makes of a selected row.

    Attributes:
        id: UTF-8. Of a row to delete it may be that of a damaged segment; the write compares it.
        metadata: the new metadata; None if they do not change (or the row is deleted).
        refusal: why the row can't be changed. It counts only if the write takes the row.
    """

    id: bytes
    metadata: bytes | None
    refusal: InvalidArgumentError | None = None


@dataclass(frozen=True)
class FilteredRows:
    """The rows that match a filter at a seq.

    Attributes:
        filter: the filter.
        limit: most rows to change, in the order in which rows were added; None for all.
        seq: the seq that the rows belong to.
        rows: int64 (n,), ascending: all live rows that match, more than the limit too.
        prepared: row → what the write makes of it, for rows from the first on. It may lack rows;
            the write then computes them.
        prepared_bytes: size of the new metadata.
    """

    ROW_BYTES: ClassVar[int] = 250
    """Memory of a row's entry in ``prepared``, without its metadata."""

    filter: Filter
    limit: int | None
    seq: int
    rows: npt.NDArray[np.int64]
    prepared: dict[int, Prepared] = field(default_factory=dict)
    prepared_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """Return the approximate memory size in bytes."""
        return self.rows.nbytes + self.ROW_BYTES * len(self.prepared) + self.prepared_bytes


class OvertakenError(UnavailableError):
    """Matched rows can't be brought up to date: too much was written since. Nothing was changed."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"other writes changed too much while the rows of the filter were found: {why}; "
            "nothing was written, retry later",
            Reason.OVERTAKEN,
        )


def advance(
    rows: RowReader,
    transaction: Transaction,
    matched: FilteredRows,
    seq: int,
    rows_max: int | None = None,
) -> FilteredRows:
    """Return the matched rows at ``seq``, the latest of the transaction.

    Args:
        rows_max: most rows to evaluate; None for no limit.

    Raises:
        OvertakenError: more rows were written since, or the log was purged.
    """
    if seq == matched.seq:
        return matched
    entries = rows.read_log(transaction, matched.seq, seq)
    if entries is None:
        raise OvertakenError("the log of these writes is purged")
    deleted = _joined(entry.deleted for entry in entries)
    changed = _joined(entry.changed for entry in entries)
    added = _joined(
        np.arange(entry.first_row, entry.first_row + entry.added, dtype=np.uint64)
        for entry in entries
    )
    doubtful = np.setdiff1d(np.concatenate([changed, added]), deleted)
    if rows_max is not None and len(doubtful) > rows_max:
        raise OvertakenError(f"{len(doubtful)} rows")
    matches, found = matched.filter.matches_json, []
    numbers = doubtful.tolist()
    for start in range(0, len(numbers), _SLICE_ROWS):
        some = numbers[start : start + _SLICE_ROWS]
        for row, record in zip(some, rows.read_records(transaction, some, seq), strict=True):
            if matches(record.id, record.metadata):
                found.append(row)
    touched = np.concatenate([deleted, changed])
    kept = matched.rows[~np.isin(matched.rows, touched)]
    prepared = matched.prepared
    if prepared and len(touched):
        gone = set(touched.tolist())
        prepared = {row: each for row, each in prepared.items() if row not in gone}
    return replace(
        matched,
        seq=seq,
        rows=np.union1d(kept, np.array(found, np.int64)),
        prepared=prepared,
    )


def _joined(parts: Iterable[npt.NDArray[np.uint64]]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.uint64), *parts]).astype(np.int64)
