"""A server as a child process: start it, wait until it is ready, stop it with SIGTERM.

The server logs its address to stderr when it is ready. A thread keeps reading, since a full pipe
would block the server, and keeps the last lines for the error message if the server fails.
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
from typing import Final

from vecdb.errors import UnavailableError

__all__ = ["ServerProcess"]

_READY: Final = re.compile(r" ready .*?\baddress=(\S+)")
_COMPILES: Final = re.compile(r' compile message="(.*?)"')
_STOP_TIMEOUT_S: Final = 30.0


class ServerProcess:
    """``vecdb serve`` in a child process; a context manager that stops it.

    Args:
        data: the folder.
        listen: host:port; port 0 for any free port.
        on_notice: called with each notice that the server logs while it compiles the kernels; in
            another thread.
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
            # A terminal sends Ctrl-C to its whole process group. The parent must get it alone: it
            # ends its calls first, then the server.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="vecdb-server-log", daemon=True)
        self._reader.start()

    def wait_ready(self, timeout_s: float = 300.0) -> str:
        """Wait until the server is ready and return its address.

        The first start may take a minute, as the kernels are compiled.

        Raises:
            UnavailableError: it ended, or is not ready in time; with the last lines of its log.
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
        """Stop the server and return its exit status, 0 if it drained and closed everything.

        If a signal handler raises during the wait (a second Ctrl-C), the server is killed.
        """
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._kill()
            except BaseException:
                self._kill()
                raise
        self._reader.join(5.0)
        if self._process.stderr is not None:
            self._process.stderr.close()
        return self._process.returncode

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        """Wait until the server ends and return its exit status."""
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
