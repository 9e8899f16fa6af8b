"""Which nodes of a segment match a filter, by its columns.

Each term of a filter gives two sets of nodes: those that match for certain, and those that may.
They are the same where columns decide. They differ at fields that are not indexed, and at values
that are not (long strings, integers beyond 64 bits); what is left between the two after all terms
is decided by records, of few nodes if other terms rule out the rest. Under negation the sets
change places.

$and begins with the term of the fewest nodes, which is known before any is read. Further terms
that would read many more are only asked about these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from vecdb import filters
from vecdb.engine.segments.columns.collecting import STRING_BYTES_MAX
from vecdb.engine.segments.columns.columns import Columns
from vecdb.engine.segments.columns.field import CodeRange, Field, Scalar
from vecdb.engine.segments.columns.node_sets import Array, Mask, NodeSet
from vecdb.engine.segments.row_arrays import RowArrays, RowIds

__all__ = ["Bounds", "Term", "codes_of", "term_of"]

_NARROWED_FROM = 4
"""A term is only asked about the nodes found so far if it would read so many times as many, and"""

_NARROWED_TO = 32
"""if those are fewer than one in so many nodes: asking about a node takes as long as comparing the
codes of so many in a row."""


class Bounds(NamedTuple):
    """The nodes that match for certain, and those that may match, which include them.

    The same object twice: columns decide.
    """

    certain: NodeSet
    possible: NodeSet

    @property
    def undecided(self) -> NodeSet:
        """The nodes for which columns do not decide."""
        if self.certain is self.possible:
            return NodeSet.none_of(self.certain.size)
        return self.possible.minus(self.certain)


class Term(ABC):
    """A term of a filter over the columns of one segment."""

    count_max: int
    """At least the number of nodes that may match."""

    @property
    def count(self) -> int | None:
        """The number of nodes that match, if columns decide and it is known without reading."""
        return None

    @cached_property
    @abstractmethod
    def bounds(self) -> Bounds:
        """The nodes that match, and those that may."""

    def among(self, nodes: Array) -> tuple[Mask, Mask]:
        """Return which of some nodes match for certain, and which may; bool (len(nodes),)."""
        certain, possible = self.bounds
        found = certain.has(nodes)
        return found, found if possible is certain else possible.has(nodes)


class _Known(Term):
    """A set of nodes that columns have."""

    def __init__(self, certain: NodeSet, possible: NodeSet | None = None) -> None:
        self._bounds = Bounds(certain, certain if possible is None else possible)
        self.count_max = self._bounds.possible.count

    @property
    def count(self) -> int | None:
        certain, possible = self._bounds
        return certain.count if certain is possible else None

    @cached_property
    def bounds(self) -> Bounds:
        return self._bounds


class _Ids(Term):
    """Ids, which are looked up when the nodes are asked for."""

    def __init__(
        self, columns: Columns, ids: RowIds | RowArrays, node: filters.IdIn | filters.IdPrefix
    ):
        self._columns, self._ids, self._node = columns, ids, node
        if isinstance(node, filters.IdIn):
            self.count_max = min(len(node.ids), columns.size)
        else:
            low, high = columns.range_of_prefix(ids, node.prefix)
            self.count_max = high - low

    @property
    def count(self) -> int | None:
        return self.count_max if isinstance(self._node, filters.IdPrefix) else None

    @cached_property
    def bounds(self) -> Bounds:
        if isinstance(self._node, filters.IdIn):
            found = self._columns.nodes_with_ids(self._ids, self._node.ids)
        else:
            found = self._columns.nodes_with_prefix(self._ids, self._node.prefix)
        return Bounds(found, found)


class _Values(Term):
    """A field that has a value in some ranges of codes.

    Args:
        odd: whether values that are not indexed may be among them.
        in_lists: whether the field must be a list.
    """

    def __init__(
        self, field: Field, ranges: Sequence[CodeRange], *, odd: bool, in_lists: bool
    ) -> None:
        self._field = field
        self._ranges = [each for each in ranges if each[0] < each[1]]
        self._within = field.lists if in_lists and not field.lists.is_all else None
        self._odd = field.odd if odd and field.odd.count else None
        pairs = field.pair_count(self._ranges)
        self._pairs = pairs
        extra = 0 if self._odd is None else self._odd.count
        limit = field.size if self._within is None else self._within.count
        self.count_max = min(pairs + extra, limit)

    @property
    def field(self) -> Field:
        """The field."""
        return self._field

    @property
    def is_ranges(self) -> bool:
        """Whether a node is in the set if its one value is in the ranges, and only then."""
        return self._field.is_single and self._within is None and self._odd is None

    def intersected(self, other: _Values) -> _Values:
        """Return the term that both are true; of the same field, and ``is_ranges`` both."""
        ranges = [
            (max(low, other_low), min(high, other_high))
            for low, high in self._ranges
            for other_low, other_high in other._ranges
        ]
        return _Values(self._field, ranges, odd=False, in_lists=False)

    @property
    def count(self) -> int | None:
        if self._within is not None or self._odd is not None:
            return 0 if self.count_max == 0 else None
        one_code = len(self._ranges) == 1 and self._ranges[0][1] - self._ranges[0][0] == 1
        return self._pairs if self._field.is_single or one_code or not self._pairs else None

    @cached_property
    def bounds(self) -> Bounds:
        found = self._field.nodes_in(self._ranges)
        possible = found if self._odd is None else found | self._odd
        if self._within is not None:
            within = self._within
            same = possible is found
            found = found & within
            possible = found if same else possible & within
        return Bounds(found, possible)

    def among(self, nodes: Array) -> tuple[Mask, Mask]:
        found = self._field.holds(nodes, self._ranges)
        if self._within is not None:
            found &= self._within.has(nodes)
        if self._odd is None:
            return found, found
        possible = self._odd.has(nodes)
        if self._within is not None:
            possible &= self._within.has(nodes)
        return found, found | possible


class _Not(Term):
    def __init__(self, term: Term, size: int) -> None:
        self._term, self._size = term, size
        known = term.count
        self.count_max = size if known is None else size - known

    @property
    def count(self) -> int | None:
        known = self._term.count
        return None if known is None else self._size - known

    @cached_property
    def bounds(self) -> Bounds:
        certain, possible = self._term.bounds
        inverted = possible.inverted()
        return Bounds(inverted, inverted if certain is possible else certain.inverted())

    def among(self, nodes: Array) -> tuple[Mask, Mask]:
        certain, possible = self._term.among(nodes)
        return ~possible, ~certain


class _And(Term):
    def __init__(self, terms: list[Term], size: int) -> None:
        self._terms = sorted(_intersected(terms), key=lambda term: term.count_max)
        self._size = size
        self.count_max = self._terms[0].count_max if terms else size

    @property
    def count(self) -> int | None:
        if not self._terms:
            return self._size
        if len(self._terms) == 1:
            return self._terms[0].count
        return 0 if self.count_max == 0 else None

    @cached_property
    def bounds(self) -> Bounds:
        if not self._terms or self.count_max == 0:
            whole = (NodeSet.none_of if self._terms else NodeSet.all_of)(self._size)
            return Bounds(whole, whole)
        certain, possible = self._terms[0].bounds
        for term in self._terms[1:]:
            if possible.count == 0:
                break
            few = min(term.count_max // _NARROWED_FROM, self._size // _NARROWED_TO)
            if possible.count <= few:
                certain, possible = _narrowed(certain, possible, term)
                continue
            more_certain, more_possible = term.bounds
            same = certain is possible and more_certain is more_possible
            certain = certain & more_certain
            possible = certain if same else possible & more_possible
        return Bounds(certain, possible)

    def among(self, nodes: Array) -> tuple[Mask, Mask]:
        certain = possible = np.ones(len(nodes), np.bool_)
        for term in self._terms:
            more_certain, more_possible = term.among(nodes)
            certain, possible = certain & more_certain, possible & more_possible
        return certain, possible


def _intersected(terms: list[Term]) -> list[Term]:
    """Return terms with one in place of several that are ranges of the same field, such as from a
    year to another: none of them then reads more nodes than match all."""
    kept: list[Term] = []
    places: dict[int, int] = {}
    for term in terms:
        if not isinstance(term, _Values) or not term.is_ranges:
            kept.append(term)
        elif (place := places.get(id(term.field))) is None:
            places[id(term.field)] = len(kept)
            kept.append(term)
        else:
            other = kept[place]
            assert isinstance(other, _Values)
            kept[place] = term.intersected(other)
    return kept


def _narrowed(certain: NodeSet, possible: NodeSet, term: Term) -> Bounds:
    """Return which of few nodes match another term too."""
    nodes, size = possible.nodes, possible.size
    more_certain, more_possible = term.among(nodes)
    if certain is possible and more_certain is more_possible:
        found = NodeSet.of_nodes(size, nodes[more_certain])
        return Bounds(found, found)
    return Bounds(
        NodeSet.of_nodes(size, nodes[more_certain & certain.has(nodes)]),
        NodeSet.of_nodes(size, nodes[more_possible]),
    )


class _Or(Term):
    def __init__(self, terms: list[Term], size: int) -> None:
        self._terms, self._size = terms, size
        self.count_max = min(sum(term.count_max for term in terms), size)

    @property
    def count(self) -> int | None:
        return 0 if self.count_max == 0 else None

    @cached_property
    def bounds(self) -> Bounds:
        certain = possible = NodeSet.none_of(self._size)
        for term in self._terms:
            more_certain, more_possible = term.bounds
            same = certain is possible and more_certain is more_possible
            certain = certain | more_certain
            possible = certain if same else possible | more_possible
        return Bounds(certain, possible)

    def among(self, nodes: Array) -> tuple[Mask, Mask]:
        certain = possible = np.zeros(len(nodes), np.bool_)
        for term in self._terms:
            more_certain, more_possible = term.among(nodes)
            certain, possible = certain | more_certain, possible | more_possible
        return certain, possible


def term_of(columns: Columns, ids: RowIds | RowArrays, node: filters.Node) -> Term:
    """Return the term of a filter's node over the columns of a segment.

    ids: of the segment.
    """
    size = columns.size
    if isinstance(node, filters.Not):
        return _Not(term_of(columns, ids, node.term), size)
    if isinstance(node, filters.And):
        return _And([term_of(columns, ids, term) for term in node.terms], size)
    if isinstance(node, filters.Or):
        return _Or([term_of(columns, ids, term) for term in node.terms], size)
    if isinstance(node, filters.IdIn | filters.IdPrefix):
        return _Ids(columns, ids, node)
    if columns.is_absent(node.path):
        return _Known(NodeSet.none_of(size))
    field = columns.field(node.path)
    if field is None:
        return _Known(NodeSet.none_of(size), NodeSet.all_of(size))
    return _of_field(field, node)


def _of_field(
    field: Field,
    node: filters.Compare | filters.In | filters.Exists | filters.Contains | filters.Prefix,
) -> Term:
    if isinstance(node, filters.Exists):
        return _Known(field.present)
    if isinstance(node, filters.Prefix):
        return _Values(field, [field.beginning_with(node.prefix)], odd=True, in_lists=False)
    if isinstance(node, filters.Contains):
        if not node.all:
            return _of_values(field, node.values, in_lists=True)
        if not node.values:
            return _Known(field.lists)
        each = [_of_values(field, (value,), in_lists=True) for value in node.values]
        return _And(each, field.size)
    if isinstance(node, filters.In):
        return _of_values(field, node.values, in_lists=False)
    if node.op is filters.Order.EQ:
        return _of_values(field, (node.value,), in_lists=False)
    return _Values(field, [codes_of(field, node)], odd=True, in_lists=False)


def codes_of(field: Field, node: filters.Compare) -> CodeRange:
    """Return the codes of the values that compare as a node of a filter says. Values that are not
    indexed have none."""
    op, value = node.op, node.value
    if op is filters.Order.EQ:
        return field.equal(value)
    assert value is not None
    if op is filters.Order.LT or op is filters.Order.LTE:
        return field.below(value, inclusive=op is filters.Order.LTE)
    return field.above(value, inclusive=op is filters.Order.GTE)


def _of_values(field: Field, values: Sequence[Scalar], *, in_lists: bool) -> Term:
    ranges = [field.equal(value) for value in values]
    odd = bool(field.odd.count) and any(map(_may_be_odd, values))
    return _Values(field, ranges, odd=odd, in_lists=in_lists)


def _may_be_odd(value: Scalar) -> bool:
    """Return whether a value that is not indexed can be equal to this one."""
    if isinstance(value, str):
        return len(value.encode()) > STRING_BYTES_MAX
    # An integer beyond 64 bits can only equal a double beyond them.
    return isinstance(value, float) and abs(value) >= 2.0**63
