"""The deep check of a part: is its content what the store's records say?

Checksums (``PartKind.verify``) show that a file has the bytes that were written. A deep check, of
which ``vecdb check`` runs one for each part of each segment, shows that the right bytes were. It
has three steps; a kind implements those that it needs:

    compare_vectors   in the check's read transaction, for each slice of the store's vectors
    compare_records   in that transaction, once after them: rows, ids, tombstones
    examine           after the transaction: what takes long and does not need it

Checksums are compared before ``examine``. Until then the bytes of a part may be anything: indices
that come from a part have to be checked before they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vecdb.checking import WARNING

__all__ = ["PartCheck", "PartFinding", "StoreRecords", "is_among"]

Rows = npt.NDArray[np.int64]


def is_among(values: Rows, ascending: Rows) -> npt.NDArray[np.bool_]:
    """Return which of ``values`` are in an ascending array, bool (len(values),)."""
    if len(ascending) == 0:
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[at] == values
    return found


@dataclass(frozen=True)
class StoreRecords:
    """What the store has, in one committed state. All rows are int64, ascending.

    Attributes:
        live_rows: rows with a record and without a tombstone.
        deleted_rows: rows with a tombstone.
        record_rows, record_hashes: rows with a readable record, and ``hash()`` of the bytes of
            their ids in this process.
        bad_record_rows: rows with an unreadable record.
        complete: False if records or tombstones could not be read to their end, so that rows may
            be missing from these arrays.
        read: yields row and metadata of the rows of an interval (first row, end row) as of a seq,
            ascending, without damaged ones; to be called in ``compare_records`` only. None if the
            records can't be read.
    """

    live_rows: Rows
    deleted_rows: Rows
    record_rows: Rows
    record_hashes: Rows
    bad_record_rows: Rows
    complete: bool
    read: Callable[[int, int, int], Iterator[tuple[int, bytes]]] | None = None


@dataclass(frozen=True)
class PartFinding:
    """What a deep check has found.

    Attributes:
        kind: one of ``vecdb.checking.KINDS``.
        text: a sentence; if there are ``rows``, the plural that follows their number.
        severity: of ``vecdb.checking``.
        rows: int64: the rows that it concerns, or None. If empty, there is nothing to report.
        unusable: a search can't use the part, so no further check should.
    """

    kind: str
    text: str
    severity: str = WARNING
    rows: Rows | None = None
    unusable: bool = False


class PartCheck:
    """The deep check of one part. This one finds nothing; not thread-safe."""

    def compare_vectors(self, rows: Rows, nodes: Rows, vectors: npt.NDArray[np.float32]) -> None:
        """Compare with some of the store's vectors; ``compare_records`` returns what was found.

        Args:
            rows: some rows that the segment has, ascending; later calls have later ones.
            nodes: their positions in the arrays of the segment.
            vectors: float32 (len(rows), width): theirs, prepared as for a segment (padded, and of
                unit length under cosine).
        """

    def compare_records(self, records: StoreRecords) -> Iterable[PartFinding]:
        """Compare with the store's records."""
        return ()

    def examine(self, records: StoreRecords) -> Iterable[PartFinding]:
        """Compare the part with itself and with the other parts of its segment."""
        return ()
