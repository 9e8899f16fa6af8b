"""Reads by what rows say: lists, scrolls, counts and facets by filter; embedded and remote."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now
from tests.places import override
from vecdb.filters import parse_filter

RNG = np.random.default_rng(5)


def rows(count: int, dim: int = 4) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(vecdb.VecdbError) as caught:
        call(*arguments, **options)
    return caught.value.reason


def filled(surface: Any, metadata: list[Any]) -> Any:
    docs = surface.create_collection("docs", 4)
    docs.upsert([f"r{i}" for i in range(len(metadata))], rows(len(metadata)), metadata)
    return docs


def pages(docs: Any, **options: Any) -> list[str]:
    found: list[str] = []
    while page := docs.list_ids(after=found[-1] if found else None, **options):
        assert len(page) <= options["limit"]
        found += page
    return found


# -------------------------------------------------------------------------------------------- ids


def test_ids_are_listed_in_order_page_by_page(surface: Any) -> None:
    docs = filled(surface, [{"n": i} for i in range(50)])
    docs.upsert(["é", "a\0", "a", "zz"], rows(4))
    docs.delete(["r7"])
    expected = sorted(
        {f"r{i}" for i in range(50)} - {"r7"} | {"é", "a\0", "a", "zz"}, key=str.encode
    )
    assert docs.list_ids() == expected
    for limit in (1, 7, 10_000):
        assert pages(docs, limit=limit) == expected
    assert pages(docs, prefix="r1", limit=3) == [name for name in expected if name[:2] == "r1"]
    assert docs.list_ids("a") == ["a", "a\0"]
    assert docs.list_ids("r4", after="r45") == ["r46", "r47", "r48", "r49"]
    assert docs.list_ids(after="r100", limit=1) == ["r11"]
    assert docs.list_ids("q") == docs.list_ids(after="é") == []


@pytest.mark.parametrize("few", [0, 2_000])
def test_ids_by_filter_are_those_that_match(
    surface: Any, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the ids of few rows are read, or all ids are looked up."""
    override(monkeypatch, "listed_rows_few", few)
    docs = filled(surface, [{"n": i % 5} for i in range(60)])
    wanted = sorted(f"r{i}" for i in range(60) if i % 5 < 2)
    assert pages(docs, filter={"n": {"$lt": 2}}, limit=7) == wanted
    ones = [name for name in wanted if name.startswith("r1")]
    assert docs.list_ids("r1", filter={"n": {"$lt": 2}}) == ones
    docs.set_metadata([wanted[0]], {"n": 9})
    assert docs.list_ids(filter={"n": {"$lt": 2}}) == wanted[1:]


def test_wrong_arguments_of_lists_are_refused(surface: Any) -> None:
    docs = filled(surface, [{}])
    for options in ({"prefix": 7}, {"prefix": "\ud800"}, {"after": "x" * 501}, {"after": b"x"}):
        assert refusal(docs.list_ids, **options) == "BAD_ID"
    for limit in (0, 10_001):
        assert refusal(docs.list_ids, limit=limit) == "OUT_OF_RANGE"
        assert refusal(docs.facet, "n", limit=limit) == "OUT_OF_RANGE"
    for field in (None, 7, "a\\b", "a.b.c.d.e.f.g.h.i", "\ud800"):
        assert refusal(docs.facet, field) == "BAD_FILTER"
    for call in (
        lambda: docs.list_ids(filter={"$x": 1}),
        lambda: docs.facet("n", {"$x": 1}),
        lambda: list(docs.scroll(filter={"$x": 1})),
        lambda: docs.scroll_page(filter="n"),
    ):
        assert refusal(call) == "BAD_FILTER"


# ----------------------------------------------------------------------------------------- scroll


@pytest.mark.parametrize("include_vectors", [True, False])
def test_a_scroll_by_filter_returns_the_rows_that_matched(
    surface: Any, include_vectors: bool
) -> None:
    docs = filled(surface, [{"n": i % 3} for i in range(40)])
    scroll = docs.scroll(batch=4, filter={"n": 1}, include_vectors=include_vectors)
    first = next(scroll)
    # Later writes have no effect.
    docs.set_metadata(filter={}, patch={"n": 2})
    docs.delete(["r37"])
    found = [first, *scroll]
    names = [name for page in found for name in page.ids]
    assert names == [f"r{i}" for i in range(40) if i % 3 == 1]
    assert {entry["n"] for page in found for entry in page.metadata} == {1}
    if include_vectors:
        kept = docs.get(names[:4]).vectors
        assert found[0].vectors.tobytes() == kept.tobytes()
        assert sum(len(page.vectors) for page in found) == len(names)
    assert list(docs.scroll(filter={"n": 1})) == []


