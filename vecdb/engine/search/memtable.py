"""The memtable: rows that are in no segment yet, in one buffer that kernels scan.

    first_row                  end_row           the snapshot's next_row
       |  held, deleted or purged  |  not held: scanned from the store  |

The buffer is append-only and shared by successive snapshots; a newer snapshot uses more of its
length. Rows that are already deleted when they are read are not added. When the buffer would have
to grow and a quarter of its rows is deleted, it is rewritten without its deleted rows. So its size
stays within a small multiple of the live rows, however often they are replaced, and never exceeds
``rows_max`` rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels

__all__ = ["Memtable", "aligned_rows", "nodes_of"]

_CAPACITY_MIN = 64
_REWRITE_AT_ONE_IN = 4
"""The buffer is rewritten when one row in this many is deleted."""


def aligned_rows(count: int, width: int) -> npt.NDArray[np.float32]:
    """Return float32 zeros, shape (count, width), aligned to a cache line of 64 bytes."""
    buffer = np.zeros(count * width * 4 + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + count * width * 4].view(np.float32).reshape(count, width)


def nodes_of(own: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the positions in ``own`` of the ``rows`` that it contains, ascending.

    own, rows: int64, ascending.
    """
    if len(own) == 0 or len(rows) == 0:
        return np.zeros(0, np.int64)
    nodes = np.searchsorted(own, rows)
    nodes[nodes == len(own)] = 0
    inside: npt.NDArray[np.int64] = nodes[own[nodes] == rows]
    # Drop repeated positions, which occur only if ``own`` comes from a damaged segment.
    return inside[np.diff(inside, prepend=-1) > 0]


@dataclass(frozen=True)
class Memtable:
    """The first ``count`` rows of a shared buffer, ascending. Immutable.

    They are the live rows of [first_row, end_row), and some that were deleted since.

    Attributes:
        rows: int64 (capacity,), row numbers.
        buffer: float32 (capacity, width), in the kernels' form.
        delete_bitmap: uint8 ((capacity + 7) // 8,), bit i & 7 of byte i >> 3.
        deleted_count: deleted rows among the first ``count``.
        rows_max: upper bound of the capacity.
    """

    first_row: int
    end_row: int
    rows: npt.NDArray[np.int64]
    buffer: npt.NDArray[np.float32]
    count: int
    delete_bitmap: npt.NDArray[np.uint8]
    deleted_count: int
    rows_max: int

    @property
    def live_count(self) -> int:
        """Return the number of rows that a search may return."""
        return self.count - self.deleted_count

    @property
    def has_room(self) -> bool:
        """Return whether rows can be added, if necessary after a rewrite without deleted rows."""
        return self.count < self.rows_max or self._is_sparse

    @property
    def nbytes(self) -> int:
        """Return the memory size in bytes."""
        return self.rows.nbytes + self.buffer.nbytes + self.delete_bitmap.nbytes

    @staticmethod
    def row_bytes(width: int) -> float:
        """Return the memory of one row in bytes."""
        return 4 * width + 8 + 1 / 8

    @staticmethod
    def empty(first_row: int, width: int, rows_max: int) -> Memtable:
        """Return a memtable without rows."""
        return Memtable._with_capacity(first_row, min(_CAPACITY_MIN, rows_max), width, rows_max)

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
        return self.count > 0 and _REWRITE_AT_ONE_IN * self.deleted_count >= self.count

    def appended(
        self, rows: npt.NDArray[np.int64], raw: npt.NDArray[np.float32], normalise: bool
    ) -> Memtable:
        """Return a memtable with as many of the rows added as there is room for.

        ``end_row`` of the result is one past the last row added.

        Args:
            rows: int64 (n,), ascending, from ``end_row`` on.
            raw: float32 (n, dim), as written by the user.
            normalise: scale the vectors to length 1 (cosine).
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
        """Return the same rows with a later ``end_row``: no other row before it is live."""
        return self if end_row == self.end_row else replace(self, end_row=end_row)

    def from_row(self, first_row: int) -> Memtable:
        """Return a memtable without the rows below ``first_row``, which are now in a segment."""
        if first_row == self.first_row:
            return self
        return self._copied(first_row, 0)

    def with_tombstones(self, rows: npt.NDArray[np.int64]) -> Memtable:
        """Return a memtable with more rows deleted (int64, ascending); unknown rows are ignored."""
        nodes = nodes_of(self.rows[: self.count], rows)
        if len(nodes) == 0:
            return self
        delete_bitmap = self.delete_bitmap.copy()
        np.bitwise_or.at(delete_bitmap, nodes >> 3, np.uint8(1) << (nodes & 7).astype(np.uint8))
        bits = np.unpackbits(delete_bitmap, count=self.count, bitorder="little")
        return replace(self, delete_bitmap=delete_bitmap, deleted_count=int(bits.sum()))

    def _with_room_for(self, more: int) -> Memtable:
        """Return a memtable with room for more rows: larger, or rewritten without deleted rows."""
        if self.count + more <= len(self.rows):
            return self
        if self._is_sparse:
            return self._copied(self.first_row, self.live_count + more)
        if len(self.rows) == self.rows_max:
            return self
        return self._copied(self.first_row, max(self.count + more, 2 * len(self.rows)))

    def _copied(self, first_row: int, capacity_min: int) -> Memtable:
        """Return a copy of the live rows from ``first_row`` on, with room for ``capacity_min`` rows
        or ``rows_max``, whichever is less."""
        live = np.unpackbits(self.delete_bitmap, count=self.count, bitorder="little") == 0
        live &= self.rows[: self.count] >= first_row
        kept = np.flatnonzero(live)
        capacity = min(_CAPACITY_MIN, self.rows_max)
        while capacity < min(max(len(kept), capacity_min), self.rows_max):
            capacity = min(2 * capacity, self.rows_max)
        copy = Memtable._with_capacity(first_row, capacity, self.buffer.shape[1], self.rows_max)
        np.take(self.buffer, kept, axis=0, out=copy.buffer[: len(kept)])
        copy.rows[: len(kept)] = self.rows[kept]
        return replace(copy, count=len(kept), end_row=max(first_row, self.end_row))
