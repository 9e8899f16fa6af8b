"""What filters mean, written down plainly and slowly, and random filters and metadata to try.

``holds(filter, id, metadata)`` reads the form in Python, follows docs/filters.md word by word, and
shares no code with the product: numbers are compared as fractions, strings as UTF-8 bytes.
``random_filter`` and ``random_metadata`` draw from few values and fields, so that conditions are
often true.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

MISSING = object()

SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 0.0, -0.0, 0.5, 1.0, -1.5, 1e300, 5e-324),
    *(2**53, 2**53 + 1, float(2**53), -(2**53) - 1, 2**63 - 1, -(2**63), float(2**63)),
    *("", "a", "ab", "abc", "b", "B", "1", "true", "null", "é", "e\u0301", "z", "\0", '"\\'),
    # By code point the first is below the second; by UTF-16 units it is above.
    *("\uffff", "\U0001f600", "\uffffa", "\U0001f600a"),
    *("2020-01-01T00:00:00Z", "2020-06-30T12:00:00.5Z", "2021-01-01T00:00:00+01:00"),
]
STORED_ONLY: list[Any] = [2**63, 2**64 + 1, -(10**30), "long " * 200]
"""Values of metadata that are not operands: integers beyond 64 bits; and a long string."""

KEYS = ["a", "b", "c", "a.b", "$x", "", "ä", "d e"]
PATHS = ["a", "b", "c", "a.b", "a.c", "b.a.c", "a\\.b", "\\$x", "", "ä", "d e", "a.", "a\\.b.a"]
ON_SCALARS = ["$eq", "$ne", "$contains", "$not_contains"]
ORDERS = ["$gt", "$gte", "$lt", "$lte"]
ON_LISTS = ["$in", "$nin", "$contains_any", "$contains_all"]
IDS = ["a", "b", "ab", "a/1", "a/2", "b/1", "é", "\U0001f600", "7"]

# ----------------------------------------------------------------------------------------- meaning


def holds(given: Any, id: str, metadata: Any) -> bool:
    """Whether a row matches a filter object."""
    for key, value in given.items():
        if key == "$and":
            true = all(holds(each, id, metadata) for each in value)
        elif key == "$or":
            true = any(holds(each, id, metadata) for each in value)
        elif key == "$not":
            true = not holds(value, id, metadata)
        elif key == "$id":
            true = condition_holds(value, id)
        else:
            true = condition_holds(value, value_at(metadata, key))
        if not true:
            return False
    return True


def condition_holds(condition: Any, value: Any) -> bool:
    if not isinstance(condition, dict):
        return operator_holds("$eq", condition, value)
    return all(operator_holds(name, each, value) for name, each in condition.items())


NEGATIONS = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}


def operator_holds(name: str, operand: Any, value: Any) -> bool:
    if name == "$not":
        return not condition_holds(operand, value)
    if name in NEGATIONS:
        return not operator_holds(NEGATIONS[name], operand, value)
    if name == "$exists":
        return operand == (value is not MISSING)
    if value is MISSING:
        return False
    if name in ("$contains", "$contains_any", "$contains_all"):
        if not isinstance(value, list):
            return False
        wanted = [operand] if name == "$contains" else operand
        there = [any(same(one, each) for each in value) for one in wanted]
        return all(there) if name == "$contains_all" else any(there)
    if isinstance(value, list):
        return any(scalar_holds(name, operand, each) for each in value)
    return scalar_holds(name, operand, value)


def scalar_holds(name: str, operand: Any, value: Any) -> bool:
    if name == "$in":
        return any(same(each, value) for each in operand)
    if name == "$eq":
        return same(operand, value)
    if name == "$prefix":
        return isinstance(value, str) and value.encode().startswith(operand.encode())
    if class_of(value) != class_of(operand):
        return False
    left, right = comparable(value), comparable(operand)
    return {"$gt": left > right, "$gte": left >= right, "$lt": left < right, "$lte": left <= right}[
        name
    ]


def class_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "none"


def comparable(value: Any) -> Any:
    kind = class_of(value)
    return Fraction(value) if kind == "number" else value.encode() if kind == "string" else value


def same(one: Any, other: Any) -> bool:
    kind = class_of(one)
    return kind != "none" and kind == class_of(other) and comparable(one) == comparable(other)


def value_at(metadata: Any, path: str) -> Any:
    value = metadata
    # What is escaped is set aside while the path is split at the other dots.
    for key in path.replace("\\\\", "\2").replace("\\.", "\1").split("."):
        key = key.replace("\1", ".").replace("\\$", "$").replace("\2", "\\")
        if not isinstance(value, dict) or key not in value:
            return MISSING
        value = value[key]
    return value


# ------------------------------------------------------------------------------------ random draws


def random_scalars(draw: random.Random) -> list[Any]:
    """A few values, so that operands and metadata are often equal."""
    return draw.sample(SCALARS, 8)


def random_metadata(
    draw: random.Random, scalars: list[Any] = SCALARS, depth: int = 3
) -> dict[str, Any]:
    """Metadata of a row: scalars, lists and objects, with at most ``depth`` levels."""

    def value(depth: int) -> Any:
        kind = draw.random()
        if kind < 0.7 or depth <= 0:
            return draw.choice(scalars if draw.random() < 0.9 else STORED_ONLY)
        if kind < 0.9:
            return [value(depth - 1) for _ in range(draw.randrange(4))]
        return random_metadata(draw, scalars, depth - 1)

    keys = draw.sample(KEYS, draw.randrange(len(KEYS)))
    return {key: value(depth - 1) for key in keys}


def random_filter(
    draw: random.Random, scalars: list[Any] = SCALARS, depth: int = 3
) -> dict[str, Any]:
    """A valid filter in Python's form, with at most ``depth`` of $and, $or and $not nested."""
    kind = draw.random()
    if depth and kind < 0.4:
        name = draw.choice(["$and", "$or", "$not"])
        if name == "$not":
            return {"$not": random_filter(draw, scalars, depth - 1)}
        return {name: [random_filter(draw, scalars, depth - 1) for _ in range(draw.randrange(4))]}
    if kind < 0.5:
        some = draw.sample(IDS, draw.randrange(4))
        return {"$id": draw.choice([{"$in": some}, {"$nin": some}, {"$prefix": draw.choice(IDS)}])}
    return {
        path: _random_condition(draw, scalars)
        for path in draw.sample(PATHS, draw.choice([1, 1, 2]))
    }


def _random_condition(draw: random.Random, scalars: list[Any]) -> Any:
    scalar = draw.choice(scalars)
    name = draw.choice([*ON_SCALARS, *ORDERS, *ON_LISTS, "$exists", "$prefix", "$not", ""])
    if not name:
        return scalar
    if name == "$not":
        return {"$not": _random_condition(draw, scalars)}
    if name in ORDERS and class_of(scalar) not in ("number", "string"):
        scalar = 1
    if name == "$prefix" and not isinstance(scalar, str):
        scalar = "a"
    if name in ON_LISTS:
        return {name: draw.sample(scalars, draw.randrange(5))}
    return {name: draw.random() < 0.5 if name == "$exists" else scalar}
