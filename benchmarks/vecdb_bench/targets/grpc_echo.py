"""A bare grpcio echo in place of a database: the minimum cost of an answer over gRPC.

Request and answer are as large as the query; answers have no hits.
``python -m vecdb_bench.targets.grpc_echo`` is the server: it prints its address to stderr and
serves until it is terminated.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from vecdb_bench.targets.base import Settings, Target
from vecdb_bench.targets.server_process import python_server

__all__ = ["METHOD", "Adapter", "echo_process"]

METHOD = "/echo.Echo/Echo"


def echo_process() -> AbstractContextManager[tuple[int, str]]:
    """Run an echo server; the context has its process id and its address."""
    return python_server("-m", "vecdb_bench.targets.grpc_echo")


class Adapter(Target):
    """Sends each query to an echo server and discards the answer."""

    _server: Any = None
    _channel: Any = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        self._server = echo_process()
        self.attach(self._server.__enter__()[1], dim, metric, settings)

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


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


def main() -> None:
    """Serve until terminated."""
    server = grpc.server(ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"echo ready address=127.0.0.1:{port}", file=sys.stderr, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
