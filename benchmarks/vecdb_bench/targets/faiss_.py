"""FAISS: IndexHNSWFlat in memory, which supports neither deletes nor replacing rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from vecdb_bench.targets.base import Condition, Settings, Target, unit

__all__ = ["Adapter"]

_UNTYPED: Any = faiss
"""For what its stubs lack."""


class Adapter(Target):
    """FAISS numbers rows itself, so that rows must be added in order. The index has the effort."""

    _index: Any

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "index.faiss"
        self._normalised = metric == "cosine"
        self._effort = 0
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in settings.fields}
        self._columns: dict[str, np.ndarray] = {}
        self._selected: tuple[Condition, Any] | None = None
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

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        self.upsert(ids, vectors)
        for name, values in fields.items():
            self._parts[name].append(np.array(values))

    def finish(self) -> None:
        self._columns = {name: np.concatenate(parts) for name, parts in self._parts.items()}

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

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        parameters = _UNTYPED.SearchParametersHNSW(
            sel=self._selector(where) if where else None, efSearch=max(effort, k)
        )
        rows: np.ndarray = self._index.search(self._prepared(query), k, params=parameters)[1]
        return rows.astype(np.int64)

    def _selector(self, where: Condition) -> Any:
        """Return what selects rows: FAISS stores no fields, so they are compared here. That of the
        last condition is kept."""
        if self._selected is None or self._selected[0] != where:
            values = self._columns[where.field]
            marks = (values >= where.low) & (values < where.high)
            selector = _UNTYPED.IDSelectorBitmap(np.packbits(marks, bitorder="little"))
            self._selected = where, selector
        return self._selected[1]

    def version(self) -> str:
        return str(faiss.__version__)

    def close(self) -> None:
        if hasattr(self, "_index"):
            faiss.write_index(self._index, str(self._file))

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        return unit(vectors) if self._normalised else vectors