def test_a_page_by_filter_ends_after_many_rows_without_a_match(
    surface: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "scroll_passed_rows_max", 10)
    override(monkeypatch, "scroll_slice_rows", 16)
    docs = filled(surface, [{"n": i} for i in range(100)])
    page = docs.scroll_page(filter={"n": 99})
    assert len(page.records) == 0
    assert page.next_token is not None
    docs.end_scroll(page.next_token)
    assert [list(page.ids) for page in docs.scroll(filter={"n": 99})] == [["r99"]]


# ----------------------------------------------------------------------------------------- facets


def test_a_facet_counts_rows_by_value(surface: Any) -> None:
    metadata: list[Any] = [
        {"lang": "de", "tags": ["a", "b", "a"]},
        {"lang": "de", "tags": ["b", ["c"], {"d": 1}]},
        {"lang": "en", "tags": "a", "in": {"x": 1}},
        {"lang": None, "in": {"x": 1.0}},
        {"lang": True, "in": {"x": True}},
        {"lang": 1, "a.b": 7, "in": 3},
        None,
    ]
    docs = filled(surface, metadata)
    facet = docs.facet("lang")
    assert [tuple(each) for each in facet.values] == [
        ("de", 2), (None, 1), (True, 1), (1, 1), ("en", 1),
    ]  # fmt: skip
    assert type(facet.values[2].value) is bool
    assert (facet.distinct, facet.rows, facet.seq) == (5, 7, 1)
    assert [tuple(each) for each in docs.facet("tags").values] == [("a", 2), ("b", 2)]
    inner = docs.facet("in.x")
    assert [(each.value, type(each.value), each.rows) for each in inner.values] == [
        (1, int, 2), (True, bool, 1),
    ]  # fmt: skip
    assert [tuple(each) for each in docs.facet("a\\.b").values] == [(7, 1)]
    assert docs.facet("nothing") == vecdb.Facet([], 0, 7, 1)
    some = docs.facet("lang", {"tags": {"$exists": True}}, limit=1)
    assert some == vecdb.Facet([vecdb.FacetValue("de", 2)], 2, 3, 1)
    docs.delete(["r0"])
    assert docs.facet("lang", limit=1).values[0].rows == 1


def test_fields_have_types_and_numbers_of_values(surface: Any) -> None:
    big = 2**70
    docs = filled(
        surface,
        [
            {"a": 1, "b": {"c": [1, 1.0, "x", None]}},
            {"a": 2.5, "b": {"c": True}},
            {"a": big, "a.b": {}},
            None,
        ],
    )
    assert docs.fields() == [
        vecdb.FieldInfo("a", 3, {"integer": 2, "double": 1}, 3),
        vecdb.FieldInfo("a\\.b", 1, {"object": 1}, 0),
        vecdb.FieldInfo("b", 2, {"object": 2}, 0),
        vecdb.FieldInfo(
            "b.c",
            2,
            {"null": 1, "boolean": 1, "integer": 1, "double": 1, "string": 1, "list": 1},
            4,
        ),
    ]
    assert docs.facet("a").values[-1].value == big
    docs.delete(filter={})
    assert docs.fields() == []


def test_a_facet_agrees_with_counts_by_filter(surface: Any) -> None:
    random_ = random.Random(3)
    values = [None, True, False, 0, 1, 1.0, 0.5, "", "x", "1", ["x", 1, 1.0], [], [True, None], {}]
    docs = filled(surface, [{"f": random_.choice(values), "n": i % 2} for i in range(80)])
    docs.set_metadata(["r3", "r4"], {"f": "x"})
    for filter in (None, {"n": 1}):
        facet = docs.facet("f", filter)
        assert facet.distinct == len(facet.values)
        for value, count in facet.values:
            assert docs.count({"$and": [{"f": {"$eq": value}}, filter or {}]}) == count


# ---------------------------------------------------------------------------- where rows are held


def test_texts_of_a_facet_count_against_the_memory_of_calls(tmp_path: Path) -> None:
    texts = [{"s": f"{i}" + "x" * 60_000} for i in range(40)]
    with vecdb.open(tmp_path, call_bytes_max=2 << 20, indexer=False) as database:
        docs = filled(database, texts)
        assert refusal(docs.facet, "s") == "CALL_MEMORY"
        assert docs.facet("s", {"s": {"$prefix": "7x"}}).values[0].value == texts[7]["s"]
        # Long texts are told apart without keeping them.
        assert [each.distinct for each in docs.fields()] == [40]


