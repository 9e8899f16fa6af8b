"""The memtable: rows that are in no segment yet, in buffers that kernels scan.

    first_row                  end_row           the snapshot's next_row
       |  held, deleted or purged  |  not held: scanned from the store  |

The rows are in chunks of at most ``_CHUNK_BYTES``, ascending. A chunk is append-only and shared by
successive snapshots; a newer snapshot uses more of its length. So a search that finds many new rows
copies these and at most one chunk beside, however large the memtable is, and a flush only drops
chunks. Only the last chunk has room, and while it is small it grows by copying.

Rows that are already deleted when they are read are not added. When the last chunk is full, chunks
of which a quarter is deleted are rewritten without their deleted rows. So the size stays within a
small multiple of the live rows, however often they are replaced, and never exceeds ``rows_max``
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels

__all__ = ["Chunk", "Memtable", "aligned_rows", "nodes_of"]

_CAPACITY_MIN = 64
_REWRITE_AT_ONE_IN = 4
"""A chunk is rewritten when one row in this many is deleted."""

_CHUNK_BYTES: Final = 3 * 1024**2
"""Most bytes of a chunk. Each one costs a search about 20 µs; copying one takes a millisecond. From
4 MiB on numpy asks for huge pages, the first use of which takes up to 5 ms each."""


def aligned_rows(count: int, width: int, *, zeros: bool = True) -> npt.NDArray[np.float32]:
    """Return float32 rows, shape (count, width), aligned to a cache line of 64 bytes.

    zeros: whether they are zero; otherwise they are not initialised.
    """
    buffer = (np.zeros if zeros else np.empty)(count * width * 4 + 64, np.uint8)
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
class Chunk:
    """The first ``count`` rows of a shared buffer, ascending. Immutable.

    Attributes:
        rows: int64 (capacity,), row numbers.
        buffer: float32 (capacity, width), in the kernels' form.
        delete_bitmap: uint8 ((capacity + 7) // 8,), bit i & 7 of byte i >> 3.
        deleted_count: deleted rows among the first ``count``.
    """

    rows: npt.NDArray[np.int64]
    buffer: npt.NDArray[np.float32]
    count: int
    delete_bitmap: npt.NDArray[np.uint8]
    deleted_count: int

    @staticmethod
    def empty(capacity: int, width: int) -> Chunk:
        """Return a chunk without rows."""
        return Chunk(
            np.zeros(capacity, np.int64),
            aligned_rows(capacity, width, zeros=False),
            0,
            np.zeros((capacity + 7) // 8, np.uint8),
            0,
        )

    @property
    def capacity(self) -> int:
        """Return the number of rows that the buffer has room for."""
        return len(self.rows)

    @property
    def room(self) -> int:
        """Return the number of rows that can be added."""
        return len(self.rows) - self.count

    @property
    def live_count(self) -> int:
        """Return the number of rows that a search may return."""
        return self.count - self.deleted_count

    @property
    def is_sparse(self) -> bool:
        """Return whether rewriting it without its deleted rows pays."""
        return self.count > 0 and _REWRITE_AT_ONE_IN * self.deleted_count >= self.count

    @property
    def nbytes(self) -> int:
        """Return the memory size in bytes."""
        return self.rows.nbytes + self.buffer.nbytes + self.delete_bitmap.nbytes

    def live_nodes(self) -> npt.NDArray[np.int64]:
        """Return the positions of the live rows, int64, ascending."""
        return np.flatnonzero(
            np.unpackbits(self.delete_bitmap, count=self.count, bitorder="little") == 0
        )

    def appended(
        self, rows: npt.NDArray[np.int64], raw: npt.NDArray[np.float32], normalise: bool
    ) -> Chunk:
        """Return the chunk with rows added, for which it must have room; see ``Memtable``."""
        end = self.count + len(rows)
        load_kernels().prepare_rows(raw, self.buffer[self.count : end], normalise)
        self.rows[self.count : end] = rows
        return replace(self, count=end)

    def taking(self, other: Chunk, nodes: npt.NDArray[np.int64]) -> Chunk:
        """Return the chunk with rows of another one added, for which it must have room."""
        end = self.count + len(nodes)
        np.take(other.buffer, nodes, axis=0, out=self.buffer[self.count : end])
        self.rows[self.count : end] = other.rows[nodes]
        return replace(self, count=end)

    def with_tombstones(self, rows: npt.NDArray[np.int64]) -> Chunk:
        """Return the chunk with more rows deleted (int64, ascending); ignores unknown rows."""
        own = self.rows[: self.count]
        if self.count == 0:
            return self
        inside = rows[np.searchsorted(rows, own[0]) : np.searchsorted(rows, own[-1], "right")]
        nodes = nodes_of(own, inside)
        if len(nodes) == 0:
            return self
        delete_bitmap = self.delete_bitmap.copy()
        np.bitwise_or.at(delete_bitmap, nodes >> 3, np.uint8(1) << (nodes & 7).astype(np.uint8))
        bits = np.unpackbits(delete_bitmap, count=self.count, bitorder="little")
        return replace(self, delete_bitmap=delete_bitmap, deleted_count=int(bits.sum()))


@dataclass(frozen=True)
class Memtable:
    """The live rows of [first_row, end_row), and some that were deleted since. Immutable.

    Attributes:
        chunks: the rows, ascending.
        width: components of a row in the kernels' form.
        rows_max: upper bound of the capacity.
    """

    first_row: int
    end_row: int
    chunks: tuple[Chunk, ...]
    width: int
    rows_max: int

    @staticmethod
    def row_bytes(width: int) -> float:
        """Return the memory of one row in bytes."""
        return 4 * width + 8 + 1 / 8

    @staticmethod
    def empty(first_row: int, width: int, rows_max: int) -> Memtable:
        """Return a memtable without rows."""
        return Memtable(first_row, first_row, (), width, rows_max)

    @property
    def count(self) -> int:
        """Return the number of rows held, including deleted ones."""
        return sum(chunk.count for chunk in self.chunks)

    @property
    def live_count(self) -> int:
        """Return the number of rows that a search may return."""
        return sum(chunk.live_count for chunk in self.chunks)

    @property
    def capacity(self) -> int:
        """Return the number of rows that the buffers have room for."""
        return sum(chunk.capacity for chunk in self.chunks)

    @property
    def nbytes(self) -> int:
        """Return the memory size in bytes."""
        return sum(chunk.nbytes for chunk in self.chunks)

    @property
    def has_room(self) -> bool:
        """Return whether rows can be added, if necessary after a rewrite without deleted rows."""
        return (
            self._last_room > 0
            or self.capacity < self.rows_max
            or any(chunk.is_sparse for chunk in self.chunks)
        )

    @property
    def _last_room(self) -> int:
        return self.chunks[-1].room if self.chunks else 0

    @property
    def _chunk_rows_max(self) -> int:
        return max(_CAPACITY_MIN, _CHUNK_BYTES // (4 * self.width))

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
        memtable, begin = self, 0
        raw = np.ascontiguousarray(raw)
        if not raw.flags.aligned:
            raw = raw.copy()
        while begin < len(rows):
            memtable = memtable._with_room_for(len(rows) - begin)
            end = min(len(rows), begin + memtable._last_room)
            if end == begin:
                break
            last = memtable.chunks[-1].appended(rows[begin:end], raw[begin:end], normalise)
            chunks = (*memtable.chunks[:-1], last)
            memtable = replace(memtable, chunks=chunks, end_row=int(rows[end - 1]) + 1)
            begin = end
        return memtable

    def known_to(self, end_row: int) -> Memtable:
        """Return the same rows with a later ``end_row``: no other row before it is live."""
        return self if end_row == self.end_row else replace(self, end_row=end_row)

    def from_row(self, first_row: int) -> Memtable:
        """Return a memtable without the rows below ``first_row``, which are now in a segment."""
        if first_row == self.first_row:
            return self
        chunks: list[Chunk] = []
        for chunk in self.chunks:
            below = int(np.searchsorted(chunk.rows[: chunk.count], first_row))
            if below == 0:
                chunks.append(chunk)
            elif below < chunk.count:
                nodes = chunk.live_nodes()
                nodes = nodes[nodes >= below]
                capacity = min(chunk.capacity, max(_CAPACITY_MIN, len(nodes)))
                chunks.append(Chunk.empty(capacity, self.width).taking(chunk, nodes))
        end_row = max(first_row, self.end_row)
        return replace(self, first_row=first_row, end_row=end_row, chunks=tuple(chunks))

    def with_tombstones(self, rows: npt.NDArray[np.int64]) -> Memtable:
        """Return a memtable with more rows deleted (int64, ascending); unknown rows are ignored."""
        if len(rows) == 0 or not self.chunks:
            return self
        return replace(self, chunks=tuple(chunk.with_tombstones(rows) for chunk in self.chunks))

    def _with_room_for(self, more: int) -> Memtable:
        """Return a memtable whose last chunk has room for some rows, if possible for ``more``."""
        if self._last_room > 0:
            return self
        if not any(chunk.is_sparse for chunk in self.chunks):
            return self._with_new_room(more)
        rewritten = self._rewritten(more)
        return rewritten if rewritten._last_room > 0 else rewritten._with_new_room(more)

    def _with_new_room(self, more: int) -> Memtable:
        """Return a memtable with a larger last chunk, or with one more."""
        left, most = self.rows_max - self.capacity, self._chunk_rows_max
        if left <= 0:
            return self
        if not self.chunks:
            first = Chunk.empty(min(left, most, _doubled(_CAPACITY_MIN, more)), self.width)
            return replace(self, chunks=(first,))
        *others, last = self.chunks
        if last.capacity < most:
            wanted = max(last.count + more, 2 * last.capacity)
            larger = Chunk.empty(min(wanted, most, last.capacity + left), self.width)
            kept = larger.taking(last, np.arange(last.count))
            bitmap = np.zeros_like(larger.delete_bitmap)
            bitmap[: len(last.delete_bitmap)] = last.delete_bitmap
            kept = replace(kept, delete_bitmap=bitmap, deleted_count=last.deleted_count)
            return replace(self, chunks=(*others, kept))
        return replace(self, chunks=(*self.chunks, Chunk.empty(min(most, left), self.width)))

    def _rewritten(self, more: int) -> Memtable:
        """Return a memtable whose sparse chunks are rewritten without deleted rows, the last one,
        if it is among them, with room for ``more`` rows if possible."""
        chunks: list[Chunk] = []
        for is_sparse, run in groupby(self.chunks, key=lambda chunk: chunk.is_sparse):
            sources = list(run)
            if not is_sparse:
                chunks += sources
                continue
            live = sum(chunk.live_count for chunk in sources)
            capacity = live
            if sources[-1] is self.chunks[-1]:
                left = self.rows_max - sum(chunk.capacity for chunk in chunks)
                capacity = min(left, _doubled(_CAPACITY_MIN, live + more))
            chunks += _packed(sources, capacity if live else 0, self._chunk_rows_max, self.width)
        return replace(self, chunks=tuple(chunks))


def _packed(sources: Sequence[Chunk], capacity: int, rows_max: int, width: int) -> list[Chunk]:
    """Return chunks of at most ``rows_max`` rows with the live rows of others, and with room for
    ``capacity`` rows in all, of which the last one has what is left."""
    packed: list[Chunk] = []
    for chunk in sources:
        nodes = chunk.live_nodes()
        while len(nodes):
            if not packed or packed[-1].room == 0:
                packed.append(Chunk.empty(min(rows_max, capacity), width))
                capacity -= packed[-1].capacity
            taken = nodes[: packed[-1].room]
            packed[-1] = packed[-1].taking(chunk, taken)
            nodes = nodes[len(taken) :]
    return packed


def _doubled(capacity: int, rows: int) -> int:
    """Return a capacity of at least ``rows``, as often doubled as that takes."""
    while capacity < rows:
        capacity *= 2
    return capacity
