"""The language of filters: what each form means, which are the same, which are refused and how."""

from __future__ import annotations

import enum
import json
import pickle
import random
import re
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest

from tests.api.test_hostile_arguments import VALUES
from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.filter_shortcuts import plain_filter
from vecdb.filters import (
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    IdIn,
    IdPrefix,
    In,
    Not,
    Or,
    Order,
    Prefix,
    parse_filter,
    path_text,
    split_path,
)

YEAR = ("year",)
OPERATORS = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$prefix"),
    *("$contains", "$not_contains", "$contains_any", "$contains_all"),
)


def equal(path: str, value: Any) -> Compare:
    return Compare((path,), Order.EQ, value)


@pytest.mark.parametrize(
    ("given", "node"),
    [
        ({}, And(())),
        ({"year": 2020}, Compare(YEAR, Order.EQ, 2020)),
        ({"year": {"$eq": None}}, Compare(YEAR, Order.EQ, None)),
        ({"year": {"$ne": 1}}, Not(Compare(YEAR, Order.EQ, 1))),
        ({"year": {"$gt": 1}}, Compare(YEAR, Order.GT, 1)),
        ({"year": {"$gte": 1.5}}, Compare(YEAR, Order.GTE, 1.5)),
        ({"year": {"$lt": "a"}}, Compare(YEAR, Order.LT, "a")),
        ({"year": {"$lte": 2.0}}, Compare(YEAR, Order.LTE, 2)),
        (
            {"year": {"$in": ["b", 2, None, True, "a", 2.0]}},
            In(YEAR, (None, True, 2, "a", "b")),
        ),
        ({"year": {"$in": []}}, Or(())),
        ({"year": {"$in": [3]}}, Compare(YEAR, Order.EQ, 3)),
        ({"year": {"$nin": []}}, And(())),
        ({"year": {"$nin": [2, 1]}}, Not(In(YEAR, (1, 2)))),
        ({"year": {"$exists": True}}, Exists(YEAR)),
        ({"year": {"$exists": False}}, Not(Exists(YEAR))),
        ({"year": {"$contains": 1}}, Contains(YEAR, (1,), False)),
        ({"year": {"$not_contains": 1}}, Not(Contains(YEAR, (1,), False))),
        ({"year": {"$contains_any": [2, 1]}}, Contains(YEAR, (1, 2), False)),
        ({"year": {"$contains_any": []}}, Or(())),
        ({"year": {"$contains_all": [2, 1]}}, Contains(YEAR, (1, 2), True)),
        ({"year": {"$contains_all": []}}, Contains(YEAR, (), True)),
        ({"year": {"$prefix": "20"}}, Prefix(YEAR, "20")),
        ({"$id": "x"}, IdIn(("x",))),
        ({"$id": 7}, IdIn(("7",))),
        ({"$id": {"$in": ["b", "a", "b"]}}, IdIn(("a", "b"))),
        ({"$id": {"$nin": ["b"]}}, Not(IdIn(("b",)))),
        ({"$id": {"$ne": "b"}}, Not(IdIn(("b",)))),
        ({"$id": {"$prefix": "a/"}}, IdPrefix("a/")),
        ({"$id": {"$prefix": ""}}, And(())),
        ({"year": {"$not": {"$gt": 1}}}, Not(Compare(YEAR, Order.GT, 1))),
        ({"$not": {"year": 1}}, Not(Compare(YEAR, Order.EQ, 1))),
        ({"$not": {"$not": {"year": 1}}}, Compare(YEAR, Order.EQ, 1)),
        ({"$not": {}}, Or(())),
        ({"$and": []}, And(())),
        ({"$or": []}, Or(())),
        ({"a": 1, "b": 2}, And((equal("a", 1), equal("b", 2)))),
        ({"$and": [{"b": 2}, {"$and": [{"a": 1}, {}]}]}, And((equal("a", 1), equal("b", 2)))),
        ({"$or": [{"b": 2}, {"a": 1}, {"b": 2.0}]}, Or((equal("a", 1), equal("b", 2)))),
        ({"$or": [{"b": 2}, {}]}, And(())),
        ({"$and": [{"b": 2}, {"$or": []}]}, Or(())),
        ({"author.name": "x"}, Compare(("author", "name"), Order.EQ, "x")),
        ({"a\\.b": "x"}, Compare(("a.b",), Order.EQ, "x")),
        ({"\\$id": "x"}, Compare(("$id",), Order.EQ, "x")),
        ({"": 1}, Compare(("",), Order.EQ, 1)),
    ],
)
def test_what_a_filter_means(given: dict[str, Any], node: Any) -> None:
    found = parse_filter(given)
    assert found.root == node
    assert repr(found.root) == repr(node)  # Which 1 and True, equal in Python, are not.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {"$gt": 1, "$lt": 5}}, {"$and": [{"b": {"$lt": 5, "$gt": 1}}, {"a": 1.0}]}),
        ({"a": {"$in": [1, 2, 2]}}, {"a": {"$in": [2.0, 1]}}),
        ({"a": {"$ne": 1}}, {"$not": {"a": 1}}),
        ({"a": {"$eq": -0.0}}, {"a": 0}),
        ({"a": {"$not": {"$exists": False}}}, {"a": {"$exists": True}}),
        ({"a": {"$contains": 1}}, {"a": {"$contains_all": [1]}}),
        (
            {"$or": [{"a": 1}, {"a": {"$in": [2, "x"]}}, {"b": 3}]},
            {"$or": [{"b": 3}, {"a": {"$in": [1, 2, "x"]}}]},
        ),
        ({"$or": [{"a": 1}, {"a": 2}]}, {"a": {"$in": [1, 2]}}),
        ({"$or": [{"$id": "a"}, {"$id": {"$in": ["b", "a"]}}]}, {"$id": {"$in": ["a", "b"]}}),
        ({"a": np.int64(3)}, {"a": np.float32(3)}),
        ({"a": {"$in": np.array([1, 2])}}, {"a": {"$in": (2, 1)}}),
        ({"a": np.bool_(True)}, {"a": True}),
        ({"a": {"$in": {"x", "y"}}}, {"a": {"$in": frozenset({"y", "x"})}}),
    ],
)
def test_filters_of_equal_meaning_have_one_key(one: Any, other: Any) -> None:
    assert parse_filter(one).key == parse_filter(other).key
    assert parse_filter(one) == parse_filter(other)
    assert hash(parse_filter(one)) == hash(parse_filter(other))


