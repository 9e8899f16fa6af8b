"""The tree of a filter: its nodes, their canonical form, and the limits of a filter.

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
In the canonical form, values and terms are sorted and distinct, And and Or have two terms or more
(or none), no And is directly in an And, nor Or in Or, nor Not in Not; and an Or has at most one
term that compares a field, or the id, for equality (Compare or In).

Compare the keys of filters, not nodes: in Python, True == 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

import numpy as np

from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.filter_hints import value_hint
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = [
    "FALSE",
    "TRUE",
    "And",
    "Budget",
    "Compare",
    "Contains",
    "Exists",
    "IdIn",
    "IdPrefix",
    "In",
    "Node",
    "Not",
    "Or",
    "Order",
    "Path",
    "Prefix",
    "Scalar",
    "bad_filter",
    "canonical",
    "depth_of",
    "distinct",
    "leaves_of",
    "path_text",
    "split_path",
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

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_INTEGER_ID_END: Final = 10**limits.ID_BYTES.maximum


def bad_filter(place: str, what: str) -> InvalidArgumentError:
    """Return the error of a filter that is not valid at a place."""
    return InvalidArgumentError(f"{place}: {what}", Reason.BAD_FILTER)


# ------------------------------------------------------------------------------------------ limits


class Budget:
    """Counts terms, operands and bytes while a filter is read from untrusted input."""

    __slots__ = ("_bytes", "_operands", "_terms")

    def __init__(self) -> None:
        self._terms = limits.FILTER_TERMS_MAX
        self._operands = limits.FILTER_OPERANDS_MAX
        self._bytes = limits.FILTER_BYTES_MAX

    def enter(self, depth: int, place: str) -> None:
        """Check the depth of a filter inside a filter; the outermost one has depth 1."""
        if depth > limits.FILTER_DEPTH_MAX:
            raise bad_filter(place, f"nests deeper than {limits.FILTER_DEPTH_MAX} levels")

    def term(self, place: str, path: Path = ()) -> None:
        """Count a condition on the field at a path, or an empty object or list."""
        for key in path:
            self.text(key, place)
        self._terms -= 1
        if self._terms < 0:
            raise bad_filter(place, f"the filter has more than {limits.FILTER_TERMS_MAX} terms")

    def operands(self, count: int, place: str) -> None:
        """Count the operands in a list; a single one is not counted as a list."""
        self._operands -= count if count > 1 else 0
        if self._operands < 0:
            most = limits.FILTER_OPERANDS_MAX
            raise bad_filter(place, f"the lists of the filter have more than {most} values")

    def each(
        self, read: Callable[[Any, str], Any], values: Iterable[object], place: str
    ) -> tuple[Any, ...]:
        """Return the operands in a list at a place, as ``scalar`` or ``id`` reads each."""
        found: list[Any] = []
        try:
            for value in values:
                found.append(read(value, place))
        except InvalidArgumentError as error:
            # The place of each is not written unless it is needed, since lists may be long.
            text = f"{place}[{len(found)}]{error.message[len(place) :]}"
            raise InvalidArgumentError(text, error.reason) from None
        return tuple(found)

    def text(self, value: str, place: str) -> str:
        """Return a string as str, and count its bytes."""
        text = value if type(value) is str else str.__str__(value)
        if text.isascii():
            size = len(text)
        else:
            try:
                size = len(text.encode())
            except UnicodeEncodeError as error:
                code = ord(text[error.start])
                what = f"lone surrogate U+{code:04X} at character {error.start}"
                raise bad_filter(place, what) from None
        self._bytes -= size
        if self._bytes < 0:
            most = limits.FILTER_BYTES_MAX
            raise bad_filter(place, f"the strings of the filter have more than {most} bytes")
        return text

    def scalar(self, value: object, place: str, hint: str = "") -> Scalar:
        """Return an operand: null, a boolean, a number or a string."""
        if isinstance(value, str):
            return self.text(value, place)
        if value is None or value is True or value is False:
            return value
        if isinstance(value, np.bool_):
            return bool(value)
        if isinstance(value, int | np.integer):
            return _integer(int(value), place)
        if isinstance(value, float | np.floating):
            return _number(float(value), place)
        raise bad_filter(
            place, f"expected a string, a number, a boolean or null, got {_kind(value)}{hint}"
        )

    def ordered(self, value: object, place: str) -> int | float | str:
        """Return the operand of an order: a number or a string."""
        # A boolean is an int of Python, but not a number of JSON.
        if isinstance(value, bool) or not isinstance(
            value, str | int | float | np.integer | np.floating
        ):
            raise bad_filter(place, f"expected a number or a string, got {_kind(value)}")
        found = self.scalar(value, place)
        assert found is not None
        return found

    def id(self, value: object, place: str) -> str:
        """Return an id; an integer becomes its decimal text."""
        if isinstance(value, str):
            text = self.text(value, place)
        elif isinstance(value, int | np.integer) and not isinstance(value, bool):
            text = str(int(value)) if abs(int(value)) < _INTEGER_ID_END else ""
        else:
            text = self.prefix(value, place)
        size = len(text) if text.isascii() else len(text.encode())
        least, most = limits.ID_BYTES.minimum, limits.ID_BYTES.maximum
        if not least <= size <= most:
            raise bad_filter(place, f"{limits.ID_BYTES.name} must be {least} to {most}, got {size}")
        return text

    def prefix(self, value: object, place: str) -> str:
        """Return an operand that has to be a string."""
        if not isinstance(value, str):
            raise bad_filter(place, f"expected a string, got {_kind(value)}")
        return self.text(value, place)


def _integer(value: int, place: str) -> int:
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise bad_filter(place, f"integers have at most 64 bits in a filter, got {shown(value)}")
    return value


def _number(value: float, place: str) -> int | float:
    if not math.isfinite(value):
        raise bad_filter(place, f"expected a finite number, got {value}")
    if value.is_integer() and _INT64_MIN <= value < 2.0**63:
        return int(value)
    return value


def _kind(value: object) -> str:
    """Name the type of an operand in the words of JSON, or of Python if JSON has none."""
    if value is None:
        return "null"
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return f"{shown(value)} ({type(value).__name__}){value_hint(value)}"


_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    ((bool, np.bool_), "a boolean"),
    (str, "a string"),
    ((int, float, np.integer, np.floating), "a number"),
    (dict, "an object"),
    ((list, tuple, set, frozenset, np.ndarray), "a list"),
)


# ------------------------------------------------------------------------------------------- paths


def split_path(text: str, place: str) -> Path:
    r"""Return the keys of a dotted path; ``\.``, ``\$`` and ``\\`` stand for the character."""
    if "\\" not in text:
        keys = text.split(".") if "." in text else [text]
    else:
        keys = [""]
        characters = iter(text)
        for each in characters:
            if each == ".":
                keys.append("")
                continue
            if each == "\\" and (each := next(characters, "")) not in (".", "$", "\\"):
                raise bad_filter(place, r"a backslash in a path stands before . or $ or \ only")
            keys[-1] += each
    if len(keys) > limits.METADATA_DEPTH.maximum:
        most = limits.METADATA_DEPTH.maximum
        raise bad_filter(place, f"a path has at most {most} keys, got {len(keys)}")
    return tuple(keys)


def path_text(path: Path) -> str:
    r"""Return the dotted form of a path, such as ``author.name``; the inverse of ``split_path``."""
    keys = [key.replace("\\", "\\\\").replace(".", "\\.") for key in path]
    if keys and keys[0].startswith("$"):
        keys[0] = "\\" + keys[0]
    return ".".join(keys)


# --------------------------------------------------------------------------------- canonical form

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
