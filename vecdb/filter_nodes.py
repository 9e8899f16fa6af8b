"""The tree of a filter: its nodes.

Part of ``vecdb.filters``, which re-exports the nodes; the rest of vecdb imports them there.

    Compare(path, op, value)          the field equals, is above or below a value
    In(path, values)                  the field equals one of the values
    Exists(path)                      the field is present
    Contains(path, values, all)       the field is a list that contains any, or all, of the values
    Prefix(path, prefix)              the field is a string that begins with the prefix
    IdIn(ids), IdPrefix(prefix)       the id of the row
    And(terms), Or(terms), Not(term)  And(()) is true, Or(()) is false

A path is a tuple of keys, from the outermost object inwards. Operands are None, bool, int of 64
bits, finite float, or str without surrogates; a float that equals an int of 64 bits is that int.
``filter_canonical`` has the canonical form.

Compare the keys of filters, not nodes: in Python, True == 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

__all__ = [
    "FALSE",
    "TRUE",
    "And",
    "Compare",
    "Contains",
    "Exists",
    "IdIn",
    "IdPrefix",
    "In",
    "Leaf",
    "Node",
    "Not",
    "Or",
    "Order",
    "Path",
    "Prefix",
    "Scalar",
    "depth_of",
    "leaves_of",
]

Scalar: TypeAlias = bool | int | float | str | None
Path: TypeAlias = tuple[str, ...]


class Order(Enum):
    """How ``Compare`` compares the field with its value."""

    EQ = "$eq"
    GT = "$gt"
    GTE = "$gte"
    LT = "$lt"
    LTE = "$lte"


@dataclass(frozen=True, slots=True)
class Compare:
    """The field, or an element of a list there, compares as ``op`` says with the value.

    The value of an order (all but EQ) is a number or a string.
    """

    path: Path
    op: Order
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    """The field, or an element of a list there, equals one of the values."""

    path: Path
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is present; it may be null."""

    path: Path


@dataclass(frozen=True, slots=True)
class Contains:
    """The field is a list that contains one of the values, or all of them."""

    path: Path
    values: tuple[Scalar, ...]
    all: bool


@dataclass(frozen=True, slots=True)
class Prefix:
    """The field, or an element of a list there, is a string that begins with the prefix."""

    path: Path
    prefix: str


@dataclass(frozen=True, slots=True)
class IdIn:
    """The row's id is one of these."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IdPrefix:
    """The row's id begins with the prefix."""

    prefix: str


@dataclass(frozen=True, slots=True)
class And:
    """All terms are true."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of the terms is true."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The term is false."""

    term: Node


Leaf: TypeAlias = Compare | In | Exists | Contains | Prefix | IdIn | IdPrefix
Node: TypeAlias = Leaf | And | Or | Not

TRUE: Final = And(())
FALSE: Final = Or(())


def depth_of(node: Node) -> int:
    """Return the number of levels of a tree; a leaf has one."""
    if isinstance(node, And | Or):
        return 1 + max((depth_of(term) for term in node.terms), default=0)
    return 1 + depth_of(node.term) if isinstance(node, Not) else 1


def leaves_of(node: Node) -> Iterable[Leaf]:
    """Yield the conditions of a tree, from the left."""
    if isinstance(node, And | Or):
        for term in node.terms:
            yield from leaves_of(term)
    elif isinstance(node, Not):
        yield from leaves_of(node.term)
    else:
        yield node
