"""Redis 8 vector sets, served: vectors in full precision (NOQUANT). The only metric is cosine."""

from __future__ import annotations

import numpy as np

from vecdb_bench.targets.base import Settings
from vecdb_bench.targets.redis_server import RedisTarget

__all__ = ["Adapter"]

_KEY = "bench"


class Adapter(RedisTarget):
    """The commands of a batch are pipelined."""

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        if metric != "cosine":
            raise NotImplementedError(f"supports the metric cosine only, got {metric}")
        super().attach(address, dim, metric, settings)

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        build = ("EF", self._settings.ef_construction, "M", self._settings.M)
        self.sent(
            [
                ("VADD", _KEY, "FP32", vector.tobytes(), name, "NOQUANT", *build)
                for name, vector in zip(self._ids.encode(ids), vectors, strict=True)
            ]
        )

    def delete(self, ids: np.ndarray) -> None:
        self.sent([("VREM", _KEY, name) for name in self._ids.encode(ids)])

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        wanted = ("COUNT", k, "EF", max(effort, k))
        found = self.sent([("VSIM", _KEY, "FP32", query.tobytes(), *wanted) for query in queries])
        return self._ids.matrix([[name.decode() for name in answer] for answer in found], k)

    def present(self, ids: np.ndarray) -> np.ndarray:
        found = self.sent([("VEMB", _KEY, name) for name in self._ids.encode(ids)])
        return np.array([answer is not None for answer in found])
