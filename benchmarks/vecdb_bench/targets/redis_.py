"""Redis 8 vector sets, served: vectors in full precision (NOQUANT). The only metric is cosine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from vecdb_bench.targets.base import Condition, Settings
from vecdb_bench.targets.redis_server import RedisTarget

__all__ = ["Adapter"]

_KEY = "bench"
_VISITED_MAX = 100_000_000


class Adapter(RedisTarget):
    """The commands of a batch are pipelined."""

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        if metric != "cosine":
            raise NotImplementedError(f"supports the metric cosine only, got {metric}")
        super().attach(address, dim, metric, settings)

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.sent(
            [
                self._added(name, vector)
                for name, vector in zip(self._ids.encode(ids), vectors, strict=True)
            ]
        )

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        columns = [values.tolist() for values in fields.values()]
        rows = zip(self._ids.encode(ids), vectors, zip(*columns, strict=True), strict=True)
        self.sent(
            [
                (
                    *self._added(name, vector),
                    *("SETATTR", json.dumps(dict(zip(fields, values, strict=True)))),
                )
                for name, vector, values in rows
            ]
        )

    def _added(self, name: str, vector: np.ndarray) -> tuple[Any, ...]:
        build = ("EF", self._settings.ef_construction, "M", self._settings.M)
        return ("VADD", _KEY, "FP32", vector.tobytes(), name, "NOQUANT", *build)

    def delete(self, ids: np.ndarray) -> None:
        self.sent([("VREM", _KEY, name) for name in self._ids.encode(ids)])

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        wanted = ("COUNT", k, "EF", max(effort, k))
        found = self.sent([("VSIM", _KEY, "FP32", query.tobytes(), *wanted) for query in queries])
        return self._ids.matrix([[name.decode() for name in answer] for answer in found], k)

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        wanted: tuple[Any, ...] = ("COUNT", k, "EF", max(effort, k))
        if where:
            asked = f".{where.field} >= {where.low} and .{where.field} < {where.high}"
            # Visit nodes until as many as the effort pass, however many that takes.
            wanted = (*wanted, "FILTER", asked, "FILTER-EF", _VISITED_MAX)
        [found] = self.sent([("VSIM", _KEY, "FP32", query.tobytes(), *wanted)])
        return self._ids.matrix([[name.decode() for name in found]], k)

    def present(self, ids: np.ndarray) -> np.ndarray:
        found = self.sent([("VEMB", _KEY, name) for name in self._ids.encode(ids)])
        return np.array([answer is not None for answer in found])
