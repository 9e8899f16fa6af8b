r"""Filters: conditions on the metadata and the id of rows. docs/filters.md has the semantics.

    filters.py            the form in Python and JSON, and ``Filter``
    filter_nodes.py       the tree of a filter
    filter_canonical.py   its canonical form and key
    filter_limits.py      what a filter from outside may hold
    filter_predicates.py  the function that decides for a row

``parse_filter({"year": {"$gte": 2020}, "lang": {"$in": ["en", "de"]}})`` returns a ``Filter``.
Embedded and remote parse with the same function, so that they raise the same errors:
INVALID_ARGUMENT with BAD_FILTER, and a message that begins with the place in the filter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np

from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.filter_canonical import canonical, distinct
from vecdb.filter_limits import Budget, bad_filter, path_text, split_path
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
    depth_of,
    leaves_of,
)
from vecdb.filter_predicates import Predicate, RawPredicate, compiled, compiled_for_json
from vecdb.filter_predicates import needs_metadata as _needs_metadata
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = [
    "And",
    "Budget",
    "Compare",
    "Contains",
    "Exists",
    "Filter",
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
    "check_filter_count",
    "distinct",
    "leaves_of",
    "parse_filter",
    "path_text",
    "split_path",
]


class Filter:
    """A filter, immutable and safe for threads. ``parse_filter`` returns it.

    Attributes:
        root: the tree in its canonical form; see ``vecdb.filter_nodes``.
        key: equal for equal trees. Filters with equal keys have the same meaning, and most filters
            with the same meaning have equal keys.

    Raises:
        InvalidArgumentError: BAD_FILTER; the tree exceeds a limit on depth, terms or operands.
    """

    root: Node
    key: bytes

    def __init__(self, root: Node) -> None:
        self.root, text = canonical(root)
        self.key = text.encode()
        if len(text) > _SMALL_KEY:
            _check_size(self.root)

    @cached_property
    def needs_metadata(self) -> bool:
        """False if all conditions are on the id; then ``matches`` reads no metadata."""
        return _needs_metadata(self.root)

    @cached_property
    def matches(self) -> Predicate:
        """``matches(id, metadata)`` tells whether a row matches.

        ``metadata`` holds values of exactly those types that ``json.loads`` returns.
        """
        return compiled(self.root)

    @cached_property
    def matches_json(self) -> RawPredicate:
        """``matches_json(id, raw)`` does the same for stored metadata, empty if the row has none.

        Raises:
            ValueError: ``raw`` is read, and is not JSON.
        """
        return compiled_for_json(self.root, self.matches)

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Filter) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Filter({shown(self.root)})"

    def __reduce__(self) -> tuple[type[Filter], tuple[Node]]:
        return Filter, (self.root,)


_SMALL_KEY: Final = len('["or"]') * limits.FILTER_DEPTH_MAX
"""Length up to which a key has too few nodes to exceed a limit."""


def _check_size(root: Node) -> None:
    if (depth := depth_of(root)) > limits.FILTER_DEPTH_MAX:
        raise bad_filter("filter", f"has {depth} levels, at most {limits.FILTER_DEPTH_MAX}")
    terms, operands = 0, 0
    for leaf in leaves_of(root):
        terms += 1
        if isinstance(leaf, In | Contains | IdIn):
            count = len(leaf.ids if isinstance(leaf, IdIn) else leaf.values)
            operands += count if count > 1 else 0
    if operands > limits.FILTER_OPERANDS_MAX:
        most = limits.FILTER_OPERANDS_MAX
        raise bad_filter("filter", f"its lists have {operands} values, at most {most}")
    if terms > limits.FILTER_TERMS_MAX:
        raise bad_filter("filter", f"has {terms} terms, at most {limits.FILTER_TERMS_MAX}")


def parse_filter(given: object) -> Filter:
    """Return the filter that a dict describes, or the filter itself.

    Raises:
        InvalidArgumentError: BAD_FILTER; the message begins with the place, such as
            ``filter.$and[1].year.$gte``.
    """
    if isinstance(given, Filter):
        return given
    return Filter(_object(given, "filter", 1, Budget()))


def check_filter_count(filters: int, queries: int) -> None:
    """Check that a list of filters has one for each query.

    Raises:
        InvalidArgumentError: BAD_FILTER.
    """
    if filters != queries:
        raise InvalidArgumentError(
            f"expected one filter for each of {queries} queries, got {filters} filters",
            Reason.BAD_FILTER,
        )


# ----------------------------------------------------------------------------------------- parsing


def _object(given: object, place: str, depth: int, budget: Budget) -> Node:
    """Return the node of a filter object, such as ``{"year": 2020, "$or": [...]}``."""
    if not isinstance(given, Mapping):
        what = "expected an object such as {'year': {'$gte': 2020}}"
        raise bad_filter(place, f"{what}, got {shown(given)} ({type(given).__name__})")
    budget.enter(depth, place)
    if not given:
        budget.term(place)
    terms = [_entry(key, value, place, depth, budget) for key, value in given.items()]
    return terms[0] if len(terms) == 1 else And(tuple(terms))


def _entry(key: object, value: object, place: str, depth: int, budget: Budget) -> Node:
    if not isinstance(key, str):
        raise bad_filter(place, f"expected keys that are strings, got {shown(key)}")
    inner = _below(place, key)
    name = str.__str__(key)
    if not name.startswith("$"):
        path = split_path(name, inner)
        return _conditions(value, inner, depth, budget, _ON_FIELD, path)
    if name == "$id":
        return _conditions(value, inner, depth, budget, _ON_ID, ())
    if name == "$and":
        return And(_list_of_objects(value, inner, depth, budget))
    if name == "$or":
        return Or(_list_of_objects(value, inner, depth, budget))
    if name == "$not":
        return Not(_object(value, inner, depth + 1, budget))
    if name in _ON_FIELD:
        raise bad_filter(
            inner, f"{name} belongs inside a field, as in {{'year': {{'{name}': ...}}}}"
        )
    hint = r"\$..., if it is the name of a field"
    raise _unknown(inner, name, ("$and", "$or", "$not", "$id", hint))


def _list_of_objects(given: object, place: str, depth: int, budget: Budget) -> tuple[Node, ...]:
    if not isinstance(given, list | tuple):
        raise bad_filter(place, f"expected a list of filters, got {shown(given)}")
    budget.enter(depth + 1, place)
    if not given:
        budget.term(place)
    return tuple(
        _object(each, f"{place}[{position}]", depth + 1, budget)
        for position, each in enumerate(given)
    )


Operators = dict[str, Callable[[Path, Any, str, Budget], Node]]


def _conditions(
    given: object, place: str, depth: int, budget: Budget, known: Operators, path: Path
) -> Node:
    """Return the node of what stands beside a field or ``$id``: a value, or operators."""
    if not isinstance(given, Mapping):
        budget.term(place, path)
        if isinstance(given, list | tuple | set | frozenset | np.ndarray):
            budget.scalar(given, place, "; for one of several values use $in")
        return known["$eq"](path, given, place, budget)
    budget.enter(depth, place)
    if not given:
        raise bad_filter(place, "expected an operator, got an empty object")
    terms: list[Node] = []
    for key, value in given.items():
        operator = known.get(key)
        if operator is not None:
            at = f"{place}.{key}"
            budget.term(at, path)
            terms.append(operator(path, value, at, budget))
        elif key == "$not":
            terms.append(Not(_conditions(value, f"{place}.$not", depth + 1, budget, known, path)))
        else:
            raise _not_operator(place, key, known, path)
    return terms[0] if len(terms) == 1 else And(tuple(terms))


def _not_operator(place: str, key: object, known: Operators, path: Path) -> Exception:
    if not isinstance(key, str):
        return bad_filter(place, f"expected an operator such as $eq, got {shown(key)}")
    if key.startswith("$"):
        return _unknown(_below(place, key), key, (*known, "$not"))
    if not path:
        return bad_filter(place, f"expected an operator such as $in, got {shown(key)}")
    field = shown(f"{path_text(path)}.{path_text((key,))}")
    return bad_filter(
        place, f"expected an operator such as $eq, got {shown(key)}; write the field as {field}"
    )


def _unknown(place: str, name: str, known: Iterable[str]) -> Exception:
    what = f"unknown operator {shown(name)}; expected one of {', '.join(known)}"
    return bad_filter(place, what)


_PLAIN_NAME: Final = re.compile(r"[\w$\\.-]{1,80}")


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if _PLAIN_NAME.fullmatch(name) else f"{place}[{shown(name)}]"


def _values(given: object, place: str, budget: Budget) -> list[Any]:
    """Return the operands in a list, not checked."""
    if isinstance(given, np.ndarray) and given.ndim == 1:
        given = given.tolist()
    if not isinstance(given, list | tuple | set | frozenset):
        raise bad_filter(place, f"expected a list of values, got {shown(given)}")
    budget.operands(len(given), place)
    return list(given)


def _scalars(given: object, place: str, budget: Budget) -> tuple[Scalar, ...]:
    return budget.each(budget.scalar, _values(given, place, budget), place)


def _ids(given: object, place: str, budget: Budget) -> tuple[str, ...]:
    return budget.each(budget.id, _values(given, place, budget), place)


# --------------------------------------------------------------------------------------- operators


def _equal(path: Path, given: Any, place: str, budget: Budget) -> Node:
    return Compare(path, Order.EQ, budget.scalar(given, place))


def _order(op: Order) -> Callable[[Path, Any, str, Budget], Node]:
    return lambda path, given, place, budget: Compare(path, op, budget.ordered(given, place))


def _in(path: Path, given: Any, place: str, budget: Budget) -> Node:
    return In(path, _scalars(given, place, budget))


def _exists(path: Path, given: Any, place: str, budget: Budget) -> Node:
    if not isinstance(given, bool | np.bool_):
        raise bad_filter(place, f"expected true or false, got {shown(given)}")
    return Exists(path) if given else Not(Exists(path))


def _contains(path: Path, given: Any, place: str, budget: Budget) -> Node:
    value = budget.scalar(given, place, "; for several values use $contains_any or $contains_all")
    return Contains(path, (value,), False)


def _contains_any(path: Path, given: Any, place: str, budget: Budget) -> Node:
    return Contains(path, _scalars(given, place, budget), False)


def _contains_all(path: Path, given: Any, place: str, budget: Budget) -> Node:
    return Contains(path, _scalars(given, place, budget), True)


def _prefix(path: Path, given: Any, place: str, budget: Budget) -> Node:
    return Prefix(path, budget.prefix(given, place))


def _id_equal(path: Path, given: Any, place: str, budget: Budget) -> Node:
    return IdIn((budget.id(given, place),))


def _id_in(path: Path, given: Any, place: str, budget: Budget) -> Node:
    return IdIn(_ids(given, place, budget))


def _id_prefix(path: Path, given: Any, place: str, budget: Budget) -> Node:
    return IdPrefix(budget.prefix(given, place))


def _negated(
    operator: Callable[[Path, Any, str, Budget], Node],
) -> Callable[[Path, Any, str, Budget], Node]:
    return lambda path, given, place, budget: Not(operator(path, given, place, budget))


_ON_FIELD: Final[Operators] = {
    "$eq": _equal,
    "$ne": _negated(_equal),
    "$gt": _order(Order.GT),
    "$gte": _order(Order.GTE),
    "$lt": _order(Order.LT),
    "$lte": _order(Order.LTE),
    "$in": _in,
    "$nin": _negated(_in),
    "$exists": _exists,
    "$contains": _contains,
    "$not_contains": _negated(_contains),
    "$contains_any": _contains_any,
    "$contains_all": _contains_all,
    "$prefix": _prefix,
}
_ON_ID: Final[Operators] = {
    "$eq": _id_equal,
    "$ne": _negated(_id_equal),
    "$in": _id_in,
    "$nin": _negated(_id_in),
    "$prefix": _id_prefix,
}
