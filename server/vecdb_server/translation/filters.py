"""Translation of filters in requests to filters of the vocabulary.

``vecdb_client.filters`` is the inverse. A message may come from anywhere: its depth, its number of
terms and every operand are checked here, as ``vecdb.filters.parse_filter`` checks those of the form
in Python, and the messages of errors begin with the place in the message.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from vecdb import limits
from vecdb.filters import (
    And,
    Budget,
    Compare,
    Contains,
    Exists,
    Filter,
    IdIn,
    IdPrefix,
    In,
    Node,
    Not,
    Or,
    Order,
    Path,
    Prefix,
    bad_filter,
)
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["filter_from_wire", "filter_of", "filters_of"]


def filter_from_wire(message: wire.Filter, place: str = "filter") -> Filter:
    """Return the filter of a message.

    Raises:
        InvalidArgumentError: BAD_FILTER.
    """
    return Filter(_node(message, place, 1, Budget()))


def filter_of(request: Any) -> Filter | None:
    """Return the ``filter`` of a request; None if it has none.

    Raises:
        InvalidArgumentError: BAD_FILTER.
    """
    return filter_from_wire(request.filter) if request.HasField("filter") else None


def filters_of(request: wire.SearchRequest) -> Filter | list[Filter] | None:
    """Return the filter of all queries of a search, or a list of one per query; None for none.

    Raises:
        InvalidArgumentError: BAD_FILTER.
    """
    if not request.filters:
        return filter_of(request)
    if request.HasField("filter"):
        raise bad_filter("filters", "expected filter or filters, got both")
    count = 1 if request.near else request.queries.rows
    if len(request.filters) != count:
        what = f"expected one per query ({count}), got {len(request.filters)}"
        raise bad_filter("filters", what)
    return [
        filter_from_wire(each, f"filters[{position}]")
        for position, each in enumerate(request.filters)
    ]


def _node(message: wire.Filter, place: str, depth: int, budget: Budget) -> Node:
    budget.enter(depth, place)
    kind = message.WhichOneof("node")
    if kind == "comparison":
        return _comparison(message.comparison, f"{place}.comparison", budget)
    if kind == "all_of":
        return And(_list(message.all_of, f"{place}.all_of", depth, budget))
    if kind == "any_of":
        return Or(_list(message.any_of, f"{place}.any_of", depth, budget))
    if kind == "negated":
        return Not(_node(message.negated, f"{place}.negated", depth + 1, budget))
    budget.term(place)
    if kind == "id_in":
        place = f"{place}.id_in.ids"
        given = message.id_in.ids
        budget.operands(len(given), place)
        return IdIn(budget.each(budget.id, given, place))
    if kind == "id_prefix":
        return IdPrefix(budget.prefix(message.id_prefix, f"{place}.id_prefix"))
    raise bad_filter(place, "node is not set, or of a type that this server does not know")


def _list(message: wire.FilterList, place: str, depth: int, budget: Budget) -> tuple[Node, ...]:
    if not message.filters:
        budget.term(place)
    return tuple(
        _node(each, f"{place}.filters[{position}]", depth + 1, budget)
        for position, each in enumerate(message.filters)
    )


def _comparison(message: wire.Comparison, place: str, budget: Budget) -> Node:
    path = tuple(message.path)
    if not 1 <= len(path) <= limits.METADATA_DEPTH.maximum:
        most = limits.METADATA_DEPTH.maximum
        raise bad_filter(f"{place}.path", f"expected 1 to {most} keys, got {len(path)}")
    budget.term(place, path)
    operator = int(message.operator)
    one, several = _OF_ONE_VALUE.get(operator), _OF_VALUES.get(operator)
    count = len(message.values)
    if several is not None:
        at = f"{place}.values"
        budget.operands(count, at)
        read = partial(_value, budget)
        return several(path, budget.each(read, message.values, at))
    if one is None:
        known = ", ".join(f"{number} ({name})" for name, number in _OPERATORS.items() if number)
        raise bad_filter(f"{place}.operator", f"expected one of {known}, got {operator}")
    if count != 1:
        raise bad_filter(f"{place}.values", f"expected one value, got {count}")
    at = f"{place}.values[0]"
    return one(path, _value(budget, message.values[0], at), at, budget)


def _value(budget: Budget, value: wire.Value, at: str) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise bad_filter(at, "kind is not set, or of a type that this server does not know")
    if kind == "null_value":
        if not value.null_value:
            raise bad_filter(f"{at}.null_value", "expected true, got false")
        return None
    return budget.scalar(getattr(value, kind), at)


def _equal(path: Path, value: Any, place: str, budget: Budget) -> Node:
    return Compare(path, Order.EQ, value)


def _order(op: Order) -> Callable[[Path, Any, str, Budget], Node]:
    return lambda path, value, place, budget: Compare(path, op, budget.ordered(value, place))


def _exists(path: Path, value: Any, place: str, budget: Budget) -> Node:
    if value is not True and value is not False:
        raise bad_filter(place, "expected bool_value")
    return Exists(path) if value else Not(Exists(path))


_OPERATORS: Final = dict(wire.Comparison.Operator.items())

_OF_ONE_VALUE: Final[dict[int, Callable[[Path, Any, str, Budget], Node]]] = {
    int(wire.Comparison.OPERATOR_EQUAL): _equal,
    int(wire.Comparison.OPERATOR_NOT_EQUAL): lambda *of: Not(_equal(*of)),
    int(wire.Comparison.OPERATOR_LESS): _order(Order.LT),
    int(wire.Comparison.OPERATOR_LESS_OR_EQUAL): _order(Order.LTE),
    int(wire.Comparison.OPERATOR_GREATER): _order(Order.GT),
    int(wire.Comparison.OPERATOR_GREATER_OR_EQUAL): _order(Order.GTE),
    int(wire.Comparison.OPERATOR_EXISTS): _exists,
    int(wire.Comparison.OPERATOR_PREFIX): lambda path, value, place, budget: Prefix(
        path, budget.prefix(value, place)
    ),
}

_OF_VALUES: Final[dict[int, Callable[[Path, tuple[Any, ...]], Node]]] = {
    int(wire.Comparison.OPERATOR_IN): In,
    int(wire.Comparison.OPERATOR_NOT_IN): lambda path, values: Not(In(path, values)),
    int(wire.Comparison.OPERATOR_CONTAINS): lambda path, values: Contains(path, values, False),
    int(wire.Comparison.OPERATOR_CONTAINS_ALL): lambda path, values: Contains(path, values, True),
}
