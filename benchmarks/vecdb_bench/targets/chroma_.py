"""Chroma, embedded: a PersistentClient on a folder (SQLite and hnswlib)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings as ChromaSettings

from vecdb_bench.targets.base import Condition, Ids, Settings, Target

__all__ = ["Adapter"]

_SPACES = {"cosine": "cosine", "euclidean": "l2", "dot": "ip"}


class Adapter(Target):
    """The effort is a property of the collection, not of the call."""

    ids_of_text = True

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        self._ids = Ids(settings.ids)
        self._effort = 0
        self._folder = folder
        self._client: Any = self._connected()
        graph = {
            "space": _SPACES[metric],
            "max_neighbors": settings.M,
            "ef_construction": settings.ef_construction,
            "num_threads": settings.threads,
        }
        self._docs = self._client.get_or_create_collection(
            "bench", configuration={"hnsw": graph}, embedding_function=None
        )

    def _connected(self) -> Any:
        return chromadb.PersistentClient(
            str(self._folder), ChromaSettings(anonymized_telemetry=False)
        )

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        most = self._client.get_max_batch_size()
        for at in range(0, len(ids), most):
            self._docs.upsert(
                self._ids.encode(ids[at : at + most]), embeddings=vectors[at : at + most]
            )

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        columns = [values.tolist() for values in fields.values()]
        metadata = [dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)]
        most = self._client.get_max_batch_size()
        for at in range(0, len(ids), most):
            part = slice(at, at + most)
            self._docs.upsert(
                self._ids.encode(ids[part]), embeddings=vectors[part], metadatas=metadata[part]
            )

    def delete(self, ids: np.ndarray) -> None:
        self._docs.delete(self._ids.encode(ids))

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        return self._nearest(queries, k, effort, None)

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        among = None
        if where:
            bounds = {"$gte": where.low}, {"$lt": where.high}
            among = {"$and": [{where.field: bound} for bound in bounds]}
        return self._nearest(query, k, effort, among)

    def _nearest(self, queries: np.ndarray, k: int, effort: int, among: Any) -> np.ndarray:
        if effort != self._effort:
            self._effort = effort
            self._docs.modify(configuration={"hnsw": {"ef_search": max(effort, k)}})
            # A loaded graph keeps its effort; only a new system reloads it.
            SharedSystemClient.clear_system_cache()
            self._client = self._connected()
            self._docs = self._client.get_collection("bench", embedding_function=None)
        found = self._docs.query(
            query_embeddings=queries, n_results=k, where=among, include=["distances"]
        )
        return self._ids.matrix(found["ids"], k)

    def present(self, ids: np.ndarray) -> np.ndarray:
        there = set(self._docs.get(self._ids.encode(ids), include=[])["ids"])
        return np.array([name in there for name in self._ids.encode(ids)])

    def version(self) -> str:
        return str(chromadb.__version__)
