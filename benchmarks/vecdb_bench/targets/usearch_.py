"""USearch: its HNSW index in memory, float32."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
from usearch.index import Index

from vecdb_bench.targets.base import Settings, Target

__all__ = ["Adapter"]

_METRICS = {"cosine": "cos", "euclidean": "l2sq", "dot": "ip"}


class Adapter(Target):
    """To replace a row, it is removed first. The effort is a property of the index."""

    dtype = "f32"

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "index.usearch"
        self._threads = settings.threads
        self._index = Index(
            ndim=dim,
            metric=_METRICS[metric],
            dtype=self.dtype,
            connectivity=settings.M,
            expansion_add=settings.ef_construction,
        )
        if self._file.exists():
            self._index.load(str(self._file))

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        known = np.asarray(self._index.contains(ids))
        if known.any():
            self._index.remove(ids[known])
        self._index.add(ids, vectors, threads=self._threads)

    def delete(self, ids: np.ndarray) -> None:
        self._index.remove(ids)

    def set_threads(self, threads: int) -> None:
        self._threads = threads

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self._index.expansion_search = max(effort, k)
        found = self._index.search(queries, k, threads=min(self._threads, len(queries)))
        keys = np.atleast_2d(np.asarray(found.keys)).astype(np.int64)
        rows = np.full((len(queries), k), -1, np.int64)
        counts = np.atleast_1d(getattr(found, "counts", np.full(len(queries), keys.shape[1])))
        for at, count in enumerate(counts):
            rows[at, :count] = keys[at, :count]
        return rows

    def version(self) -> str:
        return version("usearch")

    def close(self) -> None:
        if hasattr(self, "_index") and len(self._index):
            self._index.save(str(self._file))
