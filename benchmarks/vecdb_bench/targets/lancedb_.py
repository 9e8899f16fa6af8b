"""LanceDB, embedded: a table with an IVF_HNSW_FLAT index of one partition, float32 in its graph.

Rows added after the index was created are scanned until ``optimize``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from vecdb_bench.targets.base import Condition, Settings, Target

__all__ = ["Adapter"]

_METRICS = {"cosine": "cosine", "euclidean": "l2", "dot": "dot"}
_LEAST_INDEXED = 256


class Adapter(Target):
    """One partition, so that one graph covers all rows, as with the other targets."""

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        self._metric, self._settings = metric, settings
        fields = [(name, pa.int64()) for name in settings.fields]
        self._schema = pa.schema(
            [("id", pa.int64()), ("vector", pa.list_(pa.float32(), dim)), *fields]
        )
        self._dim = dim
        self._database: Any = lancedb.connect(str(folder))
        self._table = self._database.create_table("bench", schema=self._schema, exist_ok=True)

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        self.open(Path(address), dim, metric, settings)

    def address(self) -> str:
        return str(self._database.uri)

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.upsert_fields(ids, vectors, {})

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self._dim)
        columns = [pa.array(np.asarray(each)) for each in fields.values()]
        rows = pa.Table.from_arrays([pa.array(ids), values, *columns], schema=self._schema)
        (
            self._table.merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute(rows)
        )

    def delete(self, ids: np.ndarray) -> None:
        self._table.delete(f"id IN ({', '.join(str(int(row)) for row in ids)})")

    def finish(self) -> None:
        if self._table.list_indices():
            self._table.optimize()
        elif self._table.count_rows() >= _LEAST_INDEXED:
            self._table.create_index(
                metric=_METRICS[self._metric],
                vector_column_name="vector",
                index_type="IVF_HNSW_FLAT",
                num_partitions=1,
                m=self._settings.M,
                ef_construction=self._settings.ef_construction,
            )
            for name in self._settings.fields:
                self._table.create_scalar_index(name)

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        rows = np.full((len(queries), k), -1, np.int64)
        for at, query in enumerate(queries):
            names = self._asked(query, k, effort).to_arrow().column("id").to_numpy()
            rows[at, : len(names)] = names
        return rows

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        asked = self._asked(query[0], k, effort)
        if where:
            among = f"{where.field} >= {where.low} AND {where.field} < {where.high}"
            asked = asked.where(among, prefilter=True)
        rows = np.full((1, k), -1, np.int64)
        names = asked.to_arrow().column("id").to_numpy()
        rows[0, : len(names)] = names
        return rows

    def _asked(self, query: np.ndarray, k: int, effort: int) -> Any:
        asked = self._table.search(query).distance_type(_METRICS[self._metric]).limit(k)
        return asked.ef(max(effort, k)).select(["id"])

    def present(self, ids: np.ndarray) -> np.ndarray:
        asked = f"id IN ({', '.join(str(int(row)) for row in ids)})"
        found = self._table.search().where(asked).select(["id"]).limit(len(ids)).to_arrow()
        return np.isin(ids, found.column("id").to_numpy())

    def version(self) -> str:
        return str(lancedb.__version__)
