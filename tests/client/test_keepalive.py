"""Peers that vanish: the network drops all packets and reports nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.places import override, value_of
from tests.waiting import HANG_S, NEVER_S, eventually
from vecdb.engine.runtime.runtime import Runtime
from vecdb_client import Client
from vecdb_server.process import Server


class Proxy:
    """Forwards connections to a port, until ``drop``: then it takes everything and says nothing.

    delay_s: pause before each connection is forwarded, as by a server that is busy.
    """

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self._port, self._dropping, self._delay_s = port, False, delay_s
        self.passed = 0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def drop(self) -> None:
        self._dropping = True

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            time.sleep(self._delay_s)
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            self._sockets.append(server)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                if not self._dropping:
                    target.sendall(data)
                    self.passed += 1
            if not self._dropping:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            return


class Waiting:
    """An optimize that runs until its caller disconnects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.ended = threading.Event(), threading.Event()
        waiting = self

        def run(self: Any, opened: Any, deadline: Any) -> Any:
            waiting.began.set()
            try:
                while True:
                    deadline.check()
                    time.sleep(0.01)
            finally:
                waiting.ended.set()

        monkeypatch.setattr(Runtime, "optimize", run)


@pytest.fixture
def dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, Client, Waiting]]:
    waiting = Waiting(monkeypatch)
    with ExitStack() as stack:
        server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False)
        server.start()
        stack.callback(server.drain, 1.0)
        proxy = Proxy(int(server.address.rpartition(":")[2]))
        stack.callback(proxy.close)
        client = stack.enter_context(vecdb.connect(proxy.address))
        yield proxy, client, waiting


def test_client_waits_for_a_server_that_is_slow_to_accept(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False)
        server.start()
        stack.callback(server.drain, 1.0)
        proxy = Proxy(int(server.address.rpartition(":")[2]), delay_s=0.5)
        stack.callback(proxy.close)
        client = stack.enter_context(vecdb.connect(proxy.address))
        assert client.list_collections() == []


def scale(monkeypatch: pytest.MonkeyPatch, side: str, after_s: float, answer_s: float) -> None:
    override(monkeypatch, f"{side}_ping_after_s", after_s)
    override(monkeypatch, f"{side}_ping_answer_s", answer_s)


def test_client_detects_a_lost_server_within_the_default_timeout() -> None:
    default_s = 60.0
    after_s, answer_s = value_of("client_ping_after_s"), value_of("client_ping_answer_s")
    assert after_s + answer_s <= 25 < default_s
    # The server accepts pings that are so frequent.
    assert value_of("server_pings_apart_s") <= after_s / 2


@pytest.mark.slow
def test_client_detects_a_server_that_vanished(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    scale(monkeypatch, "client", 0.3, 3.0)
    override(monkeypatch, "server_pings_apart_s", 0.1)
    proxy, client, waiting = request.getfixturevalue("dropped")
    docs = client.create_collection("docs", 4)
    failures: list[vecdb.VecdbError] = []

    def optimize() -> None:
        with pytest.raises(vecdb.VecdbError) as caught:
            docs.optimize()  # Without an end of its own.
        failures.append(caught.value)

    caller = threading.Thread(target=optimize)
    caller.start()
    assert waiting.began.wait(HANG_S)
    passed = proxy.passed
    # Some pings later the connection still stands.
    eventually(lambda: proxy.passed >= passed + 12)
    assert caller.is_alive() and not waiting.ended.is_set()
    proxy.drop()
    caller.join(HANG_S)
    assert [(type(each), each.reason) for each in failures] == [
        (vecdb.UnavailableError, "CONNECTION")
    ]


@pytest.mark.slow
def test_server_detects_a_caller_that_vanished(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    scale(monkeypatch, "server", 0.3, 3.0)
    proxy, client, waiting = request.getfixturevalue("dropped")
    docs = client.create_collection("docs", 4)

    def optimize() -> None:
        with pytest.raises(vecdb.VecdbError):
            docs.optimize(timeout_s=NEVER_S)

    caller = threading.Thread(target=optimize)
    caller.start()
    assert waiting.began.wait(HANG_S)
    proxy.drop()
    assert waiting.ended.wait(HANG_S)
    client.close()
    caller.join(HANG_S)
