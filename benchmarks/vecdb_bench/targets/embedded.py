"""vecdb, embedded: the worker opens the folder; further workers open the same folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb_bench.targets.base import Condition, Ids, Settings, Target

__all__ = ["Adapter", "Collection"]

NAME = "bench"


class Collection(Target):
    """Shared by the embedded and the served adapter: ``_docs`` is a collection of either."""

    ids_of_text = True
    _docs: Any
    _ids: Ids

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self._docs.upsert(self._ids.encode(ids), vectors)

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        columns = [values.tolist() for values in fields.values()]
        metadata = [dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)]
        self._docs.upsert(self._ids.encode(ids), vectors, metadata)

    def delete(self, ids: np.ndarray) -> None:
        self._docs.delete(self._ids.encode(ids))

    def finish(self) -> None:
        self._docs.optimize()

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        effort = max(effort, k)
        if len(queries) == 1:
            hits = [self._docs.search(queries[0], k, ef=effort, include_metadata=False)]
        else:
            hits = self._docs.search(queries, k, ef=effort, include_metadata=False)
        return self._ids.matrix([each.ids for each in hits], k)

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        ef, filter = max(effort, k) if effort else None, _filter(where)
        hits = self._docs.search(query[0], k, ef=ef, filter=filter, include_metadata=False)
        return self._ids.matrix([hits.ids], k)

    def scan_where(self, query: np.ndarray, k: int, where: Condition) -> np.ndarray:
        filter = _filter(where)
        hits = self._docs.search(query[0], k, exact=True, filter=filter, include_metadata=False)
        return self._ids.matrix([hits.ids], k)

    def present(self, ids: np.ndarray) -> np.ndarray:
        missing = set(self._docs.get(self._ids.encode(ids)).missing)
        return np.array([name not in missing for name in self._ids.encode(ids)])

    def unindexed(self) -> int | None:
        rows: int = self._docs.stats().unindexed_rows
        return rows

    def version(self) -> str:
        return vecdb.__version__

    def _take(self, database: Any, dim: int, metric: str, settings: Settings) -> None:
        """Open the collection, creating it if missing."""
        self._ids = Ids(settings.ids)
        if NAME in {each.name for each in database.list_collections()}:
            self._docs = database.collection(NAME)
        else:
            self._docs = database.create_collection(
                NAME,
                dim=dim,
                metric=metric,
                M=settings.M,
                ef_construction=settings.ef_construction,
            )


def _filter(where: Condition | None) -> dict[str, Any] | None:
    return {where.field: {"$gte": where.low, "$lt": where.high}} if where else None


class Adapter(Collection):
    """Embedded: searches run in the worker's process."""

    _database: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        self._given = (folder, dim, metric, settings)
        self._open(settings.threads)

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        self._given = (Path(address), dim, metric, settings)
        self._open(settings.threads, indexer=False)

    def address(self) -> str:
        return str(self._given[0])

    def set_threads(self, threads: int) -> None:
        if threads != self._threads:
            self.close()
            self._open(threads)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self, threads: int, **options: Any) -> None:
        folder, dim, metric, settings = self._given
        self._threads = threads
        self._database = vecdb.open(
            folder, threads=threads, **{"indexer_outlives_parent": False, **options}
        )
        self._take(self._database, dim, metric, settings)
