"""Sets of the nodes of a segment, as an ascending list or as a bitmap.

A bitmap has bit i & 7 of byte i >> 3 for node i, as delete bitmaps have; bits past the last node
are 0. Sets are immutable, and so are their arrays, which may be shared and mapped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.segments.matches import Matches

__all__ = ["Array", "Bits", "Mask", "NodeSet", "Nodes", "packed"]

Nodes = npt.NDArray[np.int32]
Bits = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
"""Of integers, of whatever size they are stored in."""

_NO_NODES: Nodes = np.zeros(0, np.int32)


def packed(mask: Mask) -> Bits:
    """Return a mask, bool (n,), as a bitmap."""
    bits: Bits = np.packbits(mask, bitorder="little")
    return bits


class NodeSet:
    """A set of nodes of a segment with ``size`` nodes. Immutable; safe for threads."""

    __slots__ = ("_bits", "_count", "_nodes", "size")

    def __init__(
        self, size: int, nodes: Nodes | None = None, bits: Bits | None = None, count: int = -1
    ) -> None:
        """Create a set; ``all_of``, ``none_of``, ``of_nodes`` and ``of_bits`` read better."""
        self.size = size
        self._nodes, self._bits = nodes, bits
        self._count = count

    @staticmethod
    def all_of(size: int) -> NodeSet:
        """Return the set of all nodes, which takes no memory."""
        return NodeSet(size, count=size)

    @staticmethod
    def none_of(size: int) -> NodeSet:
        """Return the empty set."""
        return NodeSet(size, _NO_NODES, count=0)

    @staticmethod
    def of_nodes(size: int, nodes: Array) -> NodeSet:
        """Return a set of ascending, distinct nodes."""
        return NodeSet(size, nodes.astype(np.int32, copy=False), count=len(nodes))

    @staticmethod
    def of_bits(size: int, bits: Bits, count: int = -1) -> NodeSet:
        """Return a set of the nodes in a bitmap; ``count`` if it is known."""
        return NodeSet(size, None, bits, count)

    @property
    def count(self) -> int:
        """The number of nodes in the set."""
        if self._count < 0:
            assert self._bits is not None
            self._count = int(np.bitwise_count(self._bits).sum(dtype=np.int64))
        return self._count

    @property
    def is_all(self) -> bool:
        """Whether all nodes are in it."""
        return self.count == self.size

    @property
    def is_list(self) -> bool:
        """Whether it is held as a list, so that going through it costs as much as it is long."""
        return self._nodes is not None

    @property
    def nodes(self) -> Nodes:
        """Its nodes, int32, ascending."""
        if self._nodes is None:
            if self._bits is None:
                return np.arange(self.size, dtype=np.int32)
            nodes = np.empty(self.count, np.int32)
            load_kernels().list_live(~self._bits, self.size, nodes)
            self._nodes = nodes
        return self._nodes

    @property
    def bits(self) -> Bits:
        """Its nodes as a bitmap."""
        if self._bits is None:
            mask = np.zeros(self.size, np.bool_)
            if self._nodes is None:
                mask[:] = True
            else:
                mask[self._nodes] = True
            self._bits = packed(mask)
        return self._bits

    def has(self, nodes: Array) -> Mask:
        """Return which of some nodes are in the set, bool (len(nodes),)."""
        if self.count == 0:
            return np.zeros(len(nodes), np.bool_)
        if self.count == self.size:
            return np.ones(len(nodes), np.bool_)
        if self._bits is None and len(nodes) < 64 and self._nodes is not None:
            at = np.minimum(np.searchsorted(self._nodes, nodes), len(self._nodes) - 1)
            found: Mask = self._nodes[at] == nodes
            return found
        set_bits = (self.bits[nodes >> 3] >> (nodes & 7).astype(np.uint8)) & 1
        inside: Mask = set_bits.view(np.bool_)
        return inside

    def inverted(self) -> NodeSet:
        """Return the set of all other nodes."""
        if self.count == 0:
            return NodeSet.all_of(self.size)
        if self.count == self.size:
            return NodeSet.none_of(self.size)
        bits = ~self.bits
        if self.size % 8:
            bits[-1] &= (1 << self.size % 8) - 1
        return NodeSet.of_bits(self.size, bits, self.size - self.count)

    def __and__(self, other: NodeSet) -> NodeSet:
        few, many = (self, other) if self.count <= other.count else (other, self)
        if few.count == 0 or many.count == many.size or few is many:
            return few
        if few.is_list and (few._bits is None or few.count < few.size >> 5):
            nodes = few.nodes
            return NodeSet.of_nodes(self.size, nodes[many.has(nodes)])
        return NodeSet.of_bits(self.size, self.bits & other.bits)

    def __or__(self, other: NodeSet) -> NodeSet:
        few, many = (self, other) if self.count <= other.count else (other, self)
        if few.count == 0 or many.count == many.size or few is many:
            return many
        if self.is_list and other.is_list and few.count + many.count < self.size >> 6:
            return NodeSet.of_nodes(self.size, np.union1d(few.nodes, many.nodes))
        return NodeSet.of_bits(self.size, self.bits | other.bits)

    def minus(self, other: NodeSet) -> NodeSet:
        """Return the nodes of this set that are not in the other."""
        if other.count == 0 or self.count == 0:
            return self
        if self is other or other.is_all:
            return NodeSet.none_of(self.size)
        if self.is_list:
            nodes = self.nodes
            return NodeSet.of_nodes(self.size, nodes[~other.has(nodes)])
        return NodeSet.of_bits(self.size, self.bits & ~other.bits)

    def matches(self) -> Matches:
        """Return the set in the form that searches take."""
        if self._bits is None and 32 * self.count < self.size:
            return Matches(self.count, self.nodes, None)
        return Matches(self.count, None, self.bits)
