"""Views: what a search sees. A view is immutable and stands for one committed state.

It holds the segments in place, a bitmap of dead nodes for each, and the fresh rows (those at or
past sealed_to) in one buffer. ``view_keeper`` makes views.

Fresh rows lie in an append-only buffer that successive views share: a newer view only knows a
greater length of it. Row r is at position r - first_row, so rows need no table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vecdb.engine import layout
from vecdb.engine.graph import Graph
from vecdb.engine.segment import (
    RowArrays,
    Segment,
)

__all__ = [
    "DEAD_FRACTION_MAX",
    "NOTHING_DEAD",
    "Area",
    "FreshRows",
    "SegmentView",
    "View",
    "aligned_rows",
    "is_clean",
]

NOTHING_DEAD = np.zeros(0, np.uint8)
DEAD_FRACTION_MAX = 0.2
"""A segment with more dead nodes than this is built anew."""

_FRESH_ROWS_AT_FIRST = 1_024


def aligned_rows(count: int, width: int) -> npt.NDArray[np.float32]:
    """float32 (count, width), zeros, beginning on a cache line."""
    buffer = np.zeros(count * width * 4 + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + count * width * 4].view(np.float32).reshape(count, width)


@dataclass(frozen=True)
class SegmentView:
    """A segment with the deaths that a view knows of.

    Attributes:
        number: its number. first_row, end_row: its interval, the end excluded.
        content, graph: its arrays; graph None if it is flat.
        dead: uint8 bitmap of dead nodes, bit i & 7 of byte i >> 3; empty if there are none.
        dead_count: bits set.
        segment: the mapped files, or None if it is lost and its rows were read from the store.
    """

    number: int
    first_row: int
    end_row: int
    content: RowArrays
    graph: Graph | None
    dead: npt.NDArray[np.uint8]
    dead_count: int
    segment: Segment | None

    @property
    def verified(self) -> bool:
        """Its bytes are known to be those that were written: their checksums were compared since
        this process opened the files (``verifying.py``), or it was read from the store."""
        return self.segment is None or self.segment.verified

    @property
    def live_count(self) -> int:
        """Nodes that may be returned."""
        return len(self.content.rows) - self.dead_count

    def with_deaths(self, rows: npt.NDArray[np.int64]) -> SegmentView:
        """The same with more rows dead (ascending); those that are not in it are passed over."""
        inside = rows[np.searchsorted(rows, self.first_row) : np.searchsorted(rows, self.end_row)]
        nodes = _nodes_of(self.content.rows, inside)
        if len(nodes) == 0:
            return self
        bits = self.dead.copy()
        if len(bits) == 0:
            bits = np.zeros((len(self.content.rows) + 7) // 8, np.uint8)
        newly = int(np.count_nonzero((bits[nodes >> 3] >> (nodes & 7).astype(np.uint8)) & 1 == 0))
        np.bitwise_or.at(bits, nodes >> 3, np.uint8(1) << (nodes & 7).astype(np.uint8))
        return SegmentView(
            self.number,
            self.first_row,
            self.end_row,
            self.content,
            self.graph,
            bits,
            self.dead_count + newly,
            self.segment,
        )


def _nodes_of(own: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if len(own) == 0 or len(rows) == 0:
        return np.zeros(0, np.int64)
    nodes = np.searchsorted(own, rows)
    nodes[nodes == len(own)] = 0
    inside: npt.NDArray[np.int64] = nodes[own[nodes] == rows]
    # They ascend with the rows, unless the segment's own are damaged: then none is counted twice.
    return inside[np.diff(inside, prepend=-1) > 0]


@dataclass(frozen=True)
class FreshRows:
    """Rows from ``first_row`` on that are in no segment: the first ``count`` of a shared buffer.

    buffer: float32 (capacity, width). dead: uint8 bitmap over capacity. dead_count: dead among
    count.
    """

    first_row: int
    buffer: npt.NDArray[np.float32]
    count: int
    dead: npt.NDArray[np.uint8]
    dead_count: int

    @property
    def live_count(self) -> int:
        """Rows that may be returned."""
        return self.count - self.dead_count

    @staticmethod
    def empty(first_row: int, width: int) -> FreshRows:
        """No rows yet."""
        return FreshRows(
            first_row,
            aligned_rows(_FRESH_ROWS_AT_FIRST, width),
            0,
            np.zeros(_FRESH_ROWS_AT_FIRST // 8, np.uint8),
            0,
        )

    def room_for(self, count: int) -> FreshRows:
        """The same rows in a buffer that holds at least ``count``."""
        capacity = len(self.buffer)
        if count <= capacity:
            return self
        while capacity < count:
            capacity *= 2
        buffer = aligned_rows(capacity, self.buffer.shape[1])
        buffer[: self.count] = self.buffer[: self.count]
        dead = np.zeros(capacity // 8, np.uint8)
        dead[: len(self.dead)] = self.dead
        return FreshRows(self.first_row, buffer, self.count, dead, self.dead_count)

    def from_row(self, first_row: int) -> FreshRows:
        """Without the rows below ``first_row``, which have become part of a segment."""
        skipped = min(first_row - self.first_row, self.count)
        kept = FreshRows.empty(first_row, self.buffer.shape[1]).room_for(self.count - skipped)
        count = self.count - skipped
        kept.buffer[:count] = self.buffer[skipped : self.count]
        bits = np.unpackbits(self.dead, count=self.count, bitorder="little")[skipped:]
        packed = np.packbits(bits, bitorder="little")
        kept.dead[: len(packed)] = packed
        return FreshRows(first_row, kept.buffer, count, kept.dead, int(bits.sum()))

    def with_deaths(self, rows: npt.NDArray[np.int64]) -> FreshRows:
        """The same with more rows dead; those past the last one are passed over."""
        positions = rows - self.first_row
        positions = positions[positions < self.count]
        if len(positions) == 0:
            return self
        dead = self.dead.copy()
        np.bitwise_or.at(dead, positions >> 3, np.uint8(1) << (positions & 7).astype(np.uint8))
        bits = np.unpackbits(dead, count=self.count, bitorder="little")
        return FreshRows(self.first_row, self.buffer, self.count, dead, int(bits.sum()))


@dataclass(frozen=True)
class Area:
    """Rows that are searched in one go, as kernels want them.

    Attributes:
        vectors: float32 (at least count, width). dead: bitmap, empty if none is dead.
        live_count: rows that may be returned.
        content: the segment's arrays, None for the fresh rows. graph: None to be scanned.
    """

    vectors: npt.NDArray[np.float32]
    count: int
    dead: npt.NDArray[np.uint8]
    live_count: int
    content: RowArrays | None
    graph: Graph | None


@dataclass(frozen=True)
class View:
    """One committed state of a collection; see the module docstring."""

    state: layout.State
    counters: layout.Counters
    segments: tuple[SegmentView, ...]
    fresh: FreshRows

    @cached_property
    def live_count(self) -> int:
        """Rows that a search can return."""
        return sum(s.live_count for s in self.segments) + self.fresh.live_count

    @property
    def verified(self) -> bool:
        """True if all segments are; it becomes true as they are compared."""
        return all(segment.verified for segment in self.segments)

    @cached_property
    def areas(self) -> tuple[Area, ...]:
        """What a search goes through: segments with live rows, then the fresh rows if any live."""
        areas = [
            Area(s.content.vectors, len(s.content.rows), s.dead, s.live_count, s.content, s.graph)
            for s in self.segments
            if s.live_count
        ]
        fresh = self.fresh
        if fresh.live_count:
            dead = fresh.dead if fresh.dead_count else NOTHING_DEAD
            areas.append(Area(fresh.buffer, fresh.count, dead, fresh.live_count, None, None))
        return tuple(areas)


def is_clean(segment: SegmentView, dead_fraction_max: float = DEAD_FRACTION_MAX) -> bool:
    """A graph with few dead nodes: nothing for the indexer to do about it by itself."""
    dead_max = dead_fraction_max * len(segment.content.rows)
    return segment.graph is not None and segment.dead_count <= dead_max
