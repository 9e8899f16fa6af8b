"""vecdb, served: ``vecdb serve`` in a separate process, with workers as its clients."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import vecdb
from vecdb_bench.targets.base import Settings
from vecdb_bench.targets.embedded import Collection
from vecdb_bench.targets.server_process import python_server

__all__ = ["Adapter", "served_process"]


def served_process(folder: Path) -> AbstractContextManager[tuple[int, str]]:
    """Run ``vecdb serve`` on a free port; the context has its process id and its address."""
    serve = ("-m", "vecdb_server", "serve", "--listen", "127.0.0.1:0", "--data")
    return python_server(*serve, str(folder))


class Adapter(Collection):
    """Served: all calls go over gRPC."""

    _server: Any = None
    _client: Any = None
    _pid = 0

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        self._server = served_process(folder)
        self._pid, address = self._server.__enter__()
        self.attach(address, dim, metric, settings)

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        self._address = address
        self._client = vecdb.connect(address, timeout_s=None)
        self._take(self._client, dim, metric, settings)

    def address(self) -> str:
        return self._address

    def processes(self) -> list[int]:
        return [self._pid]

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._server is not None:
            self._server.__exit__(None, None, None)
            self._server = None
