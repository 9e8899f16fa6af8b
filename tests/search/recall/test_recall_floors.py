"""Recall has a floor in every metric and in every state of a collection.

The states: several segments, half of the rows in the memtable, many identical vectors, repeated
replacement of all rows, inner products of many distributions, and rows in orders or shapes that are
hard for graphs. Recall counts by distance, so it does not matter which of equal rows are found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model, flush_now, index_now, recall
from tests.waiting import HANG_S

FLOOR = 0.95
FOUND_BY_ITSELF = 0.98
REBUILT_MAX = 0.01
"""Recall that ten replacements may cost, compared with a newly loaded collection."""

DIM = 50
QUERIES = 200
METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
SAMPLED_METRICS = pytest.mark.parametrize(
    "metric",
    ["euclidean", *(pytest.param(metric, marks=pytest.mark.slow) for metric in ("cosine", "dot"))],
)
"""Of the fast tier, one is enough where the metric decides little."""


def cap_of(rows: int) -> int:
    """Return segment_bytes_max for graphs of about this many rows."""
    return rows * (4 * 64 + 8 * 16 + 32)


def names_of(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def measured(words: Any, queries: np.ndarray, k: int = 10, ef: int = 128) -> float:
    return recall(words.search(queries, k=k, ef=ef), words.search(queries, k=k, exact=True))


def check_answers(words: Any, model: Model, queries: np.ndarray, k: int) -> None:
    """Check that approximate hits are complete and correct, and exact ones the nearest; see
    ``Model.check_hits``."""
    for exact in (False, True):
        for hits, query in zip(words.search(queries, k=k, exact=exact), queries, strict=True):
            model.check_hits(hits, query, k, exact=exact)


@METRICS
def test_recall_with_half_of_the_rows_in_the_memtable_has_a_floor(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    base, queries = glove[:12_000], glove[50_000 : 50_000 + QUERIES]
    names, half = names_of(len(base)), len(base) // 2
    with vecdb.open(tmp_path / "data", indexer=False, segment_bytes_max=cap_of(2_000)) as database:
        words = database.create_collection("words", DIM, metric)
        for start in range(0, half, 1_000):
            words.upsert(names[start : start + 1_000], base[start : start + 1_000])
            flush_now(words)
        index_now(words, 2_000)
        words.upsert_many(names[half:], base[half:])
        stats = words.stats()
        assert stats.fresh_rows == half and len(stats.segments) >= 3
        assert {s.kind for s in stats.segments} == {"graph"}
        assert measured(words, queries) >= FLOOR
        model = Model(DIM, metric)
        model.upsert(names, base, None)
        check_answers(words, model, queries[:10], 20)


@METRICS
def test_recall_with_many_identical_vectors_has_a_floor(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    """A third of the rows has one vector, another third has fifty. Each row is found by its own
    vector; for other queries the duplicates fill part of a walk's candidates, so that 100
    neighbours need twice the ef."""
    third = 2_000
    count, rng = 3 * third, np.random.default_rng(2)
    vectors = glove[:count].copy()
    vectors[:third] = glove[70_000]
    vectors[third : 2 * third] = glove[70_001 + rng.integers(0, 50, third)]
    alone, equal = vectors[2 * third :], glove[70_000:70_051]
    strangers = glove[50_000 : 50_000 + QUERIES]
    vectors = vectors[rng.permutation(count)]
    names = names_of(count)
    near = np.concatenate([equal, strangers])
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        words = database.create_collection("words", DIM, metric)
        model = Model(DIM, metric)
        words.upsert_many(names, vectors)
        model.upsert(names, vectors, None)
        flush_now(words)
        index_now(words)
        assert [s.kind for s in words.stats().segments] == ["graph"]
        for k in (1, 10, 100):
            assert measured(words, equal, k) >= FOUND_BY_ITSELF
            assert measured(words, alone[:QUERIES], k) >= FOUND_BY_ITSELF
        assert measured(words, strangers, 10) >= FLOOR
        assert measured(words, strangers, 100, ef=256) >= FLOOR
        check_answers(words, model, near[::25], 2_500)
        check_answers(words, model, near[::10], 30)
        # Most of the duplicates are deleted; the rest are returned.
        one = [n for n in names if (vectors[int(n)] == glove[70_000]).all()]
        words.delete(one[5:])
        model.delete(one[5:])
        check_answers(words, model, near[::25], 30)
        if metric != "dot":
            assert set(words.search(glove[70_000], k=5).ids) == set(one[:5])


@pytest.mark.slow
@METRICS
def test_recall_after_ten_replacements_equals_that_of_a_new_load(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    """Graphs are extended, rewritten and merged all the time; recall stays that of a new load."""
    count = 4_000
    names = names_of(count)
    queries = glove[50_000 : 50_000 + QUERIES]
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        words = database.create_collection("words", DIM, metric)
        model = Model(DIM, metric)
        for turn in range(11):
            vectors = glove[60_000 + turn * count : 60_000 + (turn + 1) * count]
            for part in range(0, count, 1_000):
                chosen = slice(part, part + 1_000)
                words.upsert(names[chosen], vectors[chosen])
                if part == 2_000:
                    flush_now(words)
                    index_now(words)
            if turn == 5:
                assert measured(words, queries) >= FLOOR  # In the middle of it.
    model.upsert(names, vectors, None)
    with vecdb.open(tmp_path / "data") as database:
        words = database.collection("words")
        fresh = database.create_collection("fresh", DIM, metric)
        fresh.upsert_many(names, vectors)
        for each in (fresh, words):
            stats = each.optimize(timeout_s=HANG_S)
            assert (stats.live_count, stats.unindexed_rows) == (count, 0)
        found = measured(words, queries)
        assert found >= FLOOR
        assert found >= measured(fresh, queries) - REBUILT_MAX
        check_answers(words, model, queries[:10], 20)


def double_scores(metric: str, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return scores, float64 (q, n), smaller for nearer rows."""
    wide, near = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    if metric == "euclidean":
        return np.stack([np.square(wide - query).sum(axis=1) for query in near])
    return np.asarray(-(near @ wide.T))


