"""Qdrant Edge, embedded: one shard in the worker's process; ``optimize`` builds the graph."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qdrant

from vecdb_bench.targets.base import Settings, Target

__all__ = ["Adapter"]

_LEAST_INDEXED_KB = 1


class Adapter(Target):
    """The write-ahead log is enabled; the shard is flushed by ``finish`` and when it is closed."""

    _shard: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        distance = {
            "cosine": qdrant.Distance.Cosine,
            "euclidean": qdrant.Distance.Euclid,
            "dot": qdrant.Distance.Dot,
        }[metric]
        graph = qdrant.HnswIndexConfig(
            settings.M, settings.ef_construction, _LEAST_INDEXED_KB, settings.threads
        )
        config = qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(dim, distance),
            hnsw_config=graph,
            optimizers=qdrant.EdgeOptimizersConfig(
                default_segment_number=1, indexing_threshold=_LEAST_INDEXED_KB
            ),
            wal_enabled=True,
        )
        if folder.exists() and any(folder.iterdir()):
            self._shard = qdrant.EdgeShard.load(str(folder), config)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._shard = qdrant.EdgeShard.create(str(folder), config)

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        points = [
            qdrant.Point(int(row), vector.tolist())
            for row, vector in zip(ids, vectors, strict=True)
        ]
        self._shard.update(qdrant.UpdateOperation.upsert_points(points))

    def delete(self, ids: np.ndarray) -> None:
        self._shard.update(qdrant.UpdateOperation.delete_points([int(row) for row in ids]))

    def finish(self) -> None:
        self._shard.optimize()
        self._shard.flush()

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        rows = np.full((len(queries), k), -1, np.int64)
        parameters = qdrant.SearchParams(hnsw_ef=max(effort, k))
        for at, query in enumerate(queries):
            request = qdrant.QueryRequest(
                k, query=qdrant.Query.Nearest(query.tolist()), params=parameters
            )
            found = [point.id for point in self._shard.query(request)]
            rows[at, : len(found)] = found
        return rows

    def present(self, ids: np.ndarray) -> np.ndarray:
        found = self._shard.retrieve([int(row) for row in ids], False, False)
        return np.isin(ids, [point.id for point in found])

    def version(self) -> str:
        return version("qdrant-edge-py")

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None
