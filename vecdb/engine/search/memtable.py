"""Fresh rows: those that are in no segment yet, in one buffer that kernels scan.

    first_row            end_row         the view's next_row
       |  held, dead or purged  |  not held: scanned from the store  |

The buffer is append-only and shared by successive views: a newer view only knows a greater length
of it. It holds no rows that were dead when they were read, and is written anew without those that
died since when it would have to grow and a quarter of it is dead. So it takes a small multiple of
what lives, however often that is replaced, and never more than ``rows_max``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels

__all__ = ["Memtable", "aligned_rows", "nodes_of"]

_ROWS_AT_FIRST = 64
_DELETED_PARTS_WORTH_IT = 4
"""The buffer is written anew when a row in so many is dead."""


def aligned_rows(count: int, width: int) -> npt.NDArray[np.float32]:
    """float32 (count, width), zeros, beginning on a cache line."""
    buffer = np.zeros(count * width * 4 + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + count * width * 4].view(np.float32).reshape(count, width)


def nodes_of(own: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where those of ``rows`` that are among ``own`` are in it; both ascend."""
    if len(own) == 0 or len(rows) == 0:
        return np.zeros(0, np.int64)
    nodes = np.searchsorted(own, rows)
    nodes[nodes == len(own)] = 0
    inside: npt.NDArray[np.int64] = nodes[own[nodes] == rows]
    # They ascend with the rows, unless the segment's own are damaged: then none is counted twice.
    return inside[np.diff(inside, prepend=-1) > 0]


@dataclass(frozen=True)
class Memtable:
    """Live rows of [first_row, end_row), and some that died since: the first ``count`` of a shared
    buffer, ascending.

    Attributes:
        rows: int64 (capacity,), row numbers. buffer: float32 (capacity, width), in the kernels'
            form. dead: uint8 bitmap over capacity. dead_count: dead among count.
        rows_max: capacity grows no larger than this.
    """

    first_row: int
    end_row: int
    rows: npt.NDArray[np.int64]
    buffer: npt.NDArray[np.float32]
    count: int
    dead: npt.NDArray[np.uint8]
    deleted_count: int
    rows_max: int

    @property
    def live_count(self) -> int:
        """Rows that may be returned."""
        return self.count - self.deleted_count

    @property
    def has_room(self) -> bool:
        """More rows can be held, if need be when the dead ones have been let go."""
        return self.count < self.rows_max or self._is_sparse

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.rows.nbytes + self.buffer.nbytes + self.dead.nbytes

    @staticmethod
    def row_bytes(width: int) -> float:
        """What a row takes."""
        return 4 * width + 8 + 1 / 8

    @staticmethod
    def empty(first_row: int, width: int, rows_max: int) -> Memtable:
        """No rows yet."""
        return Memtable._with_capacity(first_row, min(_ROWS_AT_FIRST, rows_max), width, rows_max)

    @staticmethod
    def _with_capacity(first_row: int, capacity: int, width: int, rows_max: int) -> Memtable:
        return Memtable(
            first_row,
            first_row,
            np.zeros(capacity, np.int64),
            aligned_rows(capacity, width),
            0,
            np.zeros((capacity + 7) // 8, np.uint8),
            0,
            rows_max,
        )

    @property
    def _is_sparse(self) -> bool:
        return self.count > 0 and _DELETED_PARTS_WORTH_IT * self.deleted_count >= self.count

    def appended(
        self, rows: npt.NDArray[np.int64], raw: npt.NDArray[np.float32], normalise: bool
    ) -> Memtable:
        """With more rows, or as many of them as there is room for: ``end_row`` says how far.

        rows: int64 (n,), ascending from ``end_row`` on. raw: float32 (n, dim), as given.
        """
        memtable = self._with_room_for(len(rows))
        taken = min(len(rows), len(memtable.rows) - memtable.count)
        if taken == 0:
            return memtable
        raw = np.ascontiguousarray(raw[:taken])
        if not raw.flags.aligned:
            raw = raw.copy()
        end = memtable.count + taken
        load_kernels().prepare_rows(raw, memtable.buffer[memtable.count : end], normalise)
        memtable.rows[memtable.count : end] = rows[:taken]
        return replace(memtable, count=end, end_row=int(rows[taken - 1]) + 1)

    def known_to(self, end_row: int) -> Memtable:
        """The same, when no row that is not held lives before ``end_row``."""
        return self if end_row == self.end_row else replace(self, end_row=end_row)

    def from_row(self, first_row: int) -> Memtable:
        """Without the rows below ``first_row``, which have become part of a segment."""
        if first_row == self.first_row:
            return self
        return self._copied(first_row, 0)

    def with_tombstones(self, rows: npt.NDArray[np.int64]) -> Memtable:
        """The same with more rows dead (ascending); those that are not held are passed over."""
        nodes = nodes_of(self.rows[: self.count], rows)
        if len(nodes) == 0:
            return self
        dead = self.dead.copy()
        np.bitwise_or.at(dead, nodes >> 3, np.uint8(1) << (nodes & 7).astype(np.uint8))
        bits = np.unpackbits(dead, count=self.count, bitorder="little")
        return replace(self, dead=dead, deleted_count=int(bits.sum()))

    def _with_room_for(self, more: int) -> Memtable:
        """The same, in a larger buffer or without its dead if that is what more rows take."""
        if self.count + more <= len(self.rows):
            return self
        if self._is_sparse:
            return self._copied(self.first_row, self.live_count + more)
        if len(self.rows) == self.rows_max:
            return self
        return self._copied(self.first_row, max(self.count + more, 2 * len(self.rows)))

    def _copied(self, first_row: int, capacity_min: int) -> Memtable:
        """A copy of the rows from ``first_row`` on that live, with room for so many if it may be
        that large."""
        alive = np.unpackbits(self.dead, count=self.count, bitorder="little") == 0
        alive &= self.rows[: self.count] >= first_row
        kept = np.flatnonzero(alive)
        capacity = min(_ROWS_AT_FIRST, self.rows_max)
        while capacity < min(max(len(kept), capacity_min), self.rows_max):
            capacity = min(2 * capacity, self.rows_max)
        copy = Memtable._with_capacity(first_row, capacity, self.buffer.shape[1], self.rows_max)
        np.take(self.buffer, kept, axis=0, out=copy.buffer[: len(kept)])
        copy.rows[: len(kept)] = self.rows[kept]
        return replace(copy, count=len(kept), end_row=max(first_row, self.end_row))
