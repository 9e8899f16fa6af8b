"""Recall of searches with filters for queries that are far from all rows that match.

The condition selects rows by the direction in which they lie, and queries lie at its other end. So
a walk begins among rows that do not match, and the nearest that match are farther away than any
rows that its effort was measured with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import distances, flush_now, index_now
from tests.places import override

ROWS, QUERIES = 100_000, 60
RATES = (0.5, 0.1, 0.01)


class Filled:
    """A collection of word vectors in one graph.

    Attributes:
        along: float64 (ROWS,), the rank of each row in a direction, 0 to 1; metadata ``along``.
        far: the queries that lie farthest back in it. spread: others, by their ranks.
    """

    def __init__(self, folder: Path, metric: str, words: np.ndarray) -> None:
        rng = np.random.default_rng(17)
        chosen = rng.permutation(len(words))[: ROWS + 20 * QUERIES]
        self.metric, self.rows = metric, words[chosen[:ROWS]]
        direction = np.linalg.svd(self.rows[:5_000], full_matrices=False)[2][0]
        unit = self.rows / np.linalg.norm(self.rows, axis=1, keepdims=True)
        self.along = (unit @ direction).argsort().argsort() / ROWS
        others = words[chosen[ROWS:]]
        others = others[(others @ direction / np.linalg.norm(others, axis=1)).argsort()]
        self.far, self.spread = others[:QUERIES], others[:: len(others) // QUERIES][:QUERIES]
        self.database = vecdb.open(folder, indexer=False, recall_meter=0)
        self.docs: Any = self.database.create_collection("docs", words.shape[1], metric)
        entries = [{"along": each} for each in self.along.tolist()]
        self.docs.upsert_many(range(ROWS), self.rows, entries, batch_rows=10_000)
        flush_now(self.docs)
        index_now(self.docs, 2 * ROWS)

    def recall(self, queries: np.ndarray, rate: float, k: int) -> tuple[float, set[str]]:
        """The recall of queries with a filter that this share of the rows fulfils, and the ways
        that were taken."""
        matching = np.flatnonzero(self.along >= 1 - rate)
        filter = {"along": {"$gte": 1 - rate}}
        found = self.docs.search(queries, k=k, filter=filter, explain=True)
        shares, ways = [], set()
        for query, hits in zip(queries, found, strict=True):
            assert len(hits) == k and hits.info.matches == len(matching)
            ways |= {plan.way for plan in hits.info.explain if plan.matches}
            exact = distances(self.metric, query, self.rows[matching])
            bound = np.partition(exact, k - 1)[k - 1]
            got = distances(self.metric, query, self.rows[[int(id) for id in hits.ids]])
            shares.append(np.count_nonzero(got <= bound + 1e-6 * abs(bound)) / k)
        return float(np.mean(shares)), ways


@pytest.fixture(scope="module", params=["cosine", "euclidean"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, glove: np.ndarray
) -> Iterator[Filled]:
    filled = Filled(tmp_path_factory.mktemp("far") / "data", request.param, glove)
    yield filled
    filled.database.close()


@pytest.mark.slow
@pytest.mark.parametrize("walks", [False, True])
def test_recall_far_from_all_matches(
    filled: Filled, walks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [segment.kind for segment in filled.docs.stats().segments] == ["graph"]
    if walks:
        override(monkeypatch, "sure_of_walk", math.inf)
    # Ways are kept by k; with the other one they are planned again.
    k, seen = 10 + walks, set()
    for queries in (filled.far, filled.spread):
        for rate in RATES:
            share, ways = filled.recall(queries, rate, k)
            assert share >= 0.95, (rate, ways)
            seen |= ways
    assert ("graph" in seen) >= walks
