"""Facets and fields by the columns of segments say exactly what the records say."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.filter_model import PATHS, random_filter
from tests.metadata_world import SEED, World
from tests.model import flush_now, index_now
from tests.places import override
from vecdb.engine.store.rows import RowReader


def by_records(call: Any, *arguments: Any, **options: Any) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        override(patched, "columns_for_values", lambda unit, seq: None)
        return call(*arguments, **options)


def exactly(facet: vecdb.Facet) -> Any:
    """What a facet says, with the types of its values: True == 1 == 1.0, and are three values."""
    return [(type(each.value), each) for each in facet.values], facet


def agree(docs: Any, draw: random.Random, filters: int) -> None:
    assert docs.fields() == by_records(docs.fields), SEED
    for path in PATHS:
        for condition in [None, *(random_filter(draw) for _ in range(filters))]:
            options = {"filter": condition, "limit": draw.choice([1, 3, 100])}
            found = docs.facet(path, **options)
            expected = by_records(docs.facet, path, **options)
            assert exactly(found) == exactly(expected), (SEED, path, options)


@pytest.mark.parametrize(
    "turn", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_values_by_columns_are_those_of_the_records(tmp_path: Path, turn: int) -> None:
    draw = random.Random(SEED + turn)
    world = World(tmp_path / "data", draw)
    try:
        world.index()
        assert world.with_columns() == 1
        agree(world.docs, draw, 2)
        world.change(15)
        agree(world.docs, draw, 1)
        world.delete(15)
        world.write(30)
        agree(world.docs, draw, 1)
        world.purge()
        world.reopen()
        agree(world.docs, draw, 1)
        world.index(40)
        world.delete(5)
        agree(world.docs, draw, 2)
    finally:
        world.database.close()


def test_fields_that_a_collection_does_not_index_are_read(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    world = World(tmp_path / "data", draw, index_fields=["a", "b.a.c"])
    try:
        world.index()
        agree(world.docs, draw, 1)
    finally:
        world.database.close()


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Any]:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        yield database.create_collection("docs", 4)


def indexed(docs: Any, metadata: list[dict[str, Any]]) -> None:
    vectors = np.random.default_rng(1).normal(size=(len(metadata), 4)).astype(np.float32)
    docs.upsert_many([str(row) for row in range(len(metadata))], vectors, metadata)
    flush_now(docs)
    index_now(docs, len(metadata))


def without_records(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: Any) -> Any:
        raise AssertionError("records were read")

    monkeypatch.setattr(RowReader, "read_records", read)
    monkeypatch.setattr(RowReader, "iterate_records", read)


def test_no_record_is_read_where_columns_tell_everything(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"n": row % 3, "x": row / 4 + 0.125, "s": "ab"[row % 2], "t": ["u", row % 2, None]}
        for row in range(120)
    ]
    indexed(docs, [{**row, "o": {"p": None, "q": True}} for row in rows])
    expected = docs.fields(), docs.facet("n"), docs.facet("t", filter={"s": "a"})
    assert by_records(docs.fields) == expected[0]
    with monkeypatch.context() as patched:
        without_records(patched)
        assert (docs.fields(), docs.facet("n"), docs.facet("t", filter={"s": "a"})) == expected
        assert [each.rows for each in docs.facet("o.q").values] == [120]
        assert docs.facet("nothing").values == []
    docs.delete(["7", "8"])
    assert docs.fields() == by_records(docs.fields)
    with monkeypatch.context() as patched:
        without_records(patched)
        assert docs.facet("t").rows == 118


def test_integers_and_doubles_of_one_value_are_told_apart(docs: Any) -> None:
    """Columns hold 1 and 1.0 as one value."""
    indexed(docs, [{"n": value} for value in (1, 1.0, 2.0, 2.0, 3, 3, 0.5, 2**53, 2.0**53)] * 10)
    found = docs.facet("n")
    assert {(each.value, type(each.value)) for each in found.values} == {
        *((1, int), (2.0, float), (3, int), (0.5, float), (2**53, int)),
    }
    [field] = docs.fields()
    assert field.types == {"integer": 40, "double": 50}
    docs.delete(["1"])
    agree(docs, random.Random(1), 0)
    [field] = docs.fields()
    assert field.types == {"integer": 40, "double": 49}


def test_many_values_of_a_field_are_not_told_apart(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "distinct_values_max", 100)
    indexed(docs, [{"n": row, "s": f"{row % 100}"} for row in range(102)])
    assert {each.name: each.distinct for each in docs.fields()} == {"n": None, "s": 100}
    assert docs.fields() == by_records(docs.fields)
    docs.delete(["0", "2"])
    assert {each.name: each.distinct for each in docs.fields()} == {"n": 100, "s": 99}
    assert docs.fields() == by_records(docs.fields)
