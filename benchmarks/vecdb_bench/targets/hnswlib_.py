"""hnswlib: the graph in memory, through hnswlib's Python class."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import hnswlib
import numpy as np

from vecdb_bench.targets.base import Settings, Target

__all__ = ["Adapter"]

_SPACES = {"cosine": "cosine", "euclidean": "l2", "dot": "ip"}


class Adapter(Target):
    """Deletes mark rows as deleted; the index doubles its capacity when full."""

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "index.bin"
        self._index = hnswlib.Index(space=_SPACES[metric], dim=dim)
        if self._file.exists():
            self._index.load_index(str(self._file))
        else:
            self._index.init_index(
                max_elements=1024, M=settings.M, ef_construction=settings.ef_construction
            )
        self._threads = settings.threads
        self._index.set_num_threads(settings.threads)
        self._known = set(self._index.get_ids_list())
        self._effort = 0

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        room = self._index.get_max_elements()
        if self._index.get_current_count() + len(ids) > room:
            self._index.resize_index(max(2 * room, room + len(ids)))
        # Updates of existing rows by two threads have been observed to deadlock in hnswlib.
        known = self._known.intersection(ids.tolist())
        self._index.add_items(vectors, ids, num_threads=1 if known else self._threads)
        self._known.update(ids.tolist())

    def delete(self, ids: np.ndarray) -> None:
        for row in ids:
            self._index.mark_deleted(int(row))

    def set_threads(self, threads: int) -> None:
        self._index.set_num_threads(threads)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        if effort != self._effort:  # A property of the index, not of the call.
            self._effort = effort
            self._index.set_ef(max(effort, k))
        rows: np.ndarray = self._index.knn_query(queries, k)[0].astype(np.int64)
        return rows

    def version(self) -> str:
        return version("hnswlib")

    def close(self) -> None:
        if hasattr(self, "_file") and self._index.get_current_count():
            self._index.save_index(str(self._file))
