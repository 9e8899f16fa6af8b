"""The oracle: a collection as a dict and numpy, and ways to drive the real one by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vecdb.engine.indexing.indexer import CollectionIndexer
from vecdb.engine.testing import opened_of, runtime_of


def distances(metric: str, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Distances in float64, shape (n,), by the definitions of ``vecdb.Metric``."""
    query, vectors = query.astype(np.float64), vectors.astype(np.float64)
    if metric == "euclidean":
        return np.sqrt(((vectors - query) ** 2).sum(axis=1))
    if metric == "dot":
        return -(vectors @ query)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return 1.0 - (vectors @ query) / lengths


class Model:
    """What a collection should hold: id → (vector, metadata)."""

    def __init__(self, dim: int, metric: str) -> None:
        self.dim, self.metric = dim, metric
        self.rows: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}

    def upsert(self, ids: list[str], vectors: np.ndarray, metadata: list[Any] | None) -> None:
        for i, name in enumerate(ids):
            entry = (metadata[i] if metadata is not None else None) or {}
            self.rows[name] = (vectors[i].copy(), entry)

    def delete(self, ids: list[str]) -> int:
        return sum(self.rows.pop(name, None) is not None for name in set(ids))

    def check_hits(self, hits: Any, query: np.ndarray, k: int, *, exact: bool) -> None:
        """k results or all there are, live, none twice, ascending, with the right distances; if
        exact, no row is nearer than the last one and missing."""
        assert len(hits) == len(hits.distances) == min(k, len(self.rows))
        assert len(set(hits.ids)) == len(hits.ids)
        assert set(hits.ids) <= set(self.rows)
        if not self.rows:
            return
        names = list(self.rows)
        truth = distances(self.metric, query, np.stack([self.rows[n][0] for n in names]))
        by_name = dict(zip(names, truth, strict=True))
        scale = max(1.0, float(np.abs(truth).max()))
        expected = np.array([by_name[n] for n in hits.ids])
        np.testing.assert_allclose(hits.distances, expected, rtol=1e-4, atol=2e-5 * scale)
        assert (np.diff(hits.distances) >= 0).all()
        for name, metadata in zip(hits.ids, hits.metadata, strict=True):
            assert metadata == self.rows[name][1]
        if exact:
            nearest = np.sort(truth)[: len(hits)]
            np.testing.assert_allclose(hits.distances, nearest, rtol=1e-4, atol=2e-5 * scale)

    def check_records(self, records: Any, ids: list[str]) -> None:
        """Vectors bit for bit, metadata equal, in the order asked, the rest named as missing."""
        assert records.ids == [n for n in ids if n in self.rows]
        assert records.missing == [n for n in ids if n not in self.rows]
        for i, name in enumerate(records.ids):
            assert records.vectors[i].tobytes() == self.rows[name][0].tobytes()
            assert records.metadata[i] == self.rows[name][1]


def flush_now(collection: Any) -> None:
    """Flush the memtable of an embedded collection in this process."""
    while not opened_of(collection).flush(1):  # The upkeep thread may be flushing already.
        time.sleep(0.01)


def indexer_of(
    collection: Any,
    rows_max: int = 1 << 40,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, object]], None] = lambda event: None,
) -> CollectionIndexer:
    """An indexer for an embedded collection that works in this process."""
    opened = opened_of(collection)
    return CollectionIndexer(
        opened.store,
        Path(opened.folder),
        opened.id,
        threads=2,
        rows_max=rows_max,
        report=report,
        should_stop=should_stop,
        codes=runtime_of(collection).options.codes == "auto",
    )


def index_now(collection: Any, rows_max: int = 1 << 40) -> None:
    """Build and merge graphs of an embedded collection in this process."""
    assert indexer_of(collection, rows_max).run("optimizing") is False


def recall(found: list[Any], exact: list[Any]) -> float:
    """Mean share of results no farther than the exact search's last one (ties count)."""
    shares = []
    for hits, truth in zip(found, exact, strict=True):
        bound = truth.distances[-1] + 1e-6
        shares.append(float((hits.distances <= bound).sum()) / len(truth.distances))
    return float(np.mean(shares))
