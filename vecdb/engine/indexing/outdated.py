"""When are the columns of a segment to be made again, since metadata of many rows have changed?

Changed rows are decided by their records, which takes some microseconds for each row and filter.
"""

from __future__ import annotations

from typing import Final

from vecdb.engine.search.snapshots.snapshot import SegmentSnapshot
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.store.store import Store

__all__ = ["CHANGED_ROWS_MIN", "is_outdated"]

CHANGED_ROWS_MIN: Final = 1_000
"""Fewer changed rows cost less than a millisecond or two of each search."""

_CHANGED_FRACTION: Final = 0.05


def is_outdated(store: Store, segment: SegmentSnapshot, seq: int, *, thorough: bool) -> bool:
    """Return whether columns of a segment should be made again.

    Args:
        seq: of the snapshot.
        thorough: also if the log is purged, so that the keys of all records have to be read.
    """
    columns = segment.parts.get(COLUMNS)
    if columns is None or columns.seq >= seq:
        return False
    changed = store.changed_rows.since(
        columns.seq, seq, segment.first_row, segment.end_row, by_records=thorough
    )
    limit = max(CHANGED_ROWS_MIN, _CHANGED_FRACTION * segment.node_count)
    return changed is not None and len(changed) >= limit
