"""Searches by example and within a distance, embedded and remote, against numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import distances, flush_now, index_now
from tests.serving import running_server
from vecdb.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
)
from vecdb.reasons import Reason

DIM, ROWS = 40, 1_400
METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])


def drawn(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.linspace(3, 0.1, DIM, dtype=np.float32)
    return np.asarray(rng.standard_normal((count, DIM), dtype=np.float32) * spread)


class Stored:
    """Rows in a graph, a flat segment and the memtable, some deleted and some replaced."""

    def __init__(self, embedded: Any, collection: Any, metric: str) -> None:
        self.docs, self.metric = collection, metric
        vectors = drawn(ROWS, 3)
        self.rows = {f"row {i}": vectors[i] for i in range(ROWS)}
        names = list(self.rows)
        embedded.upsert(names[:1_000], vectors[:1_000])
        flush_now(embedded)
        index_now(embedded)
        embedded.upsert(names[1_000:1_300], vectors[1_000:1_300])
        flush_now(embedded)
        embedded.upsert(names[1_300:], vectors[1_300:])
        self.delete(embedded, names[::9])
        again = names[1::50]
        self.write(embedded, again, drawn(len(again), 4))

    def delete(self, collection: Any, names: list[str]) -> None:
        collection.delete(names)
        for name in names:
            self.rows.pop(name, None)

    def write(self, collection: Any, names: list[str], vectors: np.ndarray) -> None:
        collection.upsert(names, vectors)
        for name, vector in zip(names, vectors, strict=True):
            self.rows.pop(name, None)
            self.rows[name] = vector

    def nearest(
        self, query: np.ndarray, without: set[str] | None = None
    ) -> list[tuple[float, str]]:
        """All rows by distance."""
        names = [name for name in self.rows if name not in (without or set())]
        found = distances(self.metric, query, np.stack([self.rows[name] for name in names]))
        return sorted(zip(found.tolist(), names, strict=True))

    def mean_of(self, near: list[str], away: list[str]) -> np.ndarray:
        def mean(names: list[str]) -> np.ndarray:
            vectors = np.stack([self.rows[name] for name in names]).astype(np.float64)
            if self.metric == "cosine":
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            return np.asarray(vectors.mean(axis=0))

        return 2 * mean(near) - mean(away) if away else mean(near)


@pytest.fixture(params=["embedded", "remote"])
def stored_in(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Stored]]:
    """Return ``Stored`` with the collection of an embedded database, or of a client."""
    options = {"indexer": False, "recall_meter": 0, "indexer_outlives_parent": False}
    with vecdb.open(tmp_path / "data", **options) as database:
        if request.param == "embedded":
            yield lambda metric: Stored(
                docs := database.create_collection("docs", DIM, metric), docs, metric
            )
            return
        with (
            running_server(tmp_path / "data", **options) as address,
            vecdb.connect(address) as client,
        ):

            def build(metric: str) -> Stored:
                docs = database.create_collection("docs", DIM, metric)
                return Stored(docs, client.collection("docs"), metric)

            yield build


def assert_nearest(hits: Any, expected: list[tuple[float, str]]) -> None:
    np.testing.assert_allclose(hits.distances, [d for d, _ in expected], rtol=1e-4, atol=1e-4)
    assert set(hits.ids) == {name for _, name in expected}


@METRICS
def test_queries_by_example_and_within_a_distance_equal_numpy(
    stored_in: Callable[[str], Stored], metric: str
) -> None:
    stored = stored_in(metric)
    docs, names = stored.docs, list(stored.rows)
    for near, away in [
        (names[5:6], []),
        (names[5:6] * 2 + names[800:801], []),
        ([names[3], names[1_100], names[-1]], [names[40], names[900]]),
    ]:
        expected = stored.nearest(stored.mean_of(near, away), {*near, *away})
        hits = docs.search(near=near, away=away or None, k=20, exact=True)
        assert_nearest(hits, expected[:20])
        assert hits.info.exact
        assert hits.info.matches == len(stored.rows) - len({*near, *away})
        walked = docs.search(near=near, away=away or None, k=20, target_recall=0.99)
        assert len(walked) == 20
        assert not {*near, *away} & {*walked.ids}
        within = docs.search(
            near=near, away=away or None, k=None, max_distance=expected[30][0] + 1e-5, exact=True
        )
        assert_nearest(within, expected[:31])

    queries = drawn(3, 8)
    truths = [stored.nearest(query) for query in queries]
    bound = (truths[0][400][0] + truths[0][401][0]) / 2
    counts = [sum(distance <= bound for distance, _ in truth) for truth in truths]
    for exact in (True, False):
        found = docs.search(queries, k=None, max_distance=bound, exact=exact)
        first = docs.search(queries, k=25, max_distance=bound, exact=exact, target_recall=0.99)
        for hits, some, truth, count in zip(found, first, truths, counts, strict=True):
            if exact:
                assert_nearest(hits, truth[:count])
                assert_nearest(some, truth[: min(25, count)])
            assert (hits.distances <= bound).all()
            assert (np.diff(hits.distances) >= 0).all()
            assert len(set(hits.ids)) == len(hits) >= 0.9 * count
            assert len(some) <= 25


@METRICS
def test_a_bound_includes_the_row_that_is_exactly_there(
    stored_in: Callable[[str], Stored], metric: str
) -> None:
    stored = stored_in(metric)
    query = drawn(1, 8)[0]
    stored.write(stored.docs, ["copy 1", "copy 2"], np.stack([stored.rows["row 5"]] * 2))
    all_hits = stored.docs.search(query, k=2_000, exact=True)
    assert len(all_hits) == len(stored.rows)
    at = all_hits.ids.index("row 5")
    bound = float(all_hits.distances[at])
    copies = {"row 5", "copy 1", "copy 2"}
    for k in (None, 1_900):
        hits = stored.docs.search(query, k, max_distance=bound, exact=True)
        assert copies < set(hits.ids)
        assert hits.ids == all_hits.ids[: len(hits)]
        less = float(np.nextafter(all_hits.distances[at], np.float32(-np.inf)))
        assert not copies & set(stored.docs.search(query, k, max_distance=less, exact=True).ids)
    least = float(all_hits.distances[0]) - 1
    if metric == "dot":
        assert len(stored.docs.search(query, None, max_distance=least)) == 0
        assert stored.docs.search(query, None, max_distance=1e30).ids == all_hits.ids


def test_examples_may_be_all_rows_or_gone_or_unknown(
    stored_in: Callable[[str], Stored],
) -> None:
    stored = stored_in("euclidean")
    docs = stored.docs
    few = list(stored.rows)[:4]
    stored.delete(docs, list(stored.rows)[4:])
    hits = docs.search(near=few[:2], away=few[2:], k=10)
    assert hits.ids == []
    assert hits.info.matches == 0
    assert docs.search(near=few[:1], k=10).ids
    stored.delete(docs, few[1:2])
    with pytest.raises(NotFoundError, match=f"{few[1]}.*unheard-of") as caught:
        docs.search(near=[*few[:2], "unheard-of"])
    assert caught.value.reason == Reason.NO_SUCH_ID
    with pytest.raises(NotFoundError, match="unheard-of"):
        docs.search(near=few[:1], away=["unheard-of"])
    docs.delete(list(stored.rows))
    assert docs.search(drawn(2, 1), None, max_distance=3.0)[1].ids == []


def test_examples_that_cancel_out_are_refused(surface: Any) -> None:
    docs = surface.create_collection("docs", 2, "cosine")
    docs.upsert(["a", "b", "c"], [[1, 0], [-1, 0], [0, 2]])
    with pytest.raises(InvalidArgumentError, match="cancel out") as caught:
        docs.search(near=["a", "b"])
    assert caught.value.reason == Reason.ZERO_VECTOR
    assert docs.search(near=["a", "c"], away=["b"], k=5).ids == []
    # Integers name rows as everywhere.
    docs.upsert([7], [[1, 1]])
    assert docs.search(near=[7], k=1).ids[0] in ("a", "c")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, Reason.BAD_QUERY),
        ({"query": [1, 0], "near": ["a"]}, Reason.BAD_QUERY),
        ({"query": [1, 0], "away": ["a"]}, Reason.BAD_QUERY),
        ({"near": []}, Reason.BAD_QUERY),
        ({"near": "a"}, Reason.NOT_A_LIST),
        ({"near": [""]}, Reason.BAD_ID),
        ({"near": ["a"], "away": ["a"] * 1_000}, Reason.OUT_OF_RANGE),
        ({"query": [1, 0], "k": None}, Reason.BAD_QUERY),
        ({"query": [1, 0], "k": 0, "max_distance": 1}, Reason.OUT_OF_RANGE),
        ({"query": [1, 0], "max_distance": float("nan")}, Reason.NOT_FINITE),
        ({"query": [1, 0], "max_distance": float("inf")}, Reason.NOT_FINITE),
        ({"query": [1, 0], "max_distance": 10**400}, Reason.NOT_FINITE),
        ({"query": [1, 0], "max_distance": -0.1}, Reason.OUT_OF_RANGE),
        ({"query": [1, 0], "max_distance": "1"}, Reason.OUT_OF_RANGE),
        ({"query": [1, 0], "max_distance": True}, Reason.OUT_OF_RANGE),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    surface: Any, arguments: dict[str, Any], reason: Reason
) -> None:
    docs = surface.create_collection("docs", 2, "euclidean")
    docs.upsert(["a"], [[1, 0]])
    with pytest.raises(InvalidArgumentError) as caught:
        docs.search(**arguments)
    assert caught.value.reason == reason


def test_many_queries_are_searched_in_parts(database: Any) -> None:
    docs = database.create_collection("docs", 2, "euclidean")
    vectors = np.stack([np.arange(3_000), np.zeros(3_000)], axis=1).astype(np.float32)
    docs.upsert_many([str(i) for i in range(3_000)], vectors)
    queries = vectors[::30]
    bounds = 700.0  # More than the first round finds.
    found = docs.search(queries, k=None, max_distance=bounds)
    for query, hits in zip(queries[:, 0], found, strict=True):
        low, high = max(0, query - bounds), min(2_999, query + bounds)
        assert sorted(map(int, hits.ids)) == list(range(int(low), int(high) + 1))


def test_a_deadline_ends_the_rounds(database: Any) -> None:
    docs = database.create_collection("docs", DIM, "euclidean")
    docs.upsert_many([str(i) for i in range(ROWS)], drawn(ROWS, 3))
    with pytest.raises(DeadlineExceededError):
        docs.search(drawn(500, 4), k=None, max_distance=1e6, timeout_s=1e-4)
