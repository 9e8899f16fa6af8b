"""Snapshots: the immutable state that a search runs on, one committed state of a collection.

A snapshot holds the live segments, a delete bitmap for each, and the memtable (rows from sealed_to
on, ``memtable``). ``snapshot_manager`` creates snapshots.

To bound memory, a snapshot may not hold all rows: memtable rows beyond the memory limit and large
quarantined segments are left out. It keeps their intervals instead, and each search reads them from
the store (``streaming``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.snapshots.memtable import Memtable, nodes_of
from vecdb.engine.search.snapshots.streaming import Unread
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_kind import Parts
from vecdb.engine.segments.parts import missing_parts, why_without_codes
from vecdb.engine.segments.segment import RowArrays, Segment
from vecdb.engine.store import layout
from vecdb.types import CollectionConfig

__all__ = [
    "DELETED_FRACTION_MAX",
    "NOTHING_DELETED",
    "SearchUnit",
    "SegmentSnapshot",
    "Snapshot",
    "is_clean",
]

NOTHING_DELETED = np.zeros(0, np.uint8)
DELETED_FRACTION_MAX = 0.2
"""A segment with a larger fraction of deleted nodes is rewritten."""


@dataclass(frozen=True)
class SegmentSnapshot:
    """A segment with its delete bitmap as of one snapshot.

    Attributes:
        number: the segment's number.
        first_row, end_row: its interval of rows, the end excluded.
        content: its rows.
        parts: what searches can use; without a graph they scan all rows, as in a flat or a
            quarantined segment.
        delete_bitmap: over nodes, uint8, bit i & 7 of byte i >> 3; empty if no node is
            deleted.
        deleted_count: number of bits set.
        segment: the mapped files; None if the segment is quarantined, and its rows were read from
            the store.
        unread_count: live rows of a quarantined segment that is too large to hold in memory. Then
            ``content`` is empty, and each search reads the rows from the store.
    """

    number: int
    first_row: int
    end_row: int
    content: RowArrays
    parts: Parts
    delete_bitmap: npt.NDArray[np.uint8]
    deleted_count: int
    segment: Segment | None
    unread_count: int = 0

    @property
    def verified(self) -> bool:
        """Return whether the bytes are known to be as written: this process compared the files'
        checksums since it opened them (``verifying.py``), or read the rows from the store."""
        return self.segment is None or self.segment.verified

    def why_without_codes(self, config: CollectionConfig) -> str:
        """Return why it lacks codes of its rows, see ``parts.py``."""
        if self.segment is None:
            return ""
        gone = (*self.segment.lost_parts, *self.segment.damaged_parts)
        return why_without_codes(self.parts, self.segment.left_out, gone, config)

    def missing_parts(self, config: CollectionConfig, *, codes: bool) -> list[str]:
        """Return which optional parts it would get if it was written again; see ``parts.py``."""
        if self.segment is None:
            return []
        return missing_parts(self.parts, self.segment.left_out, config, codes=codes)

    @property
    def live_count(self) -> int:
        """Return the number of rows that a search may return."""
        return self.node_count - self.deleted_count

    @property
    def node_count(self) -> int:
        """Return the number of rows, including deleted rows that the segment still holds."""
        return len(self.content.rows) + self.unread_count

    @property
    def private_bytes(self) -> int:
        """Return the memory size in bytes, without mapped files."""
        return self.delete_bitmap.nbytes + (self.content.nbytes if self.segment is None else 0)

    def with_tombstones(self, rows: npt.NDArray[np.int64]) -> SegmentSnapshot:
        """Return the segment with more rows deleted; rows that it does not hold are ignored.

        rows: int64, ascending, none of which was deleted before.
        """
        inside = rows[np.searchsorted(rows, self.first_row) : np.searchsorted(rows, self.end_row)]
        if self.unread_count and len(inside):
            return replace(self, unread_count=self.unread_count - len(inside))
        nodes = nodes_of(self.content.rows, inside)
        if len(nodes) == 0:
            return self
        bits = self.delete_bitmap.copy()
        if len(bits) == 0:
            bits = np.zeros((len(self.content.rows) + 7) // 8, np.uint8)
        newly = int(np.count_nonzero((bits[nodes >> 3] >> (nodes & 7).astype(np.uint8)) & 1 == 0))
        np.bitwise_or.at(bits, nodes >> 3, np.uint8(1) << (nodes & 7).astype(np.uint8))
        return replace(self, delete_bitmap=bits, deleted_count=self.deleted_count + newly)


@dataclass(frozen=True)
class SearchUnit:
    """Arrays that kernels search in one call: of a segment, a chunk of the memtable, or a slice of
    the store.

    Attributes:
        vectors: float32, shape (at least count, width).
        count: number of nodes.
        delete_bitmap: empty if no node is deleted.
        live_count: nodes that a search may return.
        rows: int64, shape (at least count,), row numbers, ascending.
        content: the segment's rows, None for rows outside segments.
        parts: the segment's; empty for rows outside segments.
        number: the segment's; None for rows outside segments.
    """

    vectors: npt.NDArray[np.float32]
    count: int
    delete_bitmap: npt.NDArray[np.uint8]
    live_count: int
    rows: npt.NDArray[np.int64]
    content: RowArrays | None = None
    parts: Parts = field(default_factory=Parts)
    number: int | None = None

    @cached_property
    def deleted_nodes(self) -> npt.NDArray[np.int64]:
        """The nodes that its delete bitmap marks, ascending."""
        bits = self.delete_bitmap
        return np.flatnonzero(
            np.unpackbits(bits, count=min(self.count, 8 * len(bits)), bitorder="little")
        )


@dataclass(frozen=True)
class Snapshot:
    """One committed state of a collection; see the module docstring.

    Attributes:
        state, counters: as committed.
        segments: the live segments, by first row.
        memtable: rows of no segment, as many as fit.
        rest: the rows after the memtable that are not held; None if there are no live ones.
    """

    state: layout.State
    counters: layout.Counters
    segments: tuple[SegmentSnapshot, ...]
    memtable: Memtable
    rest: Unread | None = None

    @cached_property
    def live_count(self) -> int:
        """Return the number of rows that a search may return."""
        return sum(s.live_count for s in self.segments) + self.memtable_live_count

    @property
    def memtable_live_count(self) -> int:
        """Return the number of live rows outside segments."""
        return self.memtable.live_count + (self.rest.live_count if self.rest else 0)

    @cached_property
    def unindexed_count(self) -> int:
        """Return the number of live rows that are in no graph."""
        return self.memtable_live_count + sum(
            s.live_count for s in self.segments if not s.parts.has(GRAPH)
        )

    @property
    def verified(self) -> bool:
        """Return whether all segments are verified. It may become true later, without a new
        snapshot."""
        # A loop, since a generator takes three times as long and each search asks.
        for segment in self.segments:  # noqa: SIM110
            if not segment.verified:
                return False
        return True

    @property
    def private_bytes(self) -> int:
        """Return the memory size in bytes, without mapped files. Successive snapshots share most
        of it."""
        return self.memtable.nbytes + sum(segment.private_bytes for segment in self.segments)

    @cached_property
    def units(self) -> tuple[SearchUnit, ...]:
        """Return the units of a search: segments with live rows, then those of the memtable.

        If the snapshot does not hold all rows, the memtable is left out: the search then scans all
        rows outside mapped segments in one ascending pass.
        """
        units = [
            SearchUnit(
                s.content.vectors,
                len(s.content.rows),
                s.delete_bitmap,
                s.live_count,
                s.content.rows,
                s.content,
                s.parts,
                s.number,
            )
            for s in self.segments
            if s.live_count and not s.unread_count
        ]
        if self.memtable.live_count and self.holds_all:
            units += self.memtable_units
        return tuple(units)

    @cached_property
    def ways(self) -> dict[tuple[int, int | None, float | None, int], Any]:
        """Return what ``single`` keeps with a snapshot."""
        return {}

    @cached_property
    def filtered(self) -> dict[str, Any]:
        """Return what ``single_filtered`` keeps with a snapshot."""
        return {}

    @cached_property
    def memtable_units(self) -> tuple[SearchUnit, ...]:
        """Return the memtable as search units, ascending; those without live rows are left out."""
        return tuple(
            SearchUnit(
                chunk.buffer,
                chunk.count,
                chunk.delete_bitmap if chunk.deleted_count else NOTHING_DELETED,
                chunk.live_count,
                chunk.rows,
            )
            for chunk in self.memtable.chunks
            if chunk.live_count
        )

    @cached_property
    def id_rows(self) -> dict[Any, Any]:
        """Return what ``id_rows`` keeps with a snapshot."""
        return {}

    @cached_property
    def lost(self) -> tuple[Unread, ...]:
        """Return the intervals of quarantined segments that are not held, ascending."""
        return tuple(
            Unread(s.first_row, s.end_row, s.unread_count) for s in self.segments if s.unread_count
        )

    @cached_property
    def holds_all(self) -> bool:
        """Return whether all live rows are held, so that no search reads rows from the store."""
        return self.rest is None and not self.lost


def is_clean(segment: SegmentSnapshot, deleted_fraction_max: float = DELETED_FRACTION_MAX) -> bool:
    """Return whether a segment is a graph with so few deleted nodes that it needs no rewrite."""
    deleted_max = deleted_fraction_max * len(segment.content.rows)
    return segment.parts.has(GRAPH) and segment.deleted_count <= deleted_max
