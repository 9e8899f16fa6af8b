"""The rows of a graph under construction, and which of them are duplicates.

Rows are given in blocks, which are kept and not copied. Both builders insert only the first of
equal rows; the others are chained to it when the graph is finished (``chain_duplicates``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels

__all__ = ["BuildRows", "gather"]


def gather(
    blocks: Sequence[npt.NDArray[np.float32]], rows: npt.NDArray[np.int64], width: int
) -> npt.NDArray[np.float32]:
    """Return a copy of some rows of consecutive blocks, float32 (n, width)."""
    starts = np.cumsum([0] + [len(block) for block in blocks])
    of = np.searchsorted(starts, rows, side="right") - 1
    out = np.empty((len(rows), width), np.float32)
    for block in np.unique(of).tolist():
        mine = np.flatnonzero(of == block)
        out[mine] = blocks[block][rows[mine] - starts[block]]
    return out


class BuildRows:
    """Rows by number, float32 (width,) each. Not thread-safe.

    Attributes:
        width: components of a row, including padding.
        blocks: the rows as given, float32 (m, width) each.
        first_of: int64 (n,), for each row the first equal row, mostly itself.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.blocks: list[npt.NDArray[np.float32]] = []
        self.first_of = np.empty(0, np.int64)
        self._known = _Known(np.empty(0, np.uint64), np.empty(0, np.int64))

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return len(self.first_of)

    def append(self, *blocks: npt.NDArray[np.float32]) -> None:
        """Append rows; the arrays are kept and must not change.

        Raises:
            ValueError: a block has another width; none is appended.
        """
        for block in blocks:
            if block.ndim != 2 or block.shape[1] != self.width:
                raise ValueError(
                    f"expected blocks of shape (m, {self.width}), got shape {block.shape}"
                )
        for block in blocks:
            if len(block):
                firsts = self._firsts(block)
                self.first_of = np.concatenate([self.first_of, firsts])
                self.blocks.append(block)

    def firsts_from(self, start: int) -> npt.NDArray[np.int64]:
        """Return the rows from ``start`` on that equal no earlier row."""
        rows = np.arange(start, self.count)
        return np.asarray(rows[self.first_of[start:] == rows], np.int64)

    def gathered(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return a copy of some rows as given, float32 (n, width)."""
        return gather(self.blocks, rows, self.width)

    def _firsts(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return for each of the rows to be added next the row number of the first equal row."""
        start = self.count
        rows = np.arange(start, start + len(vectors))
        hashes = np.empty(len(vectors), np.uint64)
        bits = np.ascontiguousarray(vectors).view(np.uint32)
        load_kernels().hash_rows(bits, hashes)
        firsts = self._known.look_up(hashes, rows)
        here = np.flatnonzero((firsts != rows) & (firsts >= start))
        differ = np.any(bits[here] != bits[firsts[here] - start], axis=1)
        firsts[here[differ]] = rows[here[differ]]
        before = np.flatnonzero(firsts < start)
        if len(before):
            wanted, which = np.unique(firsts[before], return_inverse=True)
            stored = self.gathered(wanted)
            differ = np.any(bits[before] != stored.view(np.uint32)[which], axis=1)
            firsts[before[differ]] = rows[before[differ]]
        return firsts


class _Known:
    """The hashes of all rows so far, ascending, each with the first row that has it."""

    def __init__(self, hashes: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> None:
        self._hashes, self._rows = hashes, rows

    def look_up(
        self, hashes: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Return for each row the first row with the same hash, itself or earlier; add them."""
        every = np.concatenate([self._hashes, hashes])
        every_row = np.concatenate([self._rows, rows])
        self._hashes, at, which = np.unique(every, return_index=True, return_inverse=True)
        self._rows = every_row[at]
        return self._rows[which[len(every) - len(hashes) :]]
