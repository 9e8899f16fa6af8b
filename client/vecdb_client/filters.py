"""Translation of filters to messages; ``vecdb_server.translation.filters`` is the inverse."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from vecdb.filters import (
    And,
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
    Prefix,
    Scalar,
    parse_filter,
)
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["filter_to_wire", "optional_filter"]


def filter_to_wire(filter: Filter) -> wire.Filter:
    """Return the message of a filter."""
    return _message(filter.root)


def optional_filter(filter: object) -> wire.Filter | None:
    """Return the message of the filter of a call, None without one.

    Raises:
        InvalidArgumentError: BAD_FILTER.
    """
    return None if filter is None else filter_to_wire(parse_filter(filter))


def _message(node: Node) -> wire.Filter:
    return _MESSAGES[type(node)](node)


def _list(terms: Iterable[Node]) -> wire.FilterList:
    return wire.FilterList(filters=[_message(term) for term in terms])


def _comparison(
    path: Iterable[str], operator: wire.Comparison.Operator, values: Iterable[Scalar]
) -> wire.Filter:
    return wire.Filter(
        comparison=wire.Comparison(
            path=path, operator=operator, values=[_value(each) for each in values]
        )
    )


def _value(value: Scalar) -> wire.Value:
    if value is None:
        return wire.Value(null_value=True)
    if isinstance(value, bool):
        return wire.Value(bool_value=value)
    if isinstance(value, int):
        return wire.Value(int_value=value)
    if isinstance(value, float):
        return wire.Value(double_value=value)
    return wire.Value(string_value=value)


_ORDERS: Final = {
    Order.EQ: wire.Comparison.OPERATOR_EQUAL,
    Order.GT: wire.Comparison.OPERATOR_GREATER,
    Order.GTE: wire.Comparison.OPERATOR_GREATER_OR_EQUAL,
    Order.LT: wire.Comparison.OPERATOR_LESS,
    Order.LTE: wire.Comparison.OPERATOR_LESS_OR_EQUAL,
}
_CONTAINS: Final = {
    False: wire.Comparison.OPERATOR_CONTAINS,
    True: wire.Comparison.OPERATOR_CONTAINS_ALL,
}
_MESSAGES: Final[dict[type, Callable[[Any], wire.Filter]]] = {
    And: lambda node: wire.Filter(all_of=_list(node.terms)),
    Or: lambda node: wire.Filter(any_of=_list(node.terms)),
    Not: lambda node: wire.Filter(negated=_message(node.term)),
    Compare: lambda node: _comparison(node.path, _ORDERS[node.op], (node.value,)),
    In: lambda node: _comparison(node.path, wire.Comparison.OPERATOR_IN, node.values),
    Exists: lambda node: _comparison(node.path, wire.Comparison.OPERATOR_EXISTS, (True,)),
    Contains: lambda node: _comparison(node.path, _CONTAINS[node.all], node.values),
    Prefix: lambda node: _comparison(node.path, wire.Comparison.OPERATOR_PREFIX, (node.prefix,)),
    IdIn: lambda node: wire.Filter(id_in=wire.IdList(ids=node.ids)),
    IdPrefix: lambda node: wire.Filter(id_prefix=node.prefix),
}
