"""Milvus Lite, served: ``milvus-lite server`` in a separate process, with pymilvus as client."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from vecdb_bench.targets.base import Condition, Settings, Target
from vecdb_bench.targets.server_process import ServerProcess, free_port

__all__ = ["Adapter"]

_METRICS = {"cosine": "COSINE", "euclidean": "L2", "dot": "IP"}
_NAME = "bench"


class Adapter(Target):
    """Rows are scanned until they are indexed. ``flush`` starts that in a background thread;
    releasing and reloading the collection waits for it."""

    _server: ServerProcess | None = None
    _client: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        program = str(Path(sys.executable).with_name("milvus-lite"))
        place = ["--data-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
        address = f"http://127.0.0.1:{port}"
        self._server = ServerProcess(
            [program, "server", *place], lambda: MilvusClient(address, timeout=2).close()
        )
        self.attach(address, dim, metric, settings)
        if not self._client.has_collection(_NAME):
            schema = MilvusClient.create_schema(auto_id=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("v", DataType.FLOAT_VECTOR, dim=dim)
            for name in settings.fields:
                schema.add_field(name, DataType.INT64)
            index = self._client.prepare_index_params()
            graph = {"M": settings.M, "efConstruction": settings.ef_construction}
            index.add_index("v", index_type="HNSW", metric_type=_METRICS[metric], params=graph)
            self._client.create_collection(_NAME, schema=schema, index_params=index)
        self._client.load_collection(_NAME)

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        self._address, self._metric = address, _METRICS[metric]
        self._client = MilvusClient(address)

    def address(self) -> str:
        return self._address

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        rows = [{"id": int(row), "v": vector} for row, vector in zip(ids, vectors, strict=True)]
        self._client.upsert(_NAME, rows)

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        columns = [values.tolist() for values in fields.values()]
        rows = [
            {"id": int(row), "v": vector, **dict(zip(fields, values, strict=True))}
            for row, vector, values in zip(ids, vectors, zip(*columns, strict=True), strict=True)
        ]
        self._client.upsert(_NAME, rows)

    def delete(self, ids: np.ndarray) -> None:
        self._client.delete(_NAME, ids=[int(row) for row in ids])

    def finish(self) -> None:
        self._client.flush(_NAME)
        self._client.release_collection(_NAME)
        self._client.load_collection(_NAME)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        return self._nearest(queries, k, effort, "")

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        among = f"{where.field} >= {where.low} && {where.field} < {where.high}" if where else ""
        return self._nearest(query, k, effort, among)

    def _nearest(self, queries: np.ndarray, k: int, effort: int, among: str) -> np.ndarray:
        found = self._client.search(
            _NAME,
            data=list(queries),
            limit=k,
            filter=among,
            search_params={"metric_type": self._metric, "params": {"ef": max(effort, k)}},
        )
        rows = np.full((len(queries), k), -1, np.int64)
        for at, hits in enumerate(found):
            rows[at, : len(hits)] = [hit["id"] for hit in hits]
        return rows

    def present(self, ids: np.ndarray) -> np.ndarray:
        found = self._client.get(_NAME, ids=[int(row) for row in ids], output_fields=["id"])
        return np.isin(ids, [each["id"] for each in found])

    def processes(self) -> list[int]:
        return [self._server.pid] if self._server is not None else []

    def version(self) -> str:
        return version("milvus-lite")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._server is not None:
            self._server.stop()
            self._server = None
