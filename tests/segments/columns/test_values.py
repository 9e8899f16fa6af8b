"""Values of all classes come back exactly and in their order; fields beyond the limits are left out
and said to be."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.filter_model import SCALARS
from tests.model import flush_now, index_now
from tests.places import override
from tests.segments.columns.test_evaluating import SEED, check, columns_of

NUMBERS: list[Any] = [
    *(0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63 - 2),
    *(0.5, -0.5, 1.5, -1.5, 5e-324, -5e-324, 0.1, 1 / 3, 4503599627370495.5, -4503599627370495.5),
    *(1e300, -1e300, 2.0**63, -(2.0**64), 1e19, 1.7976931348623157e308),
]
TEXTS = [
    *("", "\0", "a", "a\0", "aa", "b", "é", "e\u0301", "\uffff", "\U0001f600", "\U0010ffff"),
    *("x" * 511, "x" * 512, "x" * 511 + "y", "é" * 256, "\U0001f600" * 128),
]
TOO_LONG = ["x" * 513, "é" * 257, "\U0001f600" * 129]


def rows_of(values: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"r{at}", {"f": value}) for at, value in enumerate(values)]


def field_of(values: list[Any]) -> Any:
    field = columns_of(rows_of(values), 7).field(("f",))
    assert field is not None
    return field


def test_numbers_come_back_exactly_and_ascend() -> None:
    values = NUMBERS * 2
    random.Random(SEED).shuffle(values)
    field = field_of(values)
    got = [field.value_of(code) for code in range(3, field.first_text)]
    assert got == sorted(set(NUMBERS), key=Fraction)
    assert {type(value) for value in got} == {int, float}
    # A double that is an integer of 64 bits is that integer.
    assert field_of([-0.0, 2.0, 2]).value_of(3) == 0
    assert field_of([-0.0, 2.0, 2]).value_counts.tolist() == [0, 0, 0, 1, 2]


def test_strings_come_back_exactly_and_ascend_by_bytes() -> None:
    values = TEXTS * 2
    random.Random(SEED).shuffle(values)
    field = field_of(values + TOO_LONG)
    got = [field.value_of(code) for code in range(field.first_text, field.code_count)]
    assert got == sorted(set(TEXTS), key=str.encode)
    assert field.odd.nodes.tolist() == [len(values), len(values) + 1, len(values) + 2]


def test_orders_split_all_values_where_their_class_does() -> None:
    values: list[Any] = [*NUMBERS, *TEXTS, *TOO_LONG, None, True, False, [], [1, [2]], {}, 2**70]
    rows = rows_of(values)
    columns = columns_of(rows, 5)
    operands = [each for each in [*NUMBERS, *TEXTS, *TOO_LONG, *SCALARS] if each is not None]
    for operand, name in itertools.product(operands, ["$eq", "$gt", "$gte", "$lt", "$lte"]):
        if name == "$eq" or not isinstance(operand, bool):
            check(columns, rows, {"f": {name: operand}})
    for text in [*TEXTS, *TOO_LONG]:
        check(columns, rows, {"f": {"$prefix": text}})


def test_values_of_lists_are_counted_once_a_node() -> None:
    field = field_of([["a", "b", "a"], ["b"], "a", [], [["a"], {"a": 1}], None, [None, 1, 1.0]])
    assert not field.is_single
    counts = {field.value_of(code): n for code, n in enumerate(field.value_counts.tolist()) if n}
    assert counts == {None: 2, 1: 1, "a": 2, "b": 2}
    assert field.lists.nodes.tolist() == [0, 1, 3, 4, 6]


def test_a_field_of_few_rows_and_a_field_of_many_values() -> None:
    draw = random.Random(SEED)
    rows: list[tuple[str, dict[str, Any]]] = [
        (
            f"r{at}",
            {"unique": f"value {at}", "n": draw.random(), **({"rare": at} if at % 97 == 0 else {})},
        )
        for at in range(2_000)
    ]
    columns = columns_of(rows)
    for condition in (
        {"rare": {"$gte": 500}},
        {"rare": {"$exists": False}},
        {"unique": "value 77"},
        {"unique": {"$prefix": "value 1"}},
        {"unique": {"$in": [f"value {at}" for at in range(0, 3_000, 7)]}},
        {"n": {"$lt": 0.5}, "rare": {"$lt": 1_000}},
        {"$and": [{"n": {"$lt": 0.9}}, {"n": {"$gt": 0.1}}, {"unique": {"$gt": "value 5"}}]},
    ):
        assert check(columns, rows, condition)[1] == 0


def test_fields_beyond_a_limit_are_left_out_and_decided_by_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    override(monkeypatch, "column_fields_max", 3)
    override(monkeypatch, "column_paths_max", 8)
    override(monkeypatch, "column_distinct_texts_max", 50)
    override(monkeypatch, "column_text_bytes_max", 5_000)
    rows: list[tuple[str, dict[str, Any]]] = [
        (
            f"r{at}",
            {
                "a": at,
                "many": f"text {at}",
                "large": f"{at % 40}" * 300,
                f"f{at % 12}": at,
                "b": at % 3,
            },
        )
        for at in range(120)
    ]
    columns = columns_of(rows, 10)
    assert set(columns.paths) <= {("a",), ("b",), ("large",), ("f0",), ("f1",)}
    assert len(columns.paths) == 3
    assert "more than 50 distinct" in columns.left_out[("many",)]
    assert any("more than 3 fields" in reason for reason in columns.left_out.values())
    assert columns.has_unlisted
    for path in ("a", "b", "many", "large", "f0", "f11", "none"):
        check(columns, rows, {path: {"$exists": True}})
        check(columns, rows, {path: 1, "b": 1})
        check(columns, rows, {"$or": [{path: {"$ne": "text 7"}}, {"a": {"$lt": 3}}]})
    # Columns rule out the rows of other terms.
    assert check(columns, rows, {"many": "text 7", "a": {"$lt": 9}})[1] == 9


def test_stats_name_the_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    override(monkeypatch, "column_distinct_texts_max", 50)
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 2)
        metadata = [{"n": at, "x.y": {"z": 1}, "text": f"t{at}"} for at in range(100)]
        docs.upsert([f"r{at}" for at in range(100)], [[1.0, at] for at in range(100)], metadata)
        flush_now(docs)
        [segment] = docs.stats().segments
        assert (segment.columns, segment.columns_left_out) == ("", "in no graph yet")
        index_now(docs)
        [segment] = docs.stats().segments
        assert segment.columns == "3 fields: n, x\\.y, x\\.y.z"
        assert segment.columns_left_out == "text: more than 50 distinct strings"
        assert docs.count(filter={"text": {"$prefix": "t1"}}) == 11
