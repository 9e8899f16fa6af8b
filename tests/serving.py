"""Real servers for tests: in this process, or as a process of their own that can be signalled.

with running_server(tmp_path / "data") as address: ...
with ServerProcess(tmp_path / "data") as server: server.address, server.signal(SIGTERM), server.log
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import HANG_S, eventually
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.search.search import Searcher
from vecdb.errors import UnavailableError
from vecdb_server.process import Server

REQUEST_BYTES_MIN = 60
"""An upsert of one short row takes some 90 bytes on the wire, a ping 17."""


def free_port() -> int:
    """A port of the loopback that is not in use, and that no connection is given later.

    It is none of those that the system gives to outgoing connections: a client that waits for a
    server to come back could be given the server's own.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(10_000, 65_536) if not first <= port <= last]
    while True:
        # Not by the usual generator: several test processes may have seeded it alike.
        port = random.SystemRandom().choice(ports or range(10_000, 65_536))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def running_server(data: Path | str, **options: Any) -> Iterator[str]:
    """A server in this process on a free port of the loopback; yields its address."""
    server = Server(data, "127.0.0.1:0", **options)
    server.start()
    try:
        yield server.address
    finally:
        server.drain(grace_s=5.0)


@contextmanager
def running_server_at(data: Path, listen: str, message_bytes: int | None = None) -> Iterator[None]:
    """A server in this process at a given address, without an indexer."""
    server = Server(data, listen, message_bytes=message_bytes, indexer=False)
    server.start()
    try:
        yield
    finally:
        server.drain(grace_s=5.0)


def wait_until_ready(client: Any) -> None:
    """A client of a server that came back connects again within two seconds."""

    def is_ready() -> bool:
        try:
            client.list_collections()
        except UnavailableError:
            return False
        return True

    eventually(is_ready)


def stop(child: subprocess.Popen[str]) -> None:
    """Stop a child process, and wait until each of its threads has stopped.

    A thread that is in a system call reads what it finds until then.
    """
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)


class ServerProcess:
    """``vecdb_server.process.serve`` in a child process; a context manager that ends it.

    Args:
        before: a statement that the child executes first.
        written: an argument of ``serve`` as Python text.
        options: further arguments of ``serve``.

    Attributes:
        address: from the ready line. log: lines of its stderr so far.
    """

    def __init__(
        self,
        data: Path | str,
        listen: str = "127.0.0.1:0",
        *,
        before: str = "",
        written: str = "",
        **options: Any,
    ) -> None:
        arguments = f", {written}" * bool(written) + "".join(
            f", {name}={value!r}" for name, value in options.items()
        )
        code = (
            f"import sys; from vecdb_server.process import serve; {before or 'pass'}; "
            f"sys.exit(serve({str(data)!r}, {listen!r}{arguments}))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.pid = self._child.pid
        self.log: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def address(self) -> str:
        """host:port, once it is ready."""
        line = self.wait_for(" ready address=")
        return line.split("address=")[1].split()[0]

    def wait_for(self, text: str, timeout_s: float = HANG_S) -> str:
        """The first line of the log with ``text`` in it."""
        ends = time.monotonic() + timeout_s
        with self._grown:
            while True:
                for line in self.log:
                    if text in line:
                        return line
                left_s = ends - time.monotonic()
                if left_s <= 0 or not self._reader.is_alive():
                    raise AssertionError(f"no line with {text!r} in:\n" + "".join(self.log))
                self._grown.wait(min(left_s, 0.5))

    def wait_for_unread(self, size: int) -> None:
        """Until so many bytes have come that it has not read, as it is stopped: then a request
        has left its client."""
        port = int(self.address.rpartition(":")[2])
        eventually(
            lambda: _unread_bytes(port) >= size, lambda: f"{_unread_bytes(port)} bytes of {size}"
        )

    def stop(self) -> None:
        """Stop all of its threads."""
        stop(self._child)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self._child.send_signal(number)

    def wait(self, timeout_s: float = HANG_S) -> int:
        """Its exit status."""
        status = self._child.wait(timeout_s)
        self._reader.join(5.0)
        return status

    def _read(self) -> None:
        assert self._child.stderr is not None
        for line in self._child.stderr:
            with self._grown:
                self.log.append(line)
                self._grown.notify_all()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        self._reader.join(5.0)
        assert self._child.stderr is not None
        self._child.stderr.close()


def _unread_bytes(port: int) -> int:
    """Return the bytes in the receive queues of connections to a port, from the kernel."""
    unread = 0
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for words in map(str.split, lines):
            local, state, queues = words[1], words[3], words[4]
            if state == "01" and int(local.rpartition(":")[2], 16) == port:  # It is established.
                unread += int(queues.rpartition(":")[2], 16)
    return unread


HOOKS: dict[str, tuple[type, str]] = {
    "write": (Runtime, "write"),
    "delete": (Runtime, "write"),
    "optimize": (Runtime, "optimize"),
    "search": (Searcher, "run"),
    "count": (OpenCollection, "count"),
}
"""Where the calls of every façade go through the engine."""


def held(monkeypatch: pytest.MonkeyPatch, method: str) -> tuple[threading.Event, threading.Event]:
    """Make a method of ``HOOKS`` wait; returns events: it was entered, and it may go on."""
    entered, release = threading.Event(), threading.Event()
    owner, name = HOOKS[method]
    real = getattr(owner, name)

    def waiting(self: Any, *arguments: Any, **named: Any) -> Any:
        entered.set()
        assert release.wait(HANG_S)
        return real(self, *arguments, **named)

    monkeypatch.setattr(owner, name, waiting)
    return entered, release
