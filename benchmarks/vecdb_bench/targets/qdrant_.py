"""Qdrant Edge, embedded: one shard in the worker's process; ``optimize`` builds the graph."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qdrant

from vecdb_bench.targets.base import Condition, Settings, Target

__all__ = ["Adapter"]

_LEAST_INDEXED_KB = 1
_USUAL_SCANNED_KB = 10_000
"""Qdrant's default: the matches of a filter are scanned if they have fewer bytes."""


class Adapter(Target):
    """The write-ahead log is enabled; the shard is flushed by ``finish`` and when it is closed."""

    _shard: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        distance = {
            "cosine": qdrant.Distance.Cosine,
            "euclidean": qdrant.Distance.Euclid,
            "dot": qdrant.Distance.Dot,
        }[metric]
        scanned_kb = _USUAL_SCANNED_KB if settings.fields else _LEAST_INDEXED_KB
        graph = qdrant.HnswIndexConfig(
            settings.M, settings.ef_construction, scanned_kb, settings.threads
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
            for name in settings.fields:  # Before the graph, which gets links for them.
                kind = qdrant.PayloadSchemaType.Integer
                self._shard.update(qdrant.UpdateOperation.create_field_index(name, kind))

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        points = [
            qdrant.Point(int(row), vector.tolist())
            for row, vector in zip(ids, vectors, strict=True)
        ]
        self._shard.update(qdrant.UpdateOperation.upsert_points(points))

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        columns = [values.tolist() for values in fields.values()]
        rows = zip(ids, vectors, zip(*columns, strict=True), strict=True)
        points = [
            qdrant.Point(int(row), vector.tolist(), dict(zip(fields, values, strict=True)))
            for row, vector, values in rows
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

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        among = None
        if where:
            inside = qdrant.RangeFloat(gte=where.low, lt=where.high)
            among = qdrant.Filter(must=[qdrant.FieldCondition(where.field, range=inside)])
        request = qdrant.QueryRequest(
            k,
            query=qdrant.Query.Nearest(query[0].tolist()),
            filter=among,
            params=qdrant.SearchParams(hnsw_ef=max(effort, k)),
        )
        rows = np.full((1, k), -1, np.int64)
        found = [point.id for point in self._shard.query(request)]
        rows[0, : len(found)] = found
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
