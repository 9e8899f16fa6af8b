"""Recall has a floor in every metric and in every shape that a collection takes: several segments,
half of the rows in none, many identical vectors, and after all rows were replaced again and again.

Recall counts by distance, so that it does not matter which of several equal rows are found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model, index_now, recall, seal_now

FLOOR = 0.95
FOUND_BY_ITSELF = 0.98
REBUILT_MAX = 0.01
"""What ten replacements may cost, beside a collection that never held anything else."""

DIM = 50
QUERIES = 200
METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])


def cap_of(rows: int) -> int:
    """segment_bytes_max for graphs of about so many rows."""
    return rows * (4 * 64 + 8 * 16 + 32)


def names_of(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def measured(words: Any, queries: np.ndarray, k: int = 10, ef: int = 128) -> float:
    return recall(words.search(queries, k=k, ef=ef), words.search(queries, k=k, exact=True))


def check_answers(words: Any, model: Model, queries: np.ndarray, k: int) -> None:
    """Approximate answers are whole and true, exact ones the nearest; see ``Model.check_hits``."""
    for exact in (False, True):
        for hits, query in zip(words.search(queries, k=k, exact=exact), queries, strict=True):
            model.check_hits(hits, query, k, exact=exact)


@METRICS
def test_several_segments_and_half_of_the_rows_fresh(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    base, queries = glove[:12_000], glove[50_000 : 50_000 + QUERIES]
    names, half = names_of(len(base)), len(base) // 2
    with vecdb.open(tmp_path / "data", indexer=False, segment_bytes_max=cap_of(2_000)) as database:
        words = database.create_collection("words", DIM, metric)
        for start in range(0, half, 1_000):
            words.upsert(names[start : start + 1_000], base[start : start + 1_000])
            seal_now(words)
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
def test_many_identical_vectors(tmp_path: Path, glove: np.ndarray, metric: str) -> None:
    """A third of the rows is one vector, another third fifty. They and those that stand alone are
    found by themselves; for others the equal rows take places among the candidates of a walk, so
    that 100 neighbours take twice the effort."""
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
        seal_now(words)
        index_now(words)
        assert [s.kind for s in words.stats().segments] == ["graph"]
        for k in (1, 10, 100):
            assert measured(words, equal, k) >= FOUND_BY_ITSELF
            assert measured(words, alone[:QUERIES], k) >= FOUND_BY_ITSELF
        assert measured(words, strangers, 10) >= FLOOR
        assert measured(words, strangers, 100, ef=256) >= FLOOR
        check_answers(words, model, near[::25], 2_500)
        check_answers(words, model, near[::10], 30)
        # Most of the equal ones die, and the rest of them come.
        one = [n for n in names if (vectors[int(n)] == glove[70_000]).all()]
        words.delete(one[5:])
        model.delete(one[5:])
        check_answers(words, model, near[::25], 30)
        if metric != "dot":
            assert set(words.search(glove[70_000], k=5).ids) == set(one[:5])


@METRICS
def test_ten_replacements_of_all_rows(tmp_path: Path, glove: np.ndarray, metric: str) -> None:
    """Graphs are extended, thinned and merged all the while; what is left is as good as new."""
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
                    seal_now(words)
                    index_now(words)
            if turn == 5:
                assert measured(words, queries) >= FLOOR  # In the middle of it.
    model.upsert(names, vectors, None)
    with vecdb.open(tmp_path / "data") as database:
        words = database.collection("words")
        fresh = database.create_collection("fresh", DIM, metric)
        fresh.upsert_many(names, vectors)
        for each in (fresh, words):
            stats = each.optimize(timeout_s=120)
            assert (stats.live_count, stats.unindexed_rows) == (count, 0)
        found = measured(words, queries)
        assert found >= FLOOR
        assert found >= measured(fresh, queries) - REBUILT_MAX
        check_answers(words, model, queries[:10], 20)
