"""Searches with filters: exact in meaning, and k hits whenever k rows match."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now, recall
from tests.serving import running_server
from vecdb.types import Hits

ROWS, DIM = 1_800, 12
Row = dict[str, Any]

FILTERS: list[tuple[dict[str, Any], Callable[[str, Row], bool]]] = [
    ({}, lambda _, row: True),
    ({"n": {"$lt": 0}}, lambda _, row: False),
    ({"n": 77}, lambda _, row: row.get("n") == 77),
    ({"n": {"$gte": 400, "$lt": 900}}, lambda _, row: 400 <= row.get("n", -1) < 900),
    ({"lang": {"$in": ["de", "fr"]}}, lambda _, row: row.get("lang") in ("de", "fr")),
    ({"lang": {"$ne": "en"}}, lambda _, row: row.get("lang") != "en"),
    ({"late": True, "lang": "en"}, lambda _, row: row.get("late") is True and row["lang"] == "en"),
    ({"$id": {"$prefix": "r1"}}, lambda name, _: name.startswith("r1")),
    ({"$id": {"$in": ["r5", "r1790", "gone"]}}, lambda name, _: name in ("r5", "r1790", "gone")),
    (
        {"$or": [{"n": {"$lt": 40}}, {"lang": {"$exists": False}}]},
        lambda _, row: row.get("n", 99) < 40 or "lang" not in row,
    ),
]


class Filled:
    """A collection of two graphs, a flat segment and a memtable, with deleted rows in all of them
    and rows whose metadata changed since; and what it holds."""

    def __init__(self, docs: Any) -> None:
        rng = np.random.default_rng(11)
        self.docs, self.rng = docs, rng
        self.vectors = rng.standard_normal((ROWS, DIM), dtype=np.float32)
        self.metadata: dict[str, Row] = {}
        for first, last, state in (
            (0, 600, 2),
            (600, 1_200, 2),
            (1_200, 1_500, 1),
            (1_500, ROWS, 0),
        ):
            self._write(range(first, last))
            if state:
                flush_now(docs)
            if state == 2:
                index_now(docs, 700)
        kinds = sorted(segment.kind for segment in docs.stats().segments)
        assert kinds == ["flat", "graph", "graph"]
        gone = [f"r{i}" for i in rng.choice(ROWS, 150, replace=False)]
        docs.delete(gone)
        for name in gone:
            del self.metadata[name]
        self.change(rng.choice(ROWS, 200, replace=False))

    def _row(self, i: int) -> Row:
        return {"n": i, "lang": ("en", "de", "fr")[i % 3], "x": i / 3} if i % 10 else {"n": i}

    def _write(self, numbers: range) -> None:
        names = [f"r{i}" for i in numbers]
        some = [self._row(i) for i in numbers]
        self.docs.upsert(names, self.vectors[numbers.start : numbers.stop], some)
        self.metadata.update(zip(names, some, strict=True))

    def change(self, numbers: np.ndarray) -> None:
        """Give rows other metadata, with the same vectors."""
        kept = [i for i in numbers.tolist() if f"r{i}" in self.metadata]
        some = [{"n": i + 100, "lang": "en", "late": True} for i in kept]
        names = [f"r{i}" for i in kept]
        self.docs.upsert(names, self.vectors[kept], some)
        self.metadata.update(zip(names, some, strict=True))

    def nearest(self, query: np.ndarray, matches: Callable[[str, Row], bool], k: int) -> Any:
        """Return ids and distances of the true nearest rows, from all rows in order."""
        everything: Hits = self.docs.search(query, k=ROWS, exact=True)
        places = [i for i, name in enumerate(everything.ids) if matches(name, self.metadata[name])]
        return [everything.ids[i] for i in places[:k]], everything.distances[places[:k]]


@pytest.fixture(params=["cosine", "euclidean", "dot"])
def filled(request: Any, tmp_path: Path) -> Iterator[Filled]:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        yield Filled(database.create_collection("docs", DIM, request.param))


def check_exact(filled: Filled, filter: Any, matches: Callable[[str, Row], bool], k: int) -> None:
    query = filled.rng.standard_normal(DIM, dtype=np.float32)
    ids, distances = filled.nearest(query, matches, k)
    hits = filled.docs.search(query, k=k, filter=filter, exact=True)
    assert hits.ids == ids
    assert hits.distances.tobytes() == distances.tobytes()
    assert hits.info.exact
    assert hits.info.matches == sum(matches(*row) for row in filled.metadata.items())
    assert hits.metadata == [filled.metadata[name] for name in ids]
    near = filled.docs.search(query, k=k, filter=filter)
    assert len(near) == len(ids)
    assert all(matches(name, filled.metadata[name]) for name in near.ids)
    assert near.info.matches == hits.info.matches


def test_a_filter_is_exact_in_meaning(filled: Filled) -> None:
    for filter, matches in FILTERS:
        for k in (1, 10, 700):
            check_exact(filled, filter, matches, k)


def test_writes_are_seen_at_once(filled: Filled) -> None:
    for filter, matches in FILTERS:
        check_exact(filled, filter, matches, 10)
    live = [int(name[1:]) for name in filled.metadata]
    for _ in range(3):
        filled.change(filled.rng.choice(live, 40, replace=False))
        name = f"r{filled.rng.choice(live)}"
        filled.docs.delete([name])
        filled.metadata.pop(name, None)
        for filter, matches in FILTERS:
            check_exact(filled, filter, matches, 10)


def test_a_filter_for_each_query(filled: Filled) -> None:
    queries = filled.rng.standard_normal((2 * len(FILTERS), DIM), dtype=np.float32)
    filters = [filter for filter, _ in FILTERS] * 2
    got = filled.docs.search(queries, k=20, filter=filters, exact=True, include_vectors=True)
    for query, filter, hits in zip(queries, filters, got, strict=True):
        alone = filled.docs.search(query, k=20, filter=filter, exact=True, include_vectors=True)
        assert hits.ids == alone.ids
        assert hits.distances.tobytes() == alone.distances.tobytes()
        assert hits.metadata == alone.metadata
        assert hits.vectors.tobytes() == alone.vectors.tobytes()
        assert hits.info == alone.info
    none = filled.docs.search(queries[:1], k=20, filter=[None])
    assert none[0].info.matches == len(filled.metadata)


def test_remote_is_embedded(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        filled = Filled(database.create_collection("docs", DIM, "cosine"))
    with (
        running_server(tmp_path / "data", indexer=False) as address,
        vecdb.connect(address) as client,
    ):
        filled.docs = client.collection("docs")
        for filter, matches in FILTERS:
            check_exact(filled, filter, matches, 10)
        queries = filled.rng.standard_normal((len(FILTERS), DIM), dtype=np.float32)
        filters = [filter for filter, _ in FILTERS]
        together = filled.docs.search(queries, k=20, filter=filters)
        for query, filter, hits in zip(queries, filters, together, strict=True):
            alone = filled.docs.search(query, k=20, filter=filter)
            # Files are verified in the background, perhaps between the two.
            info = alone.info._replace(verified=hits.info.verified)
            assert (hits.ids, hits.info) == (alone.ids, info)
            assert hits.distances.tobytes() == alone.distances.tobytes()
        explained = filled.docs.search(queries[0], filter=filters[3], explain=True).info.explain
        assert {plan.way for plan in explained} <= {"rows", "matches", "none"}
        assert sum(plan.matches for plan in explained) == together[3].info.matches


def test_rows_that_are_read_from_the_store(tmp_path: Path) -> None:
    # The memtable may hold less than the rows in no segment.
    with vecdb.open(tmp_path / "data", indexer=False, fresh_bytes_max=20_000) as database:
        filled = Filled(database.create_collection("docs", DIM, "euclidean"))
        assert filled.docs.search(filled.vectors[0]).info.plan == "graph+scan"
        for filter, matches in FILTERS:
            check_exact(filled, filter, matches, 10)


def test_too_few_filters(filled: Filled) -> None:
    with pytest.raises(vecdb.InvalidArgumentError, match="one filter for each of 2 queries") as got:
        filled.docs.search(np.ones((2, DIM)), filter=[{}])
    assert got.value.reason == "BAD_FILTER"


RATES = (0.9, 0.5, 0.2, 0.1, 0.05, 0.01, 0.001)


def clustered(count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows that lie around some centres, as real ones do."""
    centres = rng.standard_normal((40, dim), dtype=np.float32)
    spread = rng.standard_normal((count, dim), dtype=np.float32)
    return np.asarray(centres[rng.integers(0, 40, count)] + spread * np.float32(0.7))