def test_reads_and_writes_by_filter_do_not_depend_on_where_rows_are(database: Any) -> None:
    """In segments, in the memtable, or beyond its limit, with old versions and deleted rows."""
    docs = database.create_collection("docs", 4)
    model: dict[str, dict[str, Any]] = {}
    for part in range(3):
        names = [f"p{part}-{i}" for i in range(30)]
        docs.upsert(names, rows(30), [{"n": i, "part": part} for i in range(30)])
        model.update({name: {"n": i, "part": part} for i, name in enumerate(names)})
        docs.set_metadata(filter={"n": {"$lt": 3}}, patch={"low": True})
        docs.delete(filter={"n": 5})
        if part < 2:
            flush_now(docs)
        model = {
            name: {**entry, "low": True} if entry["n"] < 3 else entry
            for name, entry in model.items()
            if entry["n"] != 5
        }
    for filter in ({"low": True}, {"n": {"$gt": 20}}, {"part": 1}, {"$id": {"$prefix": "p2"}}, {}):
        predicate = parse_filter(filter)
        matching = sorted(name for name in model if predicate.matches(name, model[name]))
        assert docs.count(filter) == len(matching)
        assert docs.list_ids(filter=filter) == matching
        assert sorted(docs.scroll_page(filter=filter).records.ids) == matching
        assert docs.delete(filter=filter, dry_run=True).count == len(matching)
        assert docs.facet("part", filter).rows == len(matching)


def test_rows_that_no_snapshot_holds_are_read_from_the_store(tmp_path: Any) -> None:
    with vecdb.open(
        tmp_path / "data", indexer=False, recall_meter=0, fresh_bytes_max=1
    ) as database:
        docs = database.create_collection("docs", 4)
        docs.upsert([f"r{i}" for i in range(3000)], rows(3000), [{"n": i} for i in range(3000)])
        docs.set_metadata(filter={"n": {"$gte": 2990}}, patch={"late": True})
        docs.delete(["r2999"])
        assert docs.count({"late": True}) == 9
        assert docs.list_ids(filter={"late": True}) == [f"r{i}" for i in range(2990, 2999)]
        assert docs.facet("late").values == [vecdb.FacetValue(True, 9)]
        assert docs.delete(filter={"late": True}).count == 9
        assert docs.count({}) == docs.count() == 2990


# ------------------------------------------------------------------------ metadata of a collection


def test_a_collection_has_metadata_of_its_own(surface: Any) -> None:
    docs = surface.create_collection("docs", 4, metadata={"model": "minilm", "in": {"n": 1}})
    surface.create_collection("plain", 4)
    assert docs.metadata == {"model": "minilm", "in": {"n": 1}}
    other = surface.collection("docs")
    other.set_collection_metadata({"model": None, "big": 2**70})
    assert docs.metadata == {"model": None, "big": 2**70}
    surface.rename_collection("docs", "texts")
    listed = {each.name: each.metadata for each in surface.list_collections()}
    assert listed == {"plain": {}, "texts": {"model": None, "big": 2**70}}
    assert docs.metadata == listed["texts"]
    docs.set_collection_metadata(None)
    assert surface.collection("texts").metadata == {}
    assert surface.get_or_create_collection("texts", 4, metadata={"a": 1}).metadata == {}
    assert surface.get_or_create_collection("new", 4, metadata={"a": 1}).metadata == {"a": 1}
    surface.drop_collection("texts")
    assert refusal(lambda: docs.metadata) == "DROPPED"
    assert refusal(docs.set_collection_metadata, {}) == "DROPPED"


def test_collections_are_listed_with_any_metadata(surface: Any) -> None:
    """Over gRPC in pages, by number and by size; more would not fit into a message."""
    names = sorted(f"c{i}" for i in range(20))
    for name in names:
        surface.create_collection(name, 2, metadata={"a": name * 20_000})
    found = surface.list_collections()
    assert [(each.name, each.metadata["a"][:3]) for each in found] == [
        (name, (name * 3)[:3]) for name in names
    ]


def test_wrong_metadata_of_a_collection_are_refused(surface: Any) -> None:
    docs = surface.create_collection("docs", 4, metadata={"a": 1})
    deep: Any = 1
    for _ in range(9):
        deep = {"a": deep}
    for entry, reason in (
        ([1], "BAD_METADATA"),
        ("x", "BAD_METADATA"),
        ({1: 2}, "BAD_METADATA"),
        ({"a": float("nan")}, "BAD_METADATA"),
        ({"a": "x" * 70_000}, "METADATA_TOO_LARGE"),
        (deep, "METADATA_TOO_DEEP"),
    ):
        assert refusal(docs.set_collection_metadata, entry) == reason
        assert refusal(surface.create_collection, "more", 4, metadata=entry) == reason
        assert refusal(surface.get_or_create_collection, "docs", 4, metadata=entry) == reason
    assert docs.metadata == {"a": 1}
    assert [each.name for each in surface.list_collections()] == ["docs"]