def loaded(folder: Path, metric: str, *parts: np.ndarray, M: int = 16) -> Any:
    """Return a collection of one graph, built from the first part and extended by the others."""
    database = vecdb.open(folder / "data", indexer=False)
    words = database.create_collection("words", parts[0].shape[1], metric, M=M)
    first = 0
    for part in parts:
        words.upsert_many([str(first + i) for i in range(len(part))], part)
        first += len(part)
        flush_now(words)
        index_now(words)
    assert [s.kind for s in words.stats().segments] == ["graph"]
    return database, words


def share_found(words: Any, scores: np.ndarray, queries: np.ndarray, k: int) -> float:
    """Return recall at the default ef against double precision. Rows as near as the k-th count,
    to the precision of float32."""
    shares = []
    for hits, score in zip(words.search(queries, k=k), scores, strict=True):
        last = np.partition(score, k - 1)[k - 1]
        found = score[[int(i) for i in hits.ids]]
        shares.append(np.count_nonzero(found <= last + 1e-6 * abs(last)) / k)
    return float(np.mean(shares))


def lengths_of(sigma: float) -> Any:
    def make(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
        rows = random.standard_normal((count, dim))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows * np.exp(sigma * random.standard_normal((count, 1)))

    return make


def with_bias(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Return items whose last component is a bias; queries have 1 there."""
    rows = random.standard_normal((count, dim))
    rows[:, -1] *= 3
    return rows


def with_a_large_constant(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = random.standard_normal((count, dim))
    rows[:, 0] = 1e6
    return rows


INNER_PRODUCTS: dict[str, Any] = {
    "normal": lambda random, count, dim: random.standard_normal((count, dim)),
    "positive": lambda random, count, dim: np.abs(random.standard_normal((count, dim))) + 0.5,
    "lengths_0.1": lengths_of(0.1),
    "lengths_0.5": lengths_of(0.5),
    "lengths_1.5": lengths_of(1.5),
    "bias": with_bias,
    "short": lambda *shape: 2e-4 * lengths_of(0)(*shape),
    "large_constant": with_a_large_constant,
}


@pytest.mark.parametrize("count", [3_000, pytest.param(8_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", INNER_PRODUCTS)
def test_dot_recall_has_a_floor_for_every_distribution(
    name: str, count: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(5)
    rows = INNER_PRODUCTS[name](random, count, 64).astype(np.float32)
    queries = INNER_PRODUCTS[name](random, 100, 64).astype(np.float32)
    if name == "bias":
        queries[:, -1] = 1
    if name == "large_constant":
        queries[:, 0] = 0
    database, words = loaded(tmp_path, "dot", rows)
    with database:
        scores = double_scores("dot", queries, rows)
        assert share_found(words, scores, queries, 10) >= FLOOR
        assert share_found(words, scores, queries, 100) >= FLOOR
        few, some = scores[:10], queries[:10]
        assert share_found(words, few, some, 1_000) >= FLOOR


def test_dot_recall_with_ever_longer_rows_has_a_floor(tmp_path: Path) -> None:
    """Each part has longer rows than all before, the last one beyond the scale."""
    random = np.random.default_rng(6)
    parts = [
        (scale * random.standard_normal((1_000, 32))).astype(np.float32)
        for scale in (1e-9, 1e-3, 1, 3, 1e4, 1e9)
    ]
    rows = np.concatenate(parts)
    queries = random.standard_normal((50, 32)).astype(np.float32)
    database, words = loaded(tmp_path, "dot", *parts)
    with database:
        scores = double_scores("dot", queries, rows)
        for k in (10, 100, 500):
            assert share_found(words, scores, queries, k) >= FLOOR


def test_outliers_inserted_first_are_found(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    outliers = 10 * random.standard_normal((200, 32))
    rows = np.concatenate([outliers, 1 + 1e-3 * random.standard_normal((5_000, 32))])
    database, words = loaded(tmp_path, "euclidean", rows.astype(np.float32))
    with database:
        found = [hits.ids[0] for hits in words.search(outliers.astype(np.float32), k=1)]
        assert np.mean([name == str(i) for i, name in enumerate(found)]) >= 0.9


def test_outliers_in_an_extended_graph_are_found(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    outliers = (10 * random.standard_normal((200, 32))).astype(np.float32)
    near = (1 + 1e-3 * random.standard_normal((5_000, 32))).astype(np.float32)
    database, words = loaded(tmp_path, "euclidean", outliers, near)
    with database:
        found = [hits.ids[0] for hits in words.search(outliers, k=1)]
        assert np.mean([name == str(i) for i, name in enumerate(found)]) >= 0.9


def test_cosine_recall_with_a_large_constant_component_has_a_floor(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    rows = with_a_large_constant(random, 3_000, 32).astype(np.float32)
    queries = random.standard_normal((50, 32)).astype(np.float32)
    queries[:, 0] = 0
    database, words = loaded(tmp_path, "cosine", rows)
    with database:
        scores = double_scores("cosine", queries, rows)
        for k in (10, 100):
            assert share_found(words, scores, queries, k) >= 0.9


@SAMPLED_METRICS
@pytest.mark.parametrize("shape", ["groups of 80", "one-hot"])
def test_duplicates_do_not_hide_other_rows(shape: str, metric: str, tmp_path: Path) -> None:
    """Queries differ from the duplicated vectors; one-hot ones are all equally far apart."""
    random = np.random.default_rng(12)
    if shape == "one-hot":
        rows = np.eye(256, dtype=np.float32)[random.integers(0, 256, 5_000)]
    else:
        rows = np.repeat(random.standard_normal((40, 32)), 80, axis=0).astype(np.float32)
    queries = random.standard_normal((50, rows.shape[1])).astype(np.float32)
    database, words = loaded(tmp_path, metric, rows)
    with database:
        scores = double_scores(metric, queries, rows)
        for k in (1, 10, 100):
            assert share_found(words, scores, queries, k) >= FLOOR


def near_duplicates(random: np.random.Generator) -> np.ndarray:
    centres = random.standard_normal((60, 32))
    return np.repeat(centres, 50, axis=0) + 1e-3 * random.standard_normal((3_000, 32))


def one_hot(random: np.random.Generator) -> np.ndarray:
    return np.eye(256)[random.integers(0, 256, 3_000)]


def heavy_outliers(random: np.random.Generator) -> np.ndarray:
    return np.asarray(random.standard_cauchy((3_000, 32)))


SHAPES: dict[str, Any] = {
    "near_duplicates": near_duplicates,
    "one_hot": one_hot,
    "copies": lambda random: np.repeat(random.standard_normal((40, 32)), 80, axis=0),
    "low_dimension": lambda random: random.standard_normal((3_000, 2)),
    "heavy_outliers": heavy_outliers,
}


@SAMPLED_METRICS
@pytest.mark.parametrize("shape", SHAPES)
def test_recall_with_awkward_shapes_has_a_floor(shape: str, metric: str, tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    rows = SHAPES[shape](random).astype(np.float32)
    queries = rows[random.permutation(len(rows))[:100]]
    database, words = loaded(tmp_path, metric, rows)
    with database:
        scores = double_scores(metric, queries, rows)
        for k in (1, 10, 100):
            assert share_found(words, scores, queries, k) >= FLOOR, k