@pytest.fixture(scope="module", params=["cosine", "euclidean", "dot"])
def large(request: Any, tmp_path_factory: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """A graph with sketches, codes and a curve; one of float rows; and rows in the memtable.

    ``u`` is uniform and independent of the vectors, ``s`` is uniform, by the direction in which a
    row lies.
    """
    rng = np.random.default_rng(3)
    rows, dim = 12_000, 56
    vectors = clustered(rows + 60, dim, rng)
    direction = rng.standard_normal(dim, dtype=np.float32)
    along = (vectors[:rows] @ direction).argsort().argsort() / rows
    metadata = [
        {"u": u, "s": s} for u, s in zip(rng.random(rows).tolist(), along.tolist(), strict=True)
    ]
    names = [f"r{i}" for i in range(rows)]
    with vecdb.open(tmp_path_factory.mktemp("large") / "data", indexer=False) as database:
        docs = database.create_collection("docs", dim, request.param)
        for first, last in ((0, 10_000), (10_000, 11_500), (11_500, rows)):
            for start in range(first, last, 1_000):
                some = slice(start, min(last, start + 1_000))
                docs.upsert(names[some], vectors[some], metadata[some])
            if last < rows:
                flush_now(docs)
                index_now(docs, 10_500)
        assert [segment.kind for segment in docs.stats().segments] == ["graph", "graph"]
        docs.delete(names[::9])
        yield docs, vectors[rows:]


@pytest.mark.parametrize("kind", ["u", "s"])
def test_recall_is_that_of_an_unfiltered_search(large: tuple[Any, np.ndarray], kind: str) -> None:
    docs, queries = large
    for rate in RATES:
        for filter in ({kind: {"$lt": rate}}, {kind: {"$gte": 1 - rate}}):
            found = docs.search(queries, k=10, filter=filter)
            exact = docs.search(queries, k=10, filter=filter, exact=True)
            assert [len(hits) for hits in found] == [len(hits) for hits in exact]
            assert len(exact[0]) == min(10, exact[0].info.matches)
            share = recall(found, exact)
            assert share >= 0.95, (rate, filter, share, found[0].info)


def test_explain_says_how_each_segment_was_searched(large: tuple[Any, np.ndarray]) -> None:
    docs, queries = large
    ways = {}
    for rate in (0.95, 0.02):
        hits = docs.search(queries[0], filter={"u": {"$lt": rate}}, explain=True)
        plans = hits.info.explain
        assert [plan.segment is None for plan in plans] == [False, False, True]
        assert [plan.rows for plan in plans] == [10_000, 1_500, 500]
        assert sum(plan.matches for plan in plans) == hits.info.matches
        for plan in plans:
            taken = plan.costs_us[plan.way]
            assert all(taken <= cost for cost in plan.costs_us.values())
        ways[rate] = plans[0].way
        assert (hits.info.gated > 0) == (plans[0].way == "graph")
    # Under dot a walk keeps so many candidates that scanning 10,000 rows costs less.
    assert ways == {0.95: "rows" if docs.metric.value == "dot" else "graph", 0.02: "sketches"}
    exact = docs.search(queries[0], filter={"u": {"$lt": 0.02}}, exact=True, explain=True).info
    assert {plan.way for plan in exact.explain} <= {"matches", "rows"}
    assert exact.recall is not None and exact.recall.expected == 1
    assert docs.search(queries[0], filter={"u": 2}).info.explain == ()
    nothing = docs.search(queries[0], filter={"u": 2}, explain=True).info.explain
    assert [(plan.way, plan.rows, plan.matches, plan.costs_us) for plan in nothing] == [
        ("none", rows, 0, {}) for rows in (10_000, 1_500, 500)
    ]
    plain = docs.search(queries[0], explain=True).info.explain
    assert [(plan.way, plan.costs_us) for plan in plain] == [
        ("graph", {}),
        ("graph", {}),
        ("rows", {}),
    ]


def test_ranges_of_one_field_together(large: tuple[Any, np.ndarray]) -> None:
    docs, queries = large

    def matching(condition: dict[str, Any]) -> int:
        return int(docs.search(queries[0], k=1, filter={"u": condition}).info.matches)

    below = {bound: matching({"$lt": bound}) for bound in (0.2, 0.21, 0.7)}
    assert matching({"$gte": 0.2, "$lt": 0.21}) == below[0.21] - below[0.2] > 0
    assert matching({"$gte": 0.2, "$lt": 0.7}) == below[0.7] - below[0.2] > 0
    assert matching({"$gte": 0.7, "$lt": 0.2}) == 0
    assert matching({"$lt": 0.7, "$ne": 2, "$lte": 0.2}) == below[0.2]


def test_no_queries_have_no_hits(surface: Any) -> None:
    docs = surface.create_collection("docs", 2, metric="euclidean")
    docs.upsert(["a"], [[1, 1]], [{"t": "x"}])
    nothing = np.zeros((0, 2), np.float32)
    for options in ({}, {"exact": True}, {"max_distance": 1.0}, {"group_by": "t"}):
        for wanted in (None, {"t": "x"}, {"t": "no"}):
            assert docs.search(nothing, k=3, filter=wanted, **options) == []
