"""Scalable Vector Search: its Vamana graph in memory, rows of 16 bits a component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import svs

from vecdb_bench.targets.base import Settings, Target, unit
from vecdb_bench.targets.svs_ import DISTANCES

__all__ = ["Adapter"]


class Adapter(Target):
    """One level with 2M links per node, built of one batch, which has all rows; never saved."""

    _index: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._settings, self._metric = settings, metric

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        if self._index is not None or (ids != np.arange(len(ids))).any():
            raise NotImplementedError("its static index is built of one batch")
        parameters = svs.VamanaBuildParameters(
            graph_max_degree=2 * self._settings.M,
            window_size=self._settings.ef_construction,
        )
        self._index = svs.Vamana.build(
            parameters,
            self._prepared(vectors).astype(np.float16),
            DISTANCES[self._metric],
            self._settings.threads,
        )

    def set_threads(self, threads: int) -> None:
        self._index.num_threads = threads

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self._index.search_window_size = max(effort, k)
        return np.asarray(self._index.search(self._prepared(queries), k)[0]).astype(np.int64)

    def version(self) -> str:
        return str(svs.library_version())

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        return unit(vectors) if self._metric == "cosine" else vectors
