"""A peer's server as a child of its worker, started on a free port and stopped by the worker."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable

__all__ = ["ServerProcess", "free_port"]

_READY_WITHIN_S = 60.0
_STOP_TIMEOUT_S = 30.0


def free_port() -> int:
    """Return a port of the loopback interface that is currently unused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """A running server; the constructor returns once the server answers.

    Args:
        command: program and arguments.
        answers: a probe that raises until the server answers.

    Raises:
        RuntimeError: the server exited, or did not answer within the timeout.
    """

    def __init__(self, command: list[str], answers: Callable[[], object]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.pid = self._process.pid
        ends = time.monotonic() + _READY_WITHIN_S
        while True:
            try:
                answers()
                return
            except Exception as error:
                if self._process.poll() is not None or time.monotonic() > ends:
                    self.stop()
                    raise RuntimeError(
                        f"{command[0]} exited or did not answer within {_READY_WITHIN_S:.0f} s: "
                        f"{error}"
                    ) from error
                time.sleep(0.05)

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if the server does not end within the timeout."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
