"""Redis 8 vector sets, served: vectors in full precision (NOQUANT). They know cosine only."""

from __future__ import annotations

import numpy as np

from vecdb_bench.targets.base import Settings
from vecdb_bench.targets.redis_server import RedisTarget

__all__ = ["Adapter"]

_KEY = "bench"


class Adapter(RedisTarget):
    """Calls are sent in a pipeline a batch."""

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        if metric != "cosine":
            raise NotImplementedError(f"knows cosine only, not {metric}")
        super().attach(address, dim, metric, settings)

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for name, vector in zip(self._ids.encode(ids), vectors, strict=True):
                pipeline.execute_command(
                    *("VADD", _KEY, "FP32", vector.tobytes(), name, "NOQUANT"),
                    *("EF", self._settings.ef_construction, "M", self._settings.M),
                )
            pipeline.execute()

    def delete(self, ids: np.ndarray) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in self._ids.encode(ids):
                pipeline.execute_command("VREM", _KEY, name)
            pipeline.execute()

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        with self._client.pipeline(transaction=False) as pipeline:
            for query in queries:
                pipeline.execute_command(
                    *("VSIM", _KEY, "FP32", query.tobytes()),
                    *("COUNT", k, "EF", max(effort, k)),
                )
            found = pipeline.execute()
        return self._ids.matrix([[name.decode() for name in answer] for answer in found], k)

    def present(self, ids: np.ndarray) -> np.ndarray:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in self._ids.encode(ids):
                pipeline.execute_command("VEMB", _KEY, name)
            return np.array([answer is not None for answer in pipeline.execute()])
