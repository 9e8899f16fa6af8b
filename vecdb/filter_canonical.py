"""The canonical form of a filter, and its key.

Part of ``vecdb.filters``.

In the canonical form, values and terms are sorted and distinct, And and Or have two terms or more
(or none), no And is directly in an And, nor Or in Or, nor Not in Not; and an Or has at most one
term that compares a field, or the id, for equality (Compare or In).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from vecdb.filter_nodes import (
    FALSE,
    TRUE,
    And,
    Compare,
    Contains,
    Exists,
    IdIn,
    IdPrefix,
    In,
    Leaf,
    Node,
    Not,
    Or,
    Order,
    Path,
    Prefix,
    Scalar,
)

__all__ = ["canonical", "distinct"]

_RANKS: Final[dict[type, int]] = {type(None): 0, bool: 1, int: 2, float: 2, str: 3}
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_TRUE_KEY: Final = '["and"]'
_FALSE_KEY: Final = '["or"]'


def distinct(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    """Return operands without duplicates: null, booleans, numbers, strings, each ascending."""
    found = {(_RANKS[type(value)], value): None for value in values}
    return tuple(value for _, value in sorted(found, key=_null_as_zero))


def _null_as_zero(entry: tuple[int, Scalar]) -> tuple[int, bool | int | float | str]:
    rank, value = entry
    return rank, 0 if value is None else value


def canonical(node: Node) -> tuple[Node, str]:
    """Return the canonical form of a tree and its key.

    The key is JSON that names all of the tree. Trees with the same key have the same meaning; most
    trees with the same meaning have the same key.
    """
    if isinstance(node, Not):
        term, key = canonical(node.term)
        if isinstance(term, Not):
            return term.term, key[len('["not",') : -1]
        if term == TRUE:
            return FALSE, _FALSE_KEY
        if term == FALSE:
            return TRUE, _TRUE_KEY
        return Not(term), f'["not",{key}]'
    if isinstance(node, And):
        return _joined(node.terms, And, "and", FALSE, _FALSE_KEY)
    if isinstance(node, Or):
        return _joined(node.terms, Or, "or", TRUE, _TRUE_KEY)
    return _leaf(node)


def _joined(
    terms: tuple[Node, ...],
    kind: type[And] | type[Or],
    name: str,
    absorbing: Node,
    absorbing_key: str,
) -> tuple[Node, str]:
    found: dict[str, Node] = {}
    for term in terms:
        inner, key = canonical(term)
        if inner == absorbing:
            return absorbing, absorbing_key
        if isinstance(inner, kind):  # Including the neutral element, which has no terms.
            found.update((canonical(each)[1], each) for each in inner.terms)
        else:
            found[key] = inner
    if kind is Or and len(found) > 1:
        found = _united(found)
    if len(found) == 1:
        [(key, only)] = found.items()
        return only, key
    keys = sorted(found)
    return kind(tuple(found[key] for key in keys)), f"[{','.join([_JSON(name), *keys])}]"


def _united(terms: dict[str, Node]) -> dict[str, Node]:
    """Join the terms of an Or that compare one field, or the id, for equality: to an In."""
    groups: dict[Path | None, list[str]] = {}
    for key, term in terms.items():
        if isinstance(term, In) or (isinstance(term, Compare) and term.op is Order.EQ):
            groups.setdefault(term.path, []).append(key)
        elif isinstance(term, IdIn):
            groups.setdefault(None, []).append(key)
    if all(len(keys) == 1 for keys in groups.values()):
        return terms
    found = dict(terms)
    for path, keys in groups.items():
        values: list[Any] = []
        for key in keys:
            term = found.pop(key)
            if isinstance(term, Compare):
                values.append(term.value)
            else:
                values += term.values if isinstance(term, In) else term.ids  # type: ignore[union-attr]
        joined, key = _leaf(IdIn(tuple(values)) if path is None else In(path, tuple(values)))
        found[key] = joined
    return found


def _leaf(node: Leaf) -> tuple[Node, str]:
    if isinstance(node, In):
        values = distinct(node.values)
        if not values:
            return FALSE, _FALSE_KEY
        node = (
            Compare(node.path, Order.EQ, values[0]) if len(values) == 1 else In(node.path, values)
        )
    elif isinstance(node, Contains):
        values = distinct(node.values)
        if not values and not node.all:
            return FALSE, _FALSE_KEY
        node = Contains(node.path, values, node.all and len(values) != 1)
    elif isinstance(node, IdIn):
        ids = tuple(sorted(set(node.ids)))
        if not ids:
            return FALSE, _FALSE_KEY
        node = IdIn(ids)
    elif isinstance(node, IdPrefix) and not node.prefix:
        return TRUE, _TRUE_KEY
    return node, _JSON(_KEY_PARTS[type(node)](node))


_KEY_PARTS: Final[dict[type, Callable[..., list[object]]]] = {
    Compare: lambda node: [node.op.value, node.path, node.value],
    In: lambda node: ["$in", node.path, node.values],
    Exists: lambda node: ["$exists", node.path],
    Contains: lambda node: [
        "$contains_all" if node.all else "$contains_any",
        node.path,
        node.values,
    ],
    Prefix: lambda node: ["$prefix", node.path, node.prefix],
    IdIn: lambda node: ["id", node.ids],
    IdPrefix: lambda node: ["id_prefix", node.prefix],
}
