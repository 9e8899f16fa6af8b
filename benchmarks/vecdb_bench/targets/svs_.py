"""Scalable Vector Search: its dynamic Vamana graph in memory, float32.

Its compressed vectors (LVQ) are not used: they need an Intel processor, and the library aborts the
process on others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import svs

from vecdb_bench.targets.base import Settings, Target, unit

__all__ = ["DISTANCES", "Adapter"]

DISTANCES = {
    # Over unit vectors, since an index built with SVS's own cosine can't be loaded again.
    "cosine": svs.DistanceType.MIP,
    "euclidean": svs.DistanceType.L2,
    "dot": svs.DistanceType.MIP,
}
_COMPACTED_AT_ONCE = 1_000
_PARTS = ("config", "graph", "data")


class Adapter(Target):
    """One level with 2M links per node; the search window is a property of the index.

    To replace a row, it is deleted first; its id can be used again after a consolidation.
    """

    _index: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._distance, self._threads = DISTANCES[metric], settings.threads
        self._normalised = metric == "cosine"
        if (folder / "data").exists():
            config, graph, data = (str(folder / part) for part in _PARTS)
            self._index = svs.DynamicVamana(
                config,
                svs.GraphLoader(graph),
                svs.VectorDataLoader(data, svs.DataType.float32),
                self._distance,
                num_threads=self._threads,
            )

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        names, vectors = ids.astype(np.uint64), self._prepared(vectors)
        if self._index is None:
            parameters = svs.VamanaBuildParameters(
                graph_max_degree=2 * self._settings.M,
                window_size=self._settings.ef_construction,
            )
            self._index = svs.DynamicVamana.build(
                parameters, vectors, names, self._distance, self._threads
            )
            return
        known = names[[self._index.has_id(int(name)) for name in names]]
        if len(known):
            self._index.delete(known)
            self._index.consolidate()
        self._index.add(vectors, names)

    def delete(self, ids: np.ndarray) -> None:
        self._index.delete(ids.astype(np.uint64))

    def optimize(self) -> None:
        self._index.consolidate()
        self._index.compact(_COMPACTED_AT_ONCE)

    def set_threads(self, threads: int) -> None:
        self._index.num_threads = threads

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self._index.search_window_size = max(effort, k)
        return np.asarray(self._index.search(self._prepared(queries), k)[0]).astype(np.int64)

    def version(self) -> str:
        return str(svs.library_version())

    def close(self) -> None:
        if self._index is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._index.save(*(str(self._folder / part) for part in _PARTS))

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        return unit(vectors) if self._normalised else vectors
