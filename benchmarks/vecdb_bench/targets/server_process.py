"""Servers as children of a worker or of the suite, started on a free port and stopped by it.

``ServerProcess`` runs a peer's server, ``python_server`` one of our own, which prints its address.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ServerProcess", "free_port", "python_server"]

_READY = re.compile(r" ready address=(\S+)")
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


@contextmanager
def python_server(*arguments: str) -> Iterator[tuple[int, str]]:
    """Run Python with these arguments; yield its process id and the address that it prints.

    Raises:
        RuntimeError: it exited before it printed an address.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stderr is not None
    output: list[str] = []
    try:
        for line in process.stderr:
            output.append(line)
            found = _READY.search(line)
            if found:
                yield process.pid, found.group(1)
                break
        else:
            raise RuntimeError("the server exited before it was ready:\n" + "".join(output))
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()
