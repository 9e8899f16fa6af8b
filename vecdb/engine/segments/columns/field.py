"""The column of one field, and its order.

Distinct values have codes in one order; those of other classes never compare:

    0 null   1 false   2 true   3 … numbers, by exact value   … strings, by their UTF-8 bytes

    starts[c] : starts[c + 1]    where the nodes that have value c are in ``order``, ascending
    codes                        the values of nodes, in node order

So the nodes with a value, a prefix or a value in a range are one slice of ``order``, and their
number is known before any of them is read: ``starts[high] - starts[low]``, if no node has several
values. A node has several if its field is a list; it is then in ``order`` once for each distinct
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.columns.node_sets import Array, Mask, Nodes, NodeSet, packed
from vecdb.engine.segments.columns.numbers import number_at, position_of

__all__ = ["FIRST_NUMBER", "CodeRange", "Field", "Holders", "Scalar", "Texts"]

Scalar: TypeAlias = bool | int | float | str | None

CodeRange = tuple[int, int]
"""Codes from the first to before the second."""

NULL_CODE: Final = 0
FALSE_CODE: Final = 1
TRUE_CODE: Final = 2
FIRST_NUMBER: Final = 3

_RANGES_ONE_BY_ONE: Final = 4
"""Nodes are compared with more ranges than this by a table of all codes."""

_DENSE: Final = 16
"""From one value in so many nodes on, comparing the codes of all nodes takes less time than marking
the nodes in a slice of the order: 0.2 ns a node against 3 ns."""


@dataclass(frozen=True)
class Texts:
    """Distinct strings, ascending by their UTF-8 bytes; string i is
    ``raw[offsets[i]:offsets[i + 1]]``. offsets: int64 or uint32 (n + 1,). raw: uint8."""

    offsets: Array
    raw: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, at: int) -> bytes:
        return self.raw[int(self.offsets[at]) : int(self.offsets[at + 1])].tobytes()

    def position_of(self, wanted: bytes) -> int:
        """Return how many strings are less than ``wanted``."""
        raw, offsets = memoryview(self.raw), self.offsets  # type: ignore[arg-type]
        low, high = 0, len(offsets) - 1
        while low < high:
            middle = (low + high) >> 1
            if raw[int(offsets[middle]) : int(offsets[middle + 1])].tobytes() < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def range_of_prefix(self, prefix: bytes) -> CodeRange:
        """Return which strings begin with ``prefix``."""
        low = self.position_of(prefix)
        after = _after_all(prefix)
        return low, len(self) if after is None else max(low, self.position_of(after))

    def decoded(self) -> Iterator[str]:
        """Yield all strings, in their order."""
        whole, edges = self.raw.tobytes(), self.offsets.tolist()
        for start, end in pairwise(edges):
            yield whole[start:end].decode()


def _after_all(prefix: bytes) -> bytes | None:
    """Return the least bytes greater than all that begin with ``prefix``; None if there are none.

    0xFF is in no UTF-8 text, so a prefix never ends with it, but for an empty one.
    """
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None


@dataclass(frozen=True)
class Holders:
    """The values of each node.

    Attributes:
        codes: signed integers. One for each node, -1 for none; or for each of ``nodes``; or those
            of node i at ``offsets[i]:offsets[i + 1]``.
        nodes: nodes that have a value, int32, ascending; None if all nodes are counted.
        offsets: uint32 (nodes + 1,); None if no node has more than one value.
    """

    codes: Array
    nodes: Nodes | None = None
    offsets: npt.NDArray[np.uint32] | None = None

    def of(self, nodes: Array) -> tuple[Array, Array | None]:
        """Return the codes of some nodes, and to which of them each belongs; None: one each."""
        if self.nodes is None:
            places, owners = nodes, None
        else:
            at = np.searchsorted(self.nodes, nodes)
            owners = np.flatnonzero(at < len(self.nodes))
            owners = owners[self.nodes[at[owners]] == nodes[owners]]
            places = at[owners]
        if self.offsets is None:
            return self.codes[places], owners
        starts = self.offsets[places].astype(np.int64)
        counts = self.offsets[places + 1].astype(np.int64) - starts
        ends = np.cumsum(counts)
        inside = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
        whose = np.arange(len(nodes)) if owners is None else owners
        return self.codes[inside], np.repeat(whose, counts)


@dataclass(frozen=True)
class Field:
    """A field of a segment; the module docstring describes the arrays.

    Attributes:
        size: nodes of the segment.
        present: nodes that have the field.
        lists: nodes where it is a list.
        odd: nodes with a value that is not indexed: a string above 512 bytes, or an integer beyond
            64 bits.
        whole, fraction: the distinct numbers, see ``numbers``; fraction None if all are integers.
        texts: the distinct strings.
        starts: uint32 (codes + 1,). order: int32.
        holders: values by node.
        type_counts: number of values by type: null, boolean, integer, double, string, list,
            object; of a list it is one, and its elements are others. None if not known.
    """

    size: int
    present: NodeSet
    lists: NodeSet
    odd: NodeSet
    whole: npt.NDArray[np.int64]
    fraction: npt.NDArray[np.float64] | None
    texts: Texts
    starts: npt.NDArray[np.uint32]
    order: Nodes
    holders: Holders
    type_counts: Mapping[str, int] | None = None

    @property
    def first_text(self) -> int:
        """The code of the first string."""
        return FIRST_NUMBER + len(self.whole)

    @property
    def code_count(self) -> int:
        """The number of codes, null and booleans included."""
        return self.first_text + len(self.texts)

    @property
    def is_single(self) -> bool:
        """Whether no node has more than one value."""
        return self.holders.offsets is None

    def equal(self, value: Scalar) -> CodeRange:
        """Return the code of a value, as a range that is empty if no node has it."""
        if value is None:
            return NULL_CODE, NULL_CODE + 1
        if value is True or value is False:
            code = TRUE_CODE if value else FALSE_CODE
            return code, code + 1
        if isinstance(value, str):
            wanted = value.encode()
            at = self.texts.position_of(wanted)
            found = at < len(self.texts) and self.texts[at] == wanted
            return self.first_text + at, self.first_text + at + found
        low = position_of(self.whole, self.fraction, value, after=False)
        high = position_of(self.whole, self.fraction, value, after=True)
        return FIRST_NUMBER + low, FIRST_NUMBER + high

    def below(self, value: int | float | str, *, inclusive: bool) -> CodeRange:
        """Return the codes of values of the same class that are less than ``value``, or equal."""
        if isinstance(value, str):
            return self.first_text, self._text_edge(value, inclusive)
        edge = position_of(self.whole, self.fraction, value, after=inclusive)
        return FIRST_NUMBER, FIRST_NUMBER + edge

    def above(self, value: int | float | str, *, inclusive: bool) -> CodeRange:
        """Return the codes of values of the same class that are greater, or equal."""
        if isinstance(value, str):
            return self._text_edge(value, not inclusive), self.code_count
        edge = position_of(self.whole, self.fraction, value, after=not inclusive)
        return FIRST_NUMBER + edge, self.first_text

    def _text_edge(self, value: str, after: bool) -> int:
        wanted = value.encode()
        at = self.texts.position_of(wanted)
        if after and at < len(self.texts) and self.texts[at] == wanted:
            at += 1
        return self.first_text + at

    def beginning_with(self, prefix: str) -> CodeRange:
        """Return the codes of strings that begin with ``prefix``."""
        low, high = self.texts.range_of_prefix(prefix.encode())
        return self.first_text + low, self.first_text + high

    def pair_count(self, ranges: Sequence[CodeRange]) -> int:
        """Return how many values are in ranges of codes; at least as many as nodes are."""
        starts = self.starts
        return sum([int(starts[high]) - int(starts[low]) for low, high in ranges])

    def nodes_in(self, ranges: Sequence[CodeRange]) -> NodeSet:
        """Return the nodes that have a value in some ranges of codes, which do not overlap."""
        starts = self.starts
        slices = [self.order[int(starts[low]) : int(starts[high])] for low, high in ranges]
        slices = [each for each in slices if len(each)]
        if not slices:
            return NodeSet.none_of(self.size)
        is_dense = self.is_single and self.holders.nodes is None
        if is_dense and len(ranges) <= _RANGES_ONE_BY_ONE:
            total = sum(map(len, slices))
            if total * _DENSE > self.size:
                inside = self._inside(self.holders.codes, ranges)
                return NodeSet.of_bits(self.size, packed(inside), total)
        if len(slices) == 1 and len(ranges) == 1 and ranges[0][1] - ranges[0][0] == 1:
            return NodeSet.of_nodes(self.size, slices[0])
        total = sum(map(len, slices))
        if total * 32 > self.size:
            mask = np.zeros(self.size, np.bool_)
            for each in slices:
                mask[each] = True
            return NodeSet.of_bits(self.size, packed(mask), total if self.is_single else -1)
        nodes = np.sort(slices[0] if len(slices) == 1 else np.concatenate(slices))
        if not self.is_single and len(nodes):
            nodes = nodes[np.diff(nodes, prepend=-1) > 0]
        return NodeSet.of_nodes(self.size, nodes)

    def holds(self, nodes: Array, ranges: Sequence[CodeRange]) -> Mask:
        """Return which of some nodes have a value in ranges of codes, bool (len(nodes),)."""
        codes, owners = self.holders.of(nodes)
        inside = self._inside(codes, ranges)
        if owners is None:
            return inside
        found = np.zeros(len(nodes), np.bool_)
        found[owners[inside]] = True
        return found

    def _inside(self, codes: Array, ranges: Sequence[CodeRange]) -> Mask:
        """Return which codes are in ranges."""
        if len(ranges) > _RANGES_ONE_BY_ONE:
            table = np.zeros(self.code_count + 1, np.bool_)  # The last is that of code -1.
            for low, high in ranges:
                table[low:high] = True
            found: Mask = table[codes]
            return found
        inside = np.zeros(len(codes), np.bool_)
        for place, (low, high) in enumerate(ranges):
            some = codes >= low
            if high < self.code_count:
                some &= codes < high
            inside = inside | some if place else some
        return inside

    def value_of(self, code: int) -> Scalar:
        """Return the value of a code."""
        if code < FIRST_NUMBER:
            return None if code == NULL_CODE else code == TRUE_CODE
        if code < self.first_text:
            return number_at(self.whole, self.fraction, code - FIRST_NUMBER)
        return self.texts[code - self.first_text].decode()

    @cached_property
    def value_counts(self) -> npt.NDArray[np.int64]:
        """The number of nodes that have each value, int64 (codes,)."""
        starts = self.starts.astype(np.int64)
        return starts[1:] - starts[:-1]