def test_filters_of_different_meaning_have_different_keys() -> None:
    values = [None, True, False, 0, 1, -1, 0.5, "", "1", "true", "null", 2**63 - 1, 2.0**63]
    given: list[Any] = [{"a": value} for value in values]
    given += [{"a": {op: 1}} for op in ("$gt", "$gte", "$lt", "$lte", "$ne", "$contains")]
    given += [{"a": {"$in": [1, 2]}}, {"a": {"$contains_any": [1, 2]}}, {"a": {"$prefix": "1"}}]
    given += [{"a": {"$contains_all": [1, 2]}}, {"a": {"$exists": True}}, {"$id": "a"}]
    given += [{"$id": {"$prefix": "a"}}, {"a.b": 1}, {"a\\.b": 1}, {}, {"$or": []}]
    given += [{"a": 1, "b": 2}, {"$or": [{"a": 1}, {"b": 2}]}, {"$not": {"a": 1, "b": 2}}]
    assert len({parse_filter(each).key for each in given}) == len(given)


class Color(str, enum.Enum):
    RED = "red"


BAD = [
    (None, "filter: expected an object"),
    ([], "filter: expected an object"),
    ("year = 1", "filter: expected an object"),
    ({1: 2}, "filter: expected keys that are strings, got 1"),
    ({"year": [1]}, "filter.year: expected a string, a number, a boolean or null, got a list"),
    ({"year": [1]}, "for one of several values use $in"),
    ({"$id": ["a"]}, "for one of several values use $in"),
    ({"year": {}}, "filter.year: expected an operator, got an empty object"),
    ({"year": {"month": 1}}, "write the field as 'year.month'"),
    ({"year": {"$gte": 1, "x": 1}}, "filter.year: expected an operator such as $eq, got 'x'"),
    ({"year": {1: 1}}, "filter.year: expected an operator such as $eq, got 1"),
    ({"year": {"$gte": [1]}}, "filter.year.$gte: expected a number or a string, got a list"),
    ({"year": {"$gte": None}}, "filter.year.$gte: expected a number or a string, got null"),
    ({"year": {"$lt": True}}, "filter.year.$lt: expected a number or a string, got a boolean"),
    ({"year": {"$regex": "x"}}, "filter.year.$regex: unknown operator '$regex'; expected one of"),
    (
        {"year": {"$gtee": 1}},
        "filter.year.$gtee: unknown operator '$gtee'; expected one of $eq, $ne, $gt, $gte,",
    ),
    ({"$nor": []}, "filter.$nor: unknown operator '$nor'; expected one of $and, $or, $not, $id"),
    ({"$price": 3}, r"$id, \$..., if it is the name of a field"),
    ({"$gte": 3}, "filter.$gte: $gte belongs inside a field"),
    ({"$and": {}}, "filter.$and: expected a list of filters"),
    ({"$or": [1]}, "filter.$or[0]: expected an object"),
    ({"$not": []}, "filter.$not: expected an object"),
    (
        {"$and": [{}, {"year": {"$gte": [1]}}]},
        "filter.$and[1].year.$gte: expected a number or a string, got a list",
    ),
    ({"a": {"$in": 3}}, "filter.a.$in: expected a list of values, got 3"),
    ({"a": {"$in": "abc"}}, "filter.a.$in: expected a list of values, got 'abc'"),
    ({"a": {"$in": [1, [2]]}}, "filter.a.$in[1]: expected a string, a number, a boolean or null"),
    ({"a": {"$exists": 1}}, "filter.a.$exists: expected true or false, got 1"),
    ({"a": {"$contains": [1]}}, "for several values use $contains_any or $contains_all"),
    ({"a": {"$prefix": 1}}, "filter.a.$prefix: expected a string, got a number"),
    ({"a": float("nan")}, "filter.a: expected a finite number, got nan"),
    ({"a": {"$lt": float("inf")}}, "filter.a.$lt: expected a finite number, got inf"),
    ({"a": 2**63}, "filter.a: integers have at most 64 bits"),
    ({"a": -(2**63) - 1}, "filter.a: integers have at most 64 bits"),
    ({"a": 10**5000}, "filter.a: integers have at most 64 bits"),
    ({"a": object()}, "(object)"),
    ({"a": b"x"}, "(bytes)"),
    ({"a": {"b": {"$eq": 1}}}, "write the field as 'a.b'"),
    ({"a": "\ud800"}, "filter.a: lone surrogate U+D800 at character 0"),
    ({"\ud800": 1}, "lone surrogate U+D800 at character 0"),
    ({"a\\b": 1}, "a backslash in a path stands before . or $ or \\ only"),
    ({"a.b.c.d.e.f.g.h.i": 1}, "a path has at most 8 keys, got 9"),
    ({"$id": 1.5}, "filter.$id: expected a string, got a number"),
    ({"$id": ""}, "filter.$id: id length in bytes must be 1 to 500, got 0"),
    ({"$id": {"$in": ["a", "é" * 251]}}, "filter.$id.$in[1]: id length in bytes must be 1 to 500"),
    ({"$id": {"$gt": "a"}}, "filter.$id.$gt: unknown operator '$gt'"),
    ({"$id": {"x": "a"}}, "filter.$id: expected an operator such as $in, got 'x'"),
    ({"odd name": [1]}, "filter['odd name']: expected"),
    # As other databases have it.
    ({"a": {"eq": 1}}, "got 'eq'; did you mean $eq? If it is a field, write it as 'a.eq'"),
    ({"a": {">=": 1}}, "got '>='; did you mean $gte?"),
    ({"a": {"$GTE": 1}}, "filter.a.$GTE: unknown operator '$GTE'"),
    ({"a": {"$GTE": 1}}, "$not; did you mean $gte?"),
    ({"a": {"$all": [1]}}, "did you mean $contains_all?"),
    ({"a": {"$and": [{"$gt": 1}]}}, "$and stands around fields, as in {'$and': [{'a': 1}"),
    ({"$AND": [{"a": 1}]}, "did you mean $and?"),
    ({"or": [{"a": 1}]}, "filter.or: expected a string, a number, a boolean or null, got a list"),
    ({"or": [{"a": 1}]}, "got a list; did you mean $or?"),
    ({"a": {"$ne": [1]}}, "filter.a.$ne: expected a string, a number, a boolean or null"),
    ({"a": {"$ne": [1]}}, "for several values use $nin"),
    ({"a": {"$eq": [1]}}, "for several values use $in"),
    ({"a": date(2024, 1, 1)}, "(date); write times as strings of RFC 3339, or as numbers"),
    ({"a": {"$gt": datetime(2024, 1, 1)}}, "(datetime); write times as strings of RFC 3339"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_filter_is_refused_with_its_place(given: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(message)) as caught:
        parse_filter(given)
    assert caught.value.reason == "BAD_FILTER"
    assert caught.value.message.startswith("filter")
    assert len(caught.value.message) < 400


def nested(levels: int, inner: dict[str, Any], operator: str = "$not") -> dict[str, Any]:
    for _ in range(levels):
        inner = {operator: inner if operator == "$not" else [inner]}
    return inner


@pytest.mark.parametrize("operator", ["$not", "$and", "$or"])
def test_depth_has_a_limit(operator: str) -> None:
    most = limits.FILTER_DEPTH_MAX
    assert parse_filter(nested(most - 1, {"a": 1}, operator))
    for levels in (most, 100, 100_000):
        with pytest.raises(InvalidArgumentError, match=f"deeper than {most} levels") as caught:
            parse_filter(nested(levels, {"a": 1}, operator))
        assert caught.value.reason == "BAD_FILTER"


def test_the_depth_of_the_tree_has_the_same_limit() -> None:
    given: dict[str, Any] = {"a": 1}
    for _ in range(20):
        given = {"b": 2, "$or": [{"c": 3}, given]}
    with pytest.raises(InvalidArgumentError, match="filter: has 41 levels, at most 32"):
        parse_filter(given)


def test_a_filter_that_contains_itself_is_too_deep() -> None:
    given: dict[str, Any] = {}
    given["$and"] = [given, given]
    with pytest.raises(InvalidArgumentError, match="deeper"):
        parse_filter(given)
    inside: dict[str, Any] = {}
    inside["$not"] = inside
    with pytest.raises(InvalidArgumentError, match="deeper"):
        parse_filter({"a": inside})


def test_a_filter_that_repeats_one_object_has_too_many_terms() -> None:
    given: dict[str, Any] = {"a": 1}
    for _ in range(30):
        given = {"$or": [given, given]}
    with pytest.raises(InvalidArgumentError, match="more than 1024 terms"):
        parse_filter(given)


def test_terms_and_operands_have_limits() -> None:
    terms = limits.FILTER_TERMS_MAX
    given = [{"a": number, "b": {"$exists": number % 2 == 0}} for number in range(terms // 2)]
    assert parse_filter({"$or": given})
    assert parse_filter({"$or": [{"a": number} for number in range(terms)]})
    for each in ({"a": {"$gt": 1}}, {}):
        with pytest.raises(InvalidArgumentError, match=rf"filter.\$or\[{terms}\].*terms"):
            parse_filter({"$or": [each] * (terms + 1)})
    with pytest.raises(InvalidArgumentError, match="filter: has 1025 terms, at most 1024"):
        Filter(Or(tuple(equal(f"{number}", 1) for number in range(terms + 1))))
    operands = limits.FILTER_OPERANDS_MAX
    ids = [f"{number}" for number in range(operands)]
    assert parse_filter({"$id": {"$in": ids}}).matches("99999", {})
    with pytest.raises(InvalidArgumentError, match="filter: its lists have 100001 values"):
        parse_filter({"$or": [{"$id": {"$in": ids}}, {"$id": "x"}]})
    with pytest.raises(InvalidArgumentError, match=f"more than {operands} values"):
        parse_filter({"a": 1, "$id": {"$nin": [*ids, "x"]}})
    with pytest.raises(InvalidArgumentError, match=rf"filter.\$or\[1\].*{operands} values"):
        parse_filter({"$or": [{"$id": {"$in": ids}}, {"a": {"$in": [1, 2]}}]})


def test_strings_have_a_limit_in_bytes() -> None:
    most = limits.FILTER_BYTES_MAX
    assert parse_filter({"a": "é" * (most // 2 - 1)})
    with pytest.raises(InvalidArgumentError, match=rf"filter.a.*{most} bytes"):
        parse_filter({"a": "é" * (most // 2)})


@pytest.mark.parametrize("path", ["a", "a.b", "", ".", "a\\.b", "\\$a.$b", "\\\\", "ä.🙂"])
def test_paths_come_back(path: str) -> None:
    keys = split_path(path, "filter")
    assert split_path(path_text(keys), "filter") == keys
    assert path_text(keys) == path
    value: Any = 1
    for key in reversed(keys):
        value = {key: value}
    assert parse_filter({path_text(keys): 1}).matches("x", value)


def test_a_filter_is_its_own_parse_and_can_be_pickled() -> None:
    given = parse_filter({"a": {"$in": [1, True, "x"]}, "$id": {"$prefix": "y"}})
    assert parse_filter(given) is given
    assert given.matches("y1", {"a": 1})
    again = pickle.loads(pickle.dumps(given))
    assert again == given
    assert again.matches("y1", {"a": True})
    assert not again.matches("x1", {"a": True})
    assert given != "x"
    assert repr(given).startswith("Filter(And(")


def test_members_of_enumerations_are_their_values() -> None:
    found = parse_filter({"a": Color.RED})
    assert found.matches("x", {"a": "red"})
    assert found.key == parse_filter({"a": "red"}).key


def test_only_conditions_on_metadata_need_it() -> None:
    on_ids = parse_filter({"$or": [{"$id": {"$prefix": "a"}}, {"$not": {"$id": "b"}}]})
    assert not on_ids.needs_metadata
    assert not parse_filter({}).needs_metadata
    assert on_ids.matches_json("a", b"not JSON")
    assert not on_ids.matches_json("b", b"not JSON")
    for given in ({"a": 1}, {"$id": "a", "$not": {"b": 1}}):
        assert parse_filter(given).needs_metadata


def test_stored_json_is_read_as_metadata_are() -> None:
    found = parse_filter({"a": {"$gte": 2**53 + 1}})
    assert found.matches_json("x", b'{"a": 9007199254740993}')
    assert not found.matches_json("x", b'{"a": 9007199254740992}')
    assert not found.matches_json("x", b'{"a": 9007199254740992.0}')
    assert not found.matches_json("x", b"")
    assert parse_filter({"a": {"$exists": False}}).matches_json("x", b"")
    assert parse_filter({"ä": "ß"}).matches_json("x", json.dumps({"ä": "ß"}).encode())


FORMS: list[Any] = [
    lambda value: value,
    lambda value: {"a": value},
    *(lambda value, name=name: {"a": {name: value}} for name in (*OPERATORS, "$not", "$odd")),
    *(lambda value, name=name: {"$id": {name: value}} for name in (*OPERATORS, "$not")),
    *(lambda value, name=name: {name: value} for name in ("$id", "$and", "$or", "$not", "$eq")),
    *(lambda value, name=name: {"a": {name: [value, 1]}} for name in ("$in", "$contains_all")),
    lambda value: {"$and": [{}, value]},
    lambda value: {"$id": {"$in": ["a", value]}},
    lambda value: {value: 1},
    lambda value: {"a": {value: 1}},
]


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_value_at_every_place_is_taken_or_refused(name: str) -> None:
    refused: list[InvalidArgumentError] = []
    for form in FORMS:
        try:
            given = form(VALUES[name]())
        except TypeError:
            continue  # As a key: it is not hashable.
        try:
            found = parse_filter(given)
        except InvalidArgumentError as error:
            refused.append(error)
        else:
            assert found.matches("x", {"a": [1, "x"]}) in (True, False)
            assert Filter(found.root).key == found.key
    assert len(refused) > 5
    for error in refused:
        assert error.reason == "BAD_FILTER" and error.message.startswith("filter")
        assert len(error.message) < 500 and "\n" not in error.message


def _plain_or_nearly(draw: random.Random) -> Any:
    """Return what may stand beside a field in a plain filter, or in one that is not plain."""
    values = [
        *(draw.randint(-10, 10), draw.random(), -0.0, 5.0, 2.5, 1e300, 1e-7, 2**60, True, None),
        *('a"b', "é", "x\\y", "\n", "en", "/", "\x7f", "long" * 20, float("nan"), float("inf")),
    ]
    if draw.random() < 0.4:
        return draw.choice(values)
    operators = ("$eq", "$gt", "$gte", "$lt", "$lte", "$ne", "$in", "other")
    return {draw.choice(operators): draw.choice(values) for _ in range(draw.randint(0, 4))}


def test_plain_filters_are_read_as_all_others() -> None:
    seed = random.SystemRandom().randrange(2**32)
    draw, plain = random.Random(seed), 0
    for _ in range(20_000):
        names = ("a", "b", "n1", "_x", "and", "a.b", "$id", "é", "$and", "")
        count = draw.choice((1, 1, 2, 3, 0))
        given = {draw.choice(names): _plain_or_nearly(draw) for _ in range(count)}
        found = plain_filter(given)
        if found is None:
            continue
        plain += 1
        # Two objects in an $and are not plain, and mean the same.
        expected = parse_filter({"$and": [given, {}]})
        assert found[1].encode() == expected.key, (seed, given)
        assert repr(found[0]) == repr(expected.root), (seed, given)
        assert parse_filter(given) == expected
    assert plain > 500
