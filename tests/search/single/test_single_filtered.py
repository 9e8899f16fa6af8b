"""The short way of single queries with a filter gives what the general path gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now, recall
from vecdb.engine.search.search import SearchRequest
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import opened_of
from vecdb.errors import InvalidArgumentError
from vecdb.filters import parse_filter
from vecdb.types import Hits

ROWS, DIM, QUERIES = 4_000, 64, 6

BY_CODES: list[dict[str, Any]] = [
    {"n": {"$lt": 3_600}},
    {"n": {"$gte": 500, "$lt": 2_500}},
    {"n": {"$gt": 99, "$lte": 499}},
    {"n": {"$gte": 3_960}},
    {"n": 77},
    {"x": {"$gt": 0.25, "$lt": 0.75}},
    {"lang": "en"},
    {"lang": {"$gte": "de", "$lt": "f"}},
    {"kind": 1},
    {"$and": [{"n": {"$gte": 10}}, {"n": {"$lt": 2_000}}, {"n": {"$lt": 900}}]},
]
"""Filters of one field."""

OTHERS: list[dict[str, Any]] = [
    {"lang": {"$ne": "en"}},
    {"lang": {"$in": ["de", "fr"]}},
    {"n": {"$lt": 3_000}, "lang": "de"},
    {"tags": "b"},
    {"tags": {"$contains_all": ["a", "b"]}},
    {"rare": {"$gte": 0}},
    {"rare": {"$lt": 20}},
    {"$id": {"$prefix": "row 1"}},
    {"$or": [{"n": {"$lt": 50}}, {"kind": 0}]},
    {"author.name": {"$prefix": "x"}},
]


def drawn(count: int, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.linspace(3, 0.1, DIM, dtype=np.float32)
    return np.asarray(rng.standard_normal((count, DIM), dtype=np.float32) * spread)


def row(i: int) -> dict[str, Any]:
    rng = np.random.default_rng(i)
    found = {"n": i, "x": float(rng.random()), "lang": ("en", "de", "fr")[rng.integers(3)]}
    found |= {"kind": int(rng.integers(2)), "tags": ["a", "b", "c"][: int(rng.integers(4))]}
    if i % 40 == 0:
        found["rare"] = i // 40
    return found | {"author": {"name": "xyz"[rng.integers(3)]}}


def filled(database: Any, metric: str = "cosine") -> Any:
    docs = database.create_collection("docs", DIM, metric)
    docs.upsert_many(
        [f"row {i}" for i in range(ROWS)], drawn(ROWS, 3), [row(i) for i in range(ROWS)]
    )
    flush_now(docs)
    index_now(docs)
    return docs


@pytest.fixture(params=["cosine", "euclidean", "dot"])
def docs(request: Any, tmp_path: Path) -> Iterator[Any]:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        found = filled(database, request.param)
        general(found, drawn(1)[0], {})
        [unit] = opened_of(found).snapshots.snapshot().units
        assert unit.parts.has(SKETCH)
        yield found


def short(docs: Any, query: np.ndarray, given: Any, k: int = 10, **more: Any) -> Hits | None:
    """Return what the short way answers by itself; again if a commit in the background left it to
    the general path."""
    searcher, asked = opened_of(docs).searcher, parse_filter(given)
    with_metadata, target = more.get("with_metadata", True), more.get("target")
    wish = query, k, more.get("ef"), target, with_metadata, asked, None
    found = searcher.single_filtered.answer(*wish)
    if found is None:
        searcher.newest()
        found = searcher.single_filtered.answer(*wish)
    return found


def general(docs: Any, query: np.ndarray, given: Any, k: int = 10, **more: Any) -> Hits:
    request = SearchRequest(
        query, k, more.get("ef"), target_recall=more.get("target"), filter=parse_filter(given),
        exact=more.get("exact", False), include_metadata=more.get("with_metadata", True),
    )  # fmt: skip
    (hits,) = opened_of(docs).searcher.run_general(request, Deadline()).hits()
    return hits


def assert_same(found: Hits | None, expected: Hits) -> None:
    assert found is not None
    assert found.ids == expected.ids
    assert found.distances.tobytes() == expected.distances.tobytes()
    assert found.metadata == expected.metadata
    assert found.info._replace(visited=0, gated=0) == expected.info._replace(visited=0, gated=0)
    assert found.vectors is None


def check(docs: Any, given: dict[str, Any], k: int = 10, **more: Any) -> bool:
    """Compare both ways; return whether the short one answered."""
    found, expected, exact = [], [], []
    for query in drawn(QUERIES, k):
        hits, others = short(docs, query, given, k, **more), general(docs, query, given, k, **more)
        if hits is None:
            continue
        assert hits.info.matches == others.info.matches
        assert len(hits) == len(others)
        truth = general(docs, query, given, k, exact=True)
        if hits.ids == others.ids:
            assert_same(hits, others)
        else:  # Their efforts may differ by a step.
            every = general(docs, query, given, ROWS, exact=True)
            assert set(hits.ids) <= set(every.ids)
        found, expected, exact = [*found, hits], [*expected, others], [*exact, truth]
    if found:
        assert recall(found, exact) >= recall(expected, exact) - 0.2
    return bool(found)


def test_the_short_way_finds_what_the_general_path_finds(docs: Any) -> None:
    answered = [check(docs, given, k) for given in BY_CODES for k in (1, 10, 100)]
    assert sum(answered) >= 2 * len(BY_CODES)
    for given in OTHERS:
        check(docs, given)
        check(docs, given, 3, with_metadata=False)


def test_some_filters_of_all_kinds_are_answered_by_the_short_way(docs: Any) -> None:
    for given in ({"n": {"$lt": 3_600}}, {"n": {"$lt": 40}}, {"lang": "en"}, {"rare": {"$lt": 50}}):
        assert check(docs, given), given
    for given in ({"lang": {"$ne": "en"}}, {"tags": "b"}, {"n": {"$lt": 3_000}, "lang": "de"}):
        assert check(docs, given, ef=200), given


def test_deleted_rows_neither_match_nor_count(docs: Any) -> None:
    docs.delete([f"row {i}" for i in range(0, ROWS, 3)])
    general(docs, drawn(1)[0], {})
    for given in (*BY_CODES[:8], *OTHERS):
        check(docs, given)
    found = short(docs, drawn(1)[0], {"n": {"$lt": 30}}, 30)
    assert found is not None
    assert sorted(found.ids) == sorted(f"row {i}" for i in range(30) if i % 3)
    assert found.info.matches == len(found) == 20


def test_changed_metadata_is_seen_at_once(docs: Any) -> None:
    assert check(docs, {"n": {"$lt": 1_000}})
    moved = [f"row {i}" for i in range(1_000, 1_300)]
    docs.set_metadata(moved, {"n": 5})
    docs.set_metadata(["row 7", "row 8"], {"n": 9_999})
    for given in (*BY_CODES, *OTHERS):
        check(docs, given)
    found = docs.search(drawn(1)[0], k=2_000, filter={"n": {"$lt": 1_000}})
    assert found.info.matches == len(found) == 1_298
    few = docs.search(drawn(1)[0], k=100, filter={"n": {"$gte": 9_999}})
    assert sorted(few.ids) == ["row 7", "row 8"]


def test_new_rows_are_left_to_the_general_path(docs: Any) -> None:
    query = drawn(1)[0]
    assert short(docs, query, {"lang": "en"}) is not None
    docs.upsert(["late"], query[None], [{"lang": "en", "n": 1}])
    assert docs.search(query, filter={"lang": "en"}).ids[0] == "late"
    assert short(docs, query, {"lang": "en"}) is None


def test_recall_of_the_short_way(docs: Any) -> None:
    for given in ({"x": {"$lt": 0.9}}, {"x": {"$lt": 0.3}}, {"x": {"$lt": 0.1}}, {"lang": "en"}):
        shares = []
        for query in drawn(60, 9):
            found = short(docs, query, given)
            assert found is not None
            shares.append(recall([found], [general(docs, query, given, exact=True)]))
        assert float(np.mean(shares)) >= 0.9


def test_a_filter_far_from_the_query_is_scanned_for(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs = database.create_collection("docs", DIM, "euclidean")
        vectors = drawn(ROWS, 3)
        vectors[: ROWS // 2] += 20
        some = [{"side": int(i < ROWS // 2)} for i in range(ROWS)]
        docs.upsert_many([f"row {i}" for i in range(ROWS)], vectors, some)
        flush_now(docs)
        index_now(docs)
        for query in drawn(QUERIES):
            for given in ({"side": 1}, {"side": {"$ne": 0}}):
                hits = docs.search(query, filter=given)
                exact = docs.search(query, filter=given, exact=True)
                assert recall([hits], [exact]) >= 0.9
                assert hits.info.matches == ROWS // 2


def test_what_is_invalid_is_refused(docs: Any) -> None:
    query, given = drawn(1)[0], parse_filter({"lang": "en"})
    answer = opened_of(docs).searcher.single_filtered.answer
    for wish in ((0, None, None), (10, 0, None), (10, None, 1.5)):
        with pytest.raises(InvalidArgumentError):
            answer(query, *wish, False, given, None)
        with pytest.raises(InvalidArgumentError):
            docs.search(query, wish[0], ef=wish[1], target_recall=wish[2], filter=given)
    bad = query.copy()
    bad[3] = np.nan
    assert answer(bad, 10, None, None, False, given, None) is None
    with pytest.raises(InvalidArgumentError):
        docs.search(bad, filter=given)
