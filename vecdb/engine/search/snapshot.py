"""Views: what a search sees. A view is immutable and stands for one committed state.

It holds the segments in place, a bitmap of dead nodes for each, and the fresh rows (those at or
past sealed_to, ``fresh_rows``) in one buffer. ``view_keeper`` makes views.

What would take too much memory it does not hold: fresh rows that there was no room for, and large
segments whose files are lost. Of those it knows the intervals, and a search reads them from the
store (``streaming``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.search.memtable import Memtable, nodes_of
from vecdb.engine.search.streaming import Unread
from vecdb.engine.segments.segment import RowArrays, Segment
from vecdb.engine.store import layout

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
"""A segment with more dead nodes than this is built anew."""


@dataclass(frozen=True)
class SegmentSnapshot:
    """A segment with the deaths that a view knows of.

    Attributes:
        number: its number. first_row, end_row: its interval, the end excluded.
        content, graph: its arrays; graph None if it is flat.
        dead: uint8 bitmap of dead nodes, bit i & 7 of byte i >> 3; empty if there are none.
        deleted_count: bits set.
        segment: the mapped files, or None if it is lost and its rows were read from the store.
        unread_count: live rows of a lost segment that is too large to be held: ``content`` has
            none of its rows, and each search reads them.
    """

    number: int
    first_row: int
    end_row: int
    content: RowArrays
    graph: Graph | None
    dead: npt.NDArray[np.uint8]
    deleted_count: int
    segment: Segment | None
    unread_count: int = 0

    @property
    def verified(self) -> bool:
        """Its bytes are known to be those that were written: their checksums were compared since
        this process opened the files (``verifying.py``), or it was read from the store."""
        return self.segment is None or self.segment.verified

    @property
    def has_graph(self) -> bool:
        """Whether a search walks a graph; without one, as in a lost segment, it scans all rows."""
        return self.graph is not None

    @property
    def live_count(self) -> int:
        """Rows that may be returned."""
        return self.node_count - self.deleted_count

    @property
    def node_count(self) -> int:
        """Rows in it, dead ones included as far as they are known to be in it."""
        return len(self.content.rows) + self.unread_count

    @property
    def private_bytes(self) -> int:
        """Memory that it takes beside mapped files."""
        return self.dead.nbytes + (self.content.nbytes if self.segment is None else 0)

    def with_tombstones(self, rows: npt.NDArray[np.int64]) -> SegmentSnapshot:
        """The same with more rows dead (ascending), none of which was known of; those that are
        not in it are passed over."""
        inside = rows[np.searchsorted(rows, self.first_row) : np.searchsorted(rows, self.end_row)]
        if self.unread_count and len(inside):
            return replace(self, unread_count=self.unread_count - len(inside))
        nodes = nodes_of(self.content.rows, inside)
        if len(nodes) == 0:
            return self
        bits = self.dead.copy()
        if len(bits) == 0:
            bits = np.zeros((len(self.content.rows) + 7) // 8, np.uint8)
        newly = int(np.count_nonzero((bits[nodes >> 3] >> (nodes & 7).astype(np.uint8)) & 1 == 0))
        np.bitwise_or.at(bits, nodes >> 3, np.uint8(1) << (nodes & 7).astype(np.uint8))
        return replace(self, dead=bits, deleted_count=self.deleted_count + newly)


@dataclass(frozen=True)
class SearchUnit:
    """Rows that are searched in one go, as kernels want them.

    Attributes:
        vectors: float32 (at least count, width). dead: bitmap, empty if none is dead.
        live_count: rows that may be returned.
        rows: int64 (at least count,), ascending row numbers.
        content: the segment's arrays, None for rows of no segment. graph: None to be scanned.
    """

    vectors: npt.NDArray[np.float32]
    count: int
    dead: npt.NDArray[np.uint8]
    live_count: int
    rows: npt.NDArray[np.int64]
    content: RowArrays | None = None
    graph: Graph | None = None


@dataclass(frozen=True)
class Snapshot:
    """One committed state of a collection; see the module docstring.

    Attributes:
        rest: fresh rows that are not held; None if all that live are.
    """

    state: layout.State
    counters: layout.Counters
    segments: tuple[SegmentSnapshot, ...]
    memtable: Memtable
    rest: Unread | None = None

    @cached_property
    def live_count(self) -> int:
        """Rows that a search can return."""
        return sum(s.live_count for s in self.segments) + self.memtable_live_count

    @property
    def memtable_live_count(self) -> int:
        """Those of them that are in no segment."""
        return self.memtable.live_count + (self.rest.live_count if self.rest else 0)

    @cached_property
    def unindexed_count(self) -> int:
        """Live rows that are in no graph."""
        return self.memtable_live_count + sum(
            s.live_count for s in self.segments if not s.has_graph
        )

    @property
    def verified(self) -> bool:
        """True if all segments are; it becomes true as they are compared."""
        return all(segment.verified for segment in self.segments)

    @property
    def private_bytes(self) -> int:
        """Memory that it takes beside mapped files; successive views share most of it."""
        return self.memtable.nbytes + sum(segment.private_bytes for segment in self.segments)

    @cached_property
    def units(self) -> tuple[SearchUnit, ...]:
        """What a search goes through: segments with live rows, then the fresh rows if any live.
        Unless all rows are held, those of no segment are left out: they are searched together."""
        units = [
            SearchUnit(
                s.content.vectors,
                len(s.content.rows),
                s.dead,
                s.live_count,
                s.content.rows,
                s.content,
                s.graph,
            )
            for s in self.segments
            if s.live_count and not s.unread_count
        ]
        if self.memtable.live_count and self.holds_all:
            units.append(self.memtable_unit)
        return tuple(units)

    @property
    def memtable_unit(self) -> SearchUnit:
        """The fresh rows that are held."""
        memtable = self.memtable
        dead = memtable.dead if memtable.deleted_count else NOTHING_DELETED
        return SearchUnit(memtable.buffer, memtable.count, dead, memtable.live_count, memtable.rows)

    @cached_property
    def lost(self) -> tuple[Unread, ...]:
        """Intervals of lost segments that are not held, ascending."""
        return tuple(
            Unread(s.first_row, s.end_row, s.unread_count) for s in self.segments if s.unread_count
        )

    @cached_property
    def holds_all(self) -> bool:
        """No search needs to read rows from the store."""
        return self.rest is None and not self.lost


def is_clean(segment: SegmentSnapshot, deleted_fraction_max: float = DELETED_FRACTION_MAX) -> bool:
    """A graph with few dead nodes: nothing for the indexer to do about it by itself."""
    deleted_max = deleted_fraction_max * len(segment.content.rows)
    return segment.has_graph and segment.deleted_count <= deleted_max
