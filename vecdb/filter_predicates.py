"""The predicate of a filter: a function of a row's id and metadata, compiled from the tree.

Part of ``vecdb.filters``. A node becomes a closure over its operands, once per filter; evaluating a
row interprets nothing. Metadata are values as ``json.loads`` returns them: None, bool, int, float,
str, list and dict, and no others. The types of values are compared by identity, since a boolean is
an int of Python; Python compares int and float exactly, and str by code point.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from vecdb.filter_nodes import (
    And,
    Compare,
    Contains,
    Exists,
    IdIn,
    IdPrefix,
    In,
    Node,
    Not,
    Or,
    Order,
    Path,
    Prefix,
    Scalar,
    leaves_of,
)

__all__ = ["Predicate", "RawPredicate", "compiled", "compiled_for_json", "needs_metadata"]

Predicate: TypeAlias = Callable[[str, Mapping[str, Any]], bool]
RawPredicate: TypeAlias = Callable[[str, bytes], bool]

Test: TypeAlias = Callable[[Any], bool]
"""Of the value of a field, or of ``_MISSING``."""

_MISSING: Final = object()
_EMPTY: Final[dict[str, Any]] = {}


def needs_metadata(node: Node) -> bool:
    """Return whether the tree has a condition on metadata, so not only on ids."""
    return not all(isinstance(leaf, IdIn | IdPrefix) for leaf in leaves_of(node))


def compiled(node: Node) -> Predicate:
    """Return the predicate of a tree."""
    if isinstance(node, Not):
        term = compiled(node.term)
        return lambda id, metadata: not term(id, metadata)
    if isinstance(node, And):
        return _all_of([compiled(term) for term in _cheap_first(node.terms)])
    if isinstance(node, Or):
        return _any_of([compiled(term) for term in _cheap_first(node.terms)])
    if isinstance(node, IdIn):
        ids = frozenset(node.ids)
        return lambda id, metadata: id in ids
    if isinstance(node, IdPrefix):
        prefix = node.prefix
        return lambda id, metadata: id.startswith(prefix)
    return _at(node.path, _test_of(node))


def compiled_for_json(node: Node, predicate: Predicate) -> RawPredicate:
    """Return the predicate for stored metadata: JSON of an object, or ``b""`` for none.

    Decoding takes most of the time. So a row is ruled out first, if it can be, by bytes that the
    text of every matching row contains.
    """
    if not needs_metadata(node):
        return lambda id, raw: predicate(id, _EMPTY)
    clauses = _clauses(node)
    if not clauses:
        return lambda id, raw: predicate(id, _decoded(raw) if raw else _EMPTY)
    [first, *others] = clauses
    if len(first) == 1 and not others:
        [needle] = first
        # With a backslash in it, a text may hold any string in another form.
        return lambda id, raw: (
            (needle in raw or b"\\" in raw) and predicate(id, _decoded(raw) if raw else _EMPTY)
        )

    def matches(id: str, raw: bytes) -> bool:
        for needles in clauses:
            for needle in needles:
                if needle in raw:
                    break
            else:
                if b"\\" not in raw:
                    return False
                break
        return predicate(id, _decoded(raw) if raw else _EMPTY)

    return matches


_DECODE: Final = json.JSONDecoder().raw_decode


def _decoded(raw: bytes) -> Any:
    # Half the time of json.loads, which guesses the encoding and looks for whitespace.
    try:
        return _DECODE(raw.decode())[0]
    except json.JSONDecodeError:
        return json.loads(raw)


_NEEDLES_MAX: Final = 8
"""Maximum of alternatives to look for: beyond it, decoding is as fast."""

Clauses: TypeAlias = tuple[tuple[bytes, ...], ...]


def _clauses(node: Node) -> Clauses:
    """Return bytes that are in the JSON of matching rows: of each clause, one alternative is.

    This holds for texts without a backslash. An integer may be written in many forms, so only
    strings and constants of JSON are looked for.
    """
    if isinstance(node, And):
        return tuple({clause: None for term in node.terms for clause in _clauses(term)})
    if isinstance(node, Or):
        of_terms = [_clauses(term) for term in node.terms]
        joined = tuple({each: None for found in of_terms for each in (found or [()])[0]})
        return (joined,) if all(of_terms) and 0 < len(joined) <= _NEEDLES_MAX else ()
    if isinstance(node, Compare) and node.op is Order.EQ:
        return _any_text_of((node.value,))
    if isinstance(node, In):
        return _any_text_of(node.values)
    if isinstance(node, Contains):
        if node.all:
            return tuple(clause for each in node.values for clause in _any_text_of((each,)))
        return _any_text_of(node.values)
    if isinstance(node, Prefix):
        return (((b'"' + node.prefix.encode()),),)
    return ()


def _any_text_of(values: tuple[Scalar, ...]) -> Clauses:
    texts = tuple(_text_of(each) for each in values if type(each) not in (int, float))
    return (texts,) if len(texts) == len(values) <= _NEEDLES_MAX and texts else ()


def _text_of(value: Scalar) -> bytes:
    if type(value) is str:
        return b'"%b"' % value.encode()
    return b"null" if value is None else b"true" if value else b"false"


def _cheap_first(terms: tuple[Node, ...]) -> list[Node]:
    """Order terms so that those on ids come first, and lists of operands late."""
    return sorted(terms, key=lambda term: _COSTS.get(type(term), 5))


_COSTS: Final[dict[type, int]] = {IdIn: 0, IdPrefix: 0, Exists: 1, Compare: 2, Prefix: 3, In: 3}


def _all_of(terms: list[Predicate]) -> Predicate:
    if not terms:
        return lambda id, metadata: True
    if len(terms) == 2:
        first, second = terms
        return lambda id, metadata: first(id, metadata) and second(id, metadata)

    def matches(id: str, metadata: Mapping[str, Any]) -> bool:
        for term in terms:  # noqa: SIM110 - all() with a generator takes twice as long.
            if not term(id, metadata):
                return False
        return True

    return matches


def _any_of(terms: list[Predicate]) -> Predicate:
    if len(terms) == 2:
        first, second = terms
        return lambda id, metadata: first(id, metadata) or second(id, metadata)

    def matches(id: str, metadata: Mapping[str, Any]) -> bool:
        for term in terms:  # noqa: SIM110 - as above.
            if term(id, metadata):
                return True
        return False

    return matches


def _at(path: Path, test: Test) -> Predicate:
    """Return the predicate that applies a test to the value at a path."""
    if len(path) == 1:
        [key] = path
        return lambda id, metadata: test(metadata.get(key, _MISSING))
    *outer, last = path

    def matches(id: str, metadata: Mapping[str, Any]) -> bool:
        found: Any = metadata
        for key in outer:
            found = found.get(key)
            if type(found) is not dict:
                return False  # As every test of a field that is absent.
        return test(found.get(last, _MISSING))

    return matches


# ------------------------------------------------------------------------------------------- tests


def _test_of(node: Compare | In | Exists | Contains | Prefix) -> Test:
    if isinstance(node, Exists):
        return lambda value: value is not _MISSING
    if isinstance(node, Contains):
        return _contains_all(node.values) if node.all else _contains_any(node.values)
    if isinstance(node, Prefix):
        return _prefix_test(node.prefix)
    if isinstance(node, In):
        return _in_test(node.values)
    if node.op is Order.EQ:
        return _equal_test(node.value)
    assert node.value is not None
    return _order_test(node.op, node.value)


def _equal_test(operand: Scalar) -> Test:
    if operand is None or operand is True or operand is False:
        # Identity, since True == 1.
        return lambda value: (
            value is operand or (type(value) is list and any(each is operand for each in value))
        )
    if type(operand) is not str and operand in (0, 1):
        return _in_test((operand,))
    # Values of other classes are never equal to it in Python either.
    return lambda value: value == operand or (type(value) is list and operand in value)


def _in_test(operands: tuple[Scalar, ...]) -> Test:
    of_type = _by_type(operands).get

    def element(value: Any) -> bool:
        # By type first: an object or a list inside the list is not hashable.
        equal = of_type(type(value))
        return equal is not None and value in equal

    return _of_elements(element)


def _by_type(operands: tuple[Scalar, ...]) -> dict[type, frozenset[Scalar]]:
    """Return for each type of values the operands that are equal to some of them."""
    numbers = frozenset(each for each in operands if type(each) in (int, float))
    found: dict[type, frozenset[Scalar]] = {
        type(None): frozenset(each for each in operands if each is None),
        bool: frozenset(each for each in operands if type(each) is bool),
        int: numbers,
        float: numbers,
        str: frozenset(each for each in operands if type(each) is str),
    }
    return {kind: each for kind, each in found.items() if each}


def _order_test(op: Order, operand: bool | int | float | str) -> Test:
    inner = _ORDERS_OF_STRINGS[op] if type(operand) is str else _ORDERS_OF_NUMBERS[op]
    return _of_elements(inner(operand))


def _prefix_test(prefix: str) -> Test:
    return _of_elements(lambda value: type(value) is str and value.startswith(prefix))


def _of_elements(test: Test) -> Test:
    """Apply a test to a value, or to the elements of a list. The test is false for a list."""
    return lambda value: any(map(test, value)) if type(value) is list else test(value)


def _contains_any(operands: tuple[Scalar, ...]) -> Test:
    inside = _in_test(operands)
    return lambda value: type(value) is list and inside(value)


def _contains_all(operands: tuple[Scalar, ...]) -> Test:
    tests = [_in_test((each,)) for each in operands]
    return lambda value: type(value) is list and all(test(value) for test in tests)


_ORDERS_OF_NUMBERS: Final[dict[Order, Callable[[Any], Test]]] = {
    Order.GT: lambda x: lambda v: (type(v) is int or type(v) is float) and v > x,
    Order.GTE: lambda x: lambda v: (type(v) is int or type(v) is float) and v >= x,
    Order.LT: lambda x: lambda v: (type(v) is int or type(v) is float) and v < x,
    Order.LTE: lambda x: lambda v: (type(v) is int or type(v) is float) and v <= x,
}
_ORDERS_OF_STRINGS: Final[dict[Order, Callable[[Any], Test]]] = {
    Order.GT: lambda x: lambda v: type(v) is str and v > x,
    Order.GTE: lambda x: lambda v: type(v) is str and v >= x,
    Order.LT: lambda x: lambda v: type(v) is str and v < x,
    Order.LTE: lambda x: lambda v: type(v) is str and v <= x,
}
