"""What a filter that is not valid probably means, for the end of its error message.

Part of ``vecdb.filters``. Most such filters are written as other databases have them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["meant_by", "meant_by_list", "value_hint"]

_OF_OTHERS: Final = {
    "all": "$contains_all",
    "any": "$contains_any",
    "begins_with": "$prefix",
    "between": "$gte and $lte",
    "like": "$prefix, for the beginning of a string",
    "neq": "$ne",
    "nor": "$not around $or",
    "not_in": "$nin",
    "notin": "$nin",
    "starts_with": "$prefix",
    "startswith": "$prefix",
    "=": "$eq",
    "==": "$eq",
    "!=": "$ne",
    "<>": "$ne",
    ">": "$gt",
    ">=": "$gte",
    "<": "$lt",
    "<=": "$lte",
}
_AROUND: Final = ("$and", "$or")
_TIMES: Final = ("date", "datetime", "datetime64", "Timestamp", "time")


def meant_by(name: str, known: Iterable[str]) -> str:
    """Return which operator a name probably stands for, as the end of a message; or "".

    known: operators that may stand in its place.
    """
    plain = name.strip().lstrip("$").lower()
    if f"${plain}" in known:
        return f"; did you mean ${plain}?"
    if f"${plain}" in _AROUND:
        return f"; ${plain} stands around fields, as in {{'${plain}': [{{'a': 1}}, {{'b': 2}}]}}"
    other = _OF_OTHERS.get(plain)
    return f"; did you mean {other}?" if other else ""


def meant_by_list(field: str) -> str:
    """Return what a list beside a field probably means, as the end of a message."""
    operator = f"${field.lower()}"
    if operator in _AROUND:
        return f"; did you mean {operator}?"
    return "; for one of several values use $in"


def value_hint(value: object) -> str:
    """Return how a value of another type is to be written, as the end of a message; or ""."""
    if type(value).__name__ in _TIMES:
        return "; write times as strings of RFC 3339, or as numbers"
    return ""
