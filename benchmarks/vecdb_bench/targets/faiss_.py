"""FAISS: IndexHNSWFlat in memory, which supports neither deletes nor replacing rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from vecdb_bench.targets.base import Settings, Target, unit

__all__ = ["Adapter"]


class Adapter(Target):
    """FAISS numbers rows itself, so that rows must be added in order. The index has the effort."""

    _index: Any

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "index.faiss"
        self._normalised = metric == "cosine"
        self._effort = 0
        faiss.omp_set_num_threads(settings.threads)
        if self._file.exists():
            self._index = faiss.read_index(str(self._file))
            return
        product = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        self._index = self._created(dim, settings.M, product)
        self._index.hnsw.efConstruction = settings.ef_construction

    def _created(self, dim: int, links: int, product: int) -> Any:
        return faiss.IndexHNSWFlat(dim, links, product)

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        if ids[0] != self._index.ntotal or (np.diff(ids) != 1).any():
            raise NotImplementedError("its HNSW index supports neither replacing nor deleting rows")
        self._index.add(self._prepared(vectors))

    def delete(self, ids: np.ndarray) -> None:
        raise NotImplementedError("its HNSW index supports neither replacing nor deleting rows")

    def set_threads(self, threads: int) -> None:
        faiss.omp_set_num_threads(threads)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        if effort != self._effort:  # Passing parameters per call is slower.
            self._effort = effort
            self._index.hnsw.efSearch = max(effort, k)
        rows: np.ndarray = self._index.search(self._prepared(queries), k)[1]
        return rows.astype(np.int64)

    def version(self) -> str:
        return str(faiss.__version__)

    def close(self) -> None:
        if hasattr(self, "_index"):
            faiss.write_index(self._index, str(self._file))

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        return unit(vectors) if self._normalised else vectors
