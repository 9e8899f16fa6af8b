"""Real servers as processes, as a user starts them, and ways to end them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READY = re.compile(r"ready.*?(127\.0\.0\.1:\d+)")
READY_WITHIN_S = 100


class ServerProcess:
    """``vecdb serve`` on a free port. ``log`` holds what it has said so far."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "vecdb_server", "serve"]
        command += ["--data", str(folder), "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self.address = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(READY_WITHIN_S) or not self.address:
            self.process.kill()
            raise AssertionError("the server did not get ready:\n" + "".join(self.log))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            found = READY.search(line)
            if found:
                self.address = found.group(1)
                self._ready.set()
        self._ready.set()

    def kill(self) -> None:
        """SIGKILL: no chance to say goodbye."""
        self.process.kill()
        self._finish()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it politely; returns its exit status."""
        self.process.send_signal(how)
        self._finish()
        return self.process.returncode

    def _finish(self) -> None:
        self.process.wait(30)
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def served(folder: Path) -> Iterator[ServerProcess]:
    """A server process that is gone at the end, whatever happens."""
    server = ServerProcess(folder)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
