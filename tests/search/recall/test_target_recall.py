"""Recall is a contract: what is asked for is reached, and the answer says what to expect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now, recall
from vecdb.engine.segments.recall_part import RECALL
from vecdb.engine.testing import opened_of

ROWS, QUERIES = 6_000, 400
TARGETS = (0.9, 0.95, 0.99)
METRICS = ("cosine", "euclidean", "dot")
NOISE = 0.007
"""Two standard errors of a recall measured with so many queries."""


def rows_and_queries(glove: np.ndarray, count: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and queries of one distribution: words are ordered by frequency."""
    shuffled = glove[np.random.default_rng(1).permutation(60_000)[: count + queries]]
    return shuffled[:count], shuffled[count:]


def filled(database: Any, metric: str, vectors: np.ndarray) -> Any:
    words = database.create_collection("words", vectors.shape[1], metric)
    words.upsert_many([str(i) for i in range(len(vectors))], vectors)
    flush_now(words)
    index_now(words)
    return words


@pytest.fixture(params=METRICS)
def words(request: pytest.FixtureRequest, tmp_path: Path, glove: np.ndarray) -> Iterator[Any]:
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as database:
        yield filled(database, request.param, rows_and_queries(glove, ROWS, QUERIES)[0])


@pytest.fixture
def queries(glove: np.ndarray) -> np.ndarray:
    return rows_and_queries(glove, ROWS, QUERIES)[1]


def test_the_target_is_reached(words: Any, queries: np.ndarray) -> None:
    for k in (1, 10, 100):
        true, visited = words.search(queries, k, exact=True), []
        for target in TARGETS:
            found = words.search(queries, k, target_recall=target)
            measured, info = recall(found, true), found[0].info
            assert measured >= target - NOISE
            assert info.recall is not None and info.recall.target == target
            assert info.recall.lower >= target - 1e-9 and info.recall.rows == ROWS
            assert measured >= info.recall.expected - 0.03
            assert (info.recall.queries > 0) == (info.plan == "graph") == (not info.exact)
            visited.append(np.mean([hits.info.visited for hits in found]))
        assert visited == sorted(visited)


def test_the_default_target_is_95_percent(words: Any, queries: np.ndarray) -> None:
    default, asked = words.search(queries), words.search(queries, target_recall=0.95)
    assert [hits.ids for hits in default] == [hits.ids for hits in asked]
    assert default[0].info.recall is not None and default[0].info.recall.target == 0.95


def test_exact_answers_say_so(words: Any, queries: np.ndarray) -> None:
    for how in ({"exact": True}, {"target_recall": 1}):
        info = words.search(queries[0], **how).info
        assert info.exact and info.plan == "scan" and info.recall.expected == 1
        assert info.recall.measured_at is None


def test_an_ef_overrules_the_target(words: Any, queries: np.ndarray) -> None:
    info = words.search(queries[0], ef=33, target_recall=0.9).info
    assert info.ef == 33 and info.recall is None


def test_the_curve_is_a_part_of_the_segment(words: Any) -> None:
    segment = opened_of(words).snapshots.snapshot().segments[0].segment
    assert segment is not None
    measured = segment.parts[RECALL]
    assert measured.queries == ROWS // 20 or measured.queries == 400
    efforts, means, errors = np.moveaxis(measured.values, -1, 0)
    assert (np.diff(efforts, axis=1) >= 0).all() and (errors > 0).all()
    assert (means[:, -1] > 0.98).all()
