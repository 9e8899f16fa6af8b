"""A bare grpcio echo in place of a database: the minimum cost of an answer over gRPC.

Request and answer are as large as the query; answers have no hits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np

from vecdb_bench.common import echoing
from vecdb_bench.echo import METHOD
from vecdb_bench.targets.base import Settings, Target

__all__ = ["Adapter"]


class Adapter(Target):
    """Sends each query to an echo server and discards the answer."""

    _server: Any = None
    _channel: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        self._server = echoing()
        self.attach(self._server.__enter__(), dim, metric, settings)

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address)
        self._echo = self._channel.unary_unary(METHOD)

    def address(self) -> str:
        return self._address

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Store nothing."""

    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        self._echo(queries.tobytes())
        return np.full((len(queries), k), -1, np.int64)

    def version(self) -> str:
        return str(grpc.__version__)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._server is not None:
            self._server.__exit__(None, None, None)
            self._server = None
