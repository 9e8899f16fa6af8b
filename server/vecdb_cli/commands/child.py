"""A server as a child process: started, waited for until it is ready, ended with SIGTERM.

The server says on stderr that it is ready and where it listens; a thread keeps reading, so that the
pipe never fills, and keeps the last lines for the message if the server fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from vecdb.errors import UnavailableError

__all__ = ["ServerProcess"]

_READY = re.compile(r" ready .*?\baddress=(\S+)")
_COMPILES = re.compile(r' compile message="(.*?)"')
_STOP_TIMEOUT_S = 30.0


class ServerProcess:
    """``vecdb serve`` in a process of its own; a context manager that ends it.

    Args:
        data: the folder. listen: host:port, port 0 for any that is free.
        on_notice: told what the server says while it is starting.
    """

    def __init__(
        self,
        data: Path,
        listen: str = "127.0.0.1:0",
        on_notice: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.address = ""
        self._on_notice = on_notice
        self._lines: deque[str] = deque(maxlen=20)
        self._ready = threading.Event()
        command = [sys.executable, "-m", "vecdb_server", "serve"]
        self._process = subprocess.Popen(
            [*command, "--data", str(data), "--listen", listen],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            errors="replace",
            # Ctrl-C is for the parent, which still has calls to make or to give up.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="vecdb-server-log", daemon=True)
        self._reader.start()

    def wait_ready(self, timeout_s: float = 300.0) -> str:
        """Its address, once it answers. Compiling the kernels may take a minute the first time.

        Raises:
            UnavailableError: it ended, or is not ready in time; the message holds its last lines.
        """
        ended_by = time.monotonic() + timeout_s
        while not self._ready.wait(0.05):
            if self._process.poll() is not None:
                self._reader.join(5.0)
                raise UnavailableError(
                    f"the server ended with status {self._process.returncode}:\n{self._log()}"
                )
            if time.monotonic() > ended_by:
                raise UnavailableError(
                    f"the server is not ready after {timeout_s:.0f} s:\n{self._log()}"
                )
        return self.address

    def stop(self) -> int:
        """End it and return its status: 0 if it drained and closed everything."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(5.0)
        if self._process.stderr is not None:
            self._process.stderr.close()
        return self._process.returncode

    def wait(self) -> int:
        """Until it ends by itself; its status."""
        return self._process.wait()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line.rstrip())
            if found := _READY.search(line):
                self.address = found[1]
                self._ready.set()
            elif found := _COMPILES.search(line):
                self._on_notice(found[1])

    def _log(self) -> str:
        return "\n".join(f"  {line}" for line in self._lines)
