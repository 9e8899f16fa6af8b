"""Recall on word vectors has a floor, also after updates and deletions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.model import Model, distances, recall
from tests.waiting import HANG_S

ROWS = 100_000
QUERIES = 500
FLOOR = 0.95


@pytest.mark.slow
def test_recall_after_half_of_the_rows_are_updated_has_a_floor(
    tmp_path: Path, glove: np.ndarray
) -> None:
    picked = np.random.default_rng(1).permutation(len(glove))
    base = glove[picked[:ROWS]]
    queries = glove[picked[ROWS : ROWS + QUERIES]]
    names = [str(i) for i in range(ROWS)]
    with vecdb.open(tmp_path / "data") as database:
        words = database.create_collection("words", 50, "cosine")
        words.upsert_many(names, base)
        stats = words.optimize(timeout_s=HANG_S)
        assert [s.kind for s in stats.segments] == ["graph"]
        exact = words.search(queries, k=10, exact=True)
        truth = np.sort(distances("cosine", queries[0], base))[:10]
        np.testing.assert_allclose(exact[0].distances, truth, atol=1e-5)
        assert recall(words.search(queries, k=10, ef=128), exact) >= FLOOR

        # Half of the rows get the vector of another word, so that their old position is wrong.
        half = ROWS // 2
        updated = glove[picked[ROWS + QUERIES : ROWS + QUERIES + half]]
        words.upsert_many(names[:half], updated)
        now = np.concatenate([updated, base[half:]])
        exact = words.search(queries, k=10, exact=True)
        for query, hits in zip(queries[:20], exact, strict=False):
            truth = np.sort(distances("cosine", query, now))[:10]
            np.testing.assert_allclose(hits.distances, truth, atol=1e-5)
        assert recall(words.search(queries, k=10, ef=128), exact) >= FLOOR
        stats = words.optimize(timeout_s=HANG_S)
        assert (stats.live_count, stats.unindexed_rows) == (ROWS, 0)
        found = words.search(queries, k=10, ef=128)
        assert recall(found, words.search(queries, k=10, exact=True)) >= FLOOR
        for hits, query in zip(found[:20], queries, strict=False):
            expected = distances("cosine", query, now[[int(i) for i in hits.ids]])
            np.testing.assert_allclose(hits.distances, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_recall_with_segments_deletes_and_memtable_has_a_floor(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    base, queries = glove[:12_000], glove[50_000:50_100]
    names = [str(i) for i in range(len(base))]
    # A limit of about 4,000 rows per graph: several graphs, a flat segment and a memtable.
    cap = 4000 * (4 * 64 + 8 * 16 + 32)
    with vecdb.open(tmp_path / "data", segment_bytes_max=cap, seal_bytes=256 * 100) as database:
        words = database.create_collection("words", 50, metric)
        words.upsert_many(names[:11_000], base[:11_000])
        stats = words.optimize(timeout_s=HANG_S)
        assert len(stats.segments) >= 3
        words.upsert_many(names[11_000:], base[11_000:])
        deleted = set(names[::7])
        words.delete(sorted(deleted))
        exact = words.search(queries, k=20, exact=True)
        found = words.search(queries, k=20, ef=128)
        assert recall(found, exact) >= FLOOR
        assert not deleted & {name for hits in found + exact for name in hits.ids}
        model = Model(50, metric)
        model.upsert(names, base, None)
        model.delete(sorted(deleted))
        for hits, query in zip(exact[:10], queries, strict=False):
            model.check_hits(hits, query, 20, exact=True)


def test_k_above_the_live_rows_of_a_graph_returns_all(tmp_path: Path, glove: np.ndarray) -> None:
    """Most nodes of a graph are deleted: walks find too few, and the search still returns all."""
    with vecdb.open(tmp_path / "data") as database:
        words = database.create_collection("words", 50)
        names = [str(i) for i in range(5000)]
        words.upsert(names, glove[:5000])
        words.optimize(timeout_s=HANG_S)
        left = names[::500]
        words.delete([n for n in names if n not in left])
        for k in (5, 10, 50):
            for hits in words.search(glove[:30], k=k):
                assert len(hits) == min(k, len(left))
                assert set(hits.ids) <= set(left)
