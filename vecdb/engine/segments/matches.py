"""Which nodes of a segment, or of the memtable, match a filter: a bitmap or a list of nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Matches"]

_NODE_BITS = 32


@dataclass(frozen=True)
class Matches:
    """The matching nodes of some; deleted ones may be included. Immutable.

    Exactly one of nodes and bitmap is given.

    Attributes:
        count: number of matching nodes.
        nodes: int32 (count,), ascending.
        bitmap: uint8, bit i & 7 of byte i >> 3 is set if node i matches.
    """

    count: int
    nodes: npt.NDArray[np.int32] | None
    bitmap: npt.NDArray[np.uint8] | None

    @staticmethod
    def of_marks(marks: npt.NDArray[np.bool_]) -> Matches:
        """Return what bool (n,) says."""
        count = int(np.count_nonzero(marks))
        if count * _NODE_BITS < len(marks):
            return Matches(count, np.flatnonzero(marks).astype(np.int32), None)
        return Matches(count, None, np.packbits(marks, bitorder="little"))

    @staticmethod
    def of_nodes(nodes: npt.NDArray[np.int32], n: int) -> Matches:
        """Return what a list says, int32, ascending, of n nodes."""
        if len(nodes) * _NODE_BITS < n:
            return Matches(len(nodes), nodes, None)
        marks = np.zeros(n, bool)
        marks[nodes] = True
        return Matches(len(nodes), None, np.packbits(marks, bitorder="little"))

    def marks(self, n: int) -> npt.NDArray[np.bool_]:
        """Return bool (n,), for the first n nodes; it may be changed."""
        if self.bitmap is not None:
            bits = np.unpackbits(self.bitmap, count=min(n, 8 * len(self.bitmap)), bitorder="little")
            return np.concatenate([bits, np.zeros(n - len(bits), np.uint8)]).view(bool)
        marks = np.zeros(n, bool)
        if self.nodes is not None:
            marks[self.nodes[: np.searchsorted(self.nodes, n)]] = True
        return marks

    def bits(self, n: int) -> npt.NDArray[np.uint8]:
        """Return the bitmap of the first n nodes, uint8 ((n + 7) // 8,), no other bit set."""
        held = self.bitmap
        fits = held is not None and len(held) == (n + 7) // 8
        if held is not None and fits and not (n % 8 and held[-1] >> n % 8):
            return held
        return np.packbits(self.marks(n), bitorder="little")

    @property
    def nbytes(self) -> int:
        """Return the memory size in bytes."""
        held = self.nodes if self.bitmap is None else self.bitmap
        return 0 if held is None else held.nbytes
