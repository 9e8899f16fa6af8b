"""Recall is a contract, over data sets, metrics, k, targets and changes: at least what was asked
for is measured in 99 of 100 cells; and for texts against words, once the meter has its sample."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now, recall
from vecdb.engine.testing import measure_recall

pytestmark = pytest.mark.slow

ROWS, QUERIES = 8_000, 1_000
BANDS, TARGETS = (1, 10, 100), (0.9, 0.95, 0.99)
METRICS = ("cosine", "euclidean", "dot")
STATES = ("as built", "half updated", "a fifth deleted", "a cluster deleted")
MISSED_MAX = 0.01
"""Share of the cells that may miss their target."""


def words(glove: np.ndarray) -> np.ndarray:
    """Words of any frequency."""
    return glove[np.random.default_rng(1).permutation(60_000)[: ROWS + QUERIES]]


def net(glove: np.ndarray) -> np.ndarray:
    """Words through a fixed random net, 128 dimensions."""
    random = np.random.default_rng(2)
    inner = np.tanh(words(glove) @ random.normal(size=(50, 256)).astype(np.float32) / 4)
    return inner @ random.normal(size=(256, 128)).astype(np.float32)


def points(glove: np.ndarray) -> np.ndarray:
    """Points in clusters of several widths, of too few dimensions for sketches."""
    random = np.random.default_rng(3)
    cluster = random.integers(0, 40, ROWS + QUERIES)
    centres, widths = random.normal(size=(40, 24)), random.uniform(0.2, 1.0, 40)
    spread = random.normal(size=(len(cluster), 24)) * widths[cluster, None]
    return (centres[cluster] + spread).astype(np.float32)


def change(docs: Any, vectors: np.ndarray, state: str) -> None:
    """Update half of the rows, delete a fifth at random, or the fifth nearest to one."""
    random = np.random.default_rng(4)
    if state == "half updated":
        half = random.permutation(ROWS)[: ROWS // 2]
        docs.upsert_many([str(i) for i in half], vectors[half] + np.float32(1e-3))
        flush_now(docs)
        index_now(docs)
    elif state == "a fifth deleted":
        docs.delete([str(i) for i in random.permutation(ROWS)[: ROWS // 5]])
    elif state == "a cluster deleted":
        docs.delete(docs.search(vectors[0], ROWS // 5, exact=True).ids)


def cells_of(docs: Any, queries: np.ndarray) -> dict[tuple[int, float], float]:
    """The recall measured for each k and target."""
    cells = {}
    for k in BANDS:
        true = docs.search(queries, k, exact=True, include_metadata=False)
        for target in TARGETS:
            found = docs.search(queries, k, target_recall=target, include_metadata=False)
            assert found[0].info.recall.lower >= target - 1e-9
            cells[k, target] = recall(found, true)
    return cells


def missed_cells(
    folder: Path, vectors: np.ndarray, metric: str
) -> tuple[dict[tuple[str, int, float], float], int, int]:
    """The cells of a data set and metric below their target, how many walked a graph, and all."""
    rows, queries = vectors[:ROWS], vectors[ROWS:]
    missed, walked, count = {}, 0, 0
    with vecdb.open(folder / "fresh", indexer=False, recall_meter=0) as database:
        docs = database.create_collection("docs", rows.shape[1], metric)
        docs.upsert_many([str(i) for i in range(ROWS)], rows)
        flush_now(docs)
        index_now(docs)
    for state in STATES:
        shutil.copytree(folder / "fresh", folder / state)
        with vecdb.open(folder / state, indexer=False, recall_meter=0) as database:
            docs = database.collection("docs")
            change(docs, rows, state)
            for (k, target), found in cells_of(docs, queries).items():
                count += 1
                walked += docs.search(queries[0], k, target_recall=target).info.plan == "graph"
                if found < target:
                    missed[state, k, target] = found
    shutil.rmtree(folder)
    return missed, walked, count


def test_what_is_asked_for_is_reached_in_99_of_100_cells(tmp_path: Path, glove: np.ndarray) -> None:
    missed, walked, count = {}, 0, 0
    for data in (words, net, points):
        vectors = data(glove)
        for metric in METRICS:
            some, some_walked, some_count = missed_cells(tmp_path / metric, vectors, metric)
            missed.update({(data.__name__, metric, *cell): found for cell, found in some.items()})
            walked, count = walked + some_walked, count + some_count
    print(f"{len(missed)} of {count} cells missed their target: {missed}")
    assert count == 324 and walked >= count / 2
    assert len(missed) <= MISSED_MAX * count, missed


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_texts_against_words_reach_the_target_after_the_sample(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    """A text is the mean of its words, as in a bag of words."""
    random = np.random.default_rng(5)
    texts = glove[random.integers(0, 60_000, (QUERIES, 12))].mean(axis=1)
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as database:
        docs = database.create_collection("docs", 50, metric)
        docs.upsert_many([str(i) for i in range(ROWS)], words(glove)[:ROWS])
        flush_now(docs)
        index_now(docs)
        measure_recall(docs, texts[:400], target_recall=0.9)
        others = texts[400:]
        true = docs.search(others, 10, exact=True)
        for target in TARGETS:
            found = docs.search(others, 10, target_recall=target)
            assert found[0].info.recall.queries <= 400
            shares = [
                (hits.distances <= exact.distances[-1] + 1e-6).mean()
                for hits, exact in zip(found, true, strict=True)
            ]
            # Two standard errors of this measurement.
            noise = 2 * float(np.std(shares)) / len(shares) ** 0.5
            assert np.mean(shares) >= target - noise
