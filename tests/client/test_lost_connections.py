"""Servers that are missing, foreign, lost, slow or back again, and what a call then raises."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.client.rows import DIM, rows
from tests.serving import (
    REQUEST_BYTES_MIN,
    ServerProcess,
    free_port,
    held,
    wait_until_ready,
)
from tests.waiting import HANG_S, NEVER_S, eventually
from vecdb.engine.runtime.runtime import Runtime
from vecdb_client import Client
from vecdb_client.testing import calls_of


def test_missing_server_is_unavailable_with_its_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    with Client(address, timeout_s=NEVER_S) as client:
        with pytest.raises(vecdb.UnavailableError, match=address) as caught:
            client.list_collections()
        assert caught.value.reason == "CONNECTION"
        # A write that was never sent is reported in the same way.
        with pytest.raises(vecdb.UnavailableError, match=address):
            client.create_collection("docs", 3)


def test_other_service_at_the_address_is_reported() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with (
            Client(address, timeout_s=0.3) as client,
            pytest.raises(vecdb.VecdbError, match=address),
        ):
            client.list_collections()


def _cutting_proxy(address: str) -> Iterator[tuple[str, threading.Event]]:
    """A relay before a server: an event cuts all its connections, and no answer comes then."""
    host, port = address.split(":")
    cut = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    pairs: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                inner, _ = listener.accept()
            except OSError:
                return
            outer = socket.create_connection((host, int(port)))
            pairs.extend((inner, outer))
            threading.Thread(target=pump, args=(inner, outer), daemon=True).start()
            threading.Thread(target=pump, args=(outer, inner), daemon=True).start()

    def watch() -> None:
        cut.wait()
        # A listening socket is woken from accept by shutdown, not by close.
        for end in (listener, *pairs):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    threads = [threading.Thread(target=accept), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", cut
    finally:
        cut.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def cutting_proxy(address: str) -> Iterator[tuple[str, threading.Event]]:
    yield from _cutting_proxy(address)


@pytest.mark.parametrize(
    ("engine_method", "call", "expected"),
    [
        ("write", lambda c: c.upsert(["x"], rows(1)), vecdb.OutcomeUnknownError),
        ("delete", lambda c: c.delete(["x"]), vecdb.OutcomeUnknownError),
        ("write", lambda c: c.upsert_many(["x"], rows(1)), vecdb.OutcomeUnknownError),
        ("count", lambda c: c.count(), vecdb.UnavailableError),
        ("search", lambda c: c.search(rows(1)[0]), vecdb.UnavailableError),
    ],
)
def test_a_connection_that_breaks_in_a_call(
    docs: Any,
    cutting_proxy: tuple[str, threading.Event],
    monkeypatch: pytest.MonkeyPatch,
    engine_method: str,
    call: Any,
    expected: type[vecdb.VecdbError],
) -> None:
    address, cut = cutting_proxy
    with Client(address, timeout_s=HANG_S) as through:
        handle = through.collection("docs")
        entered, release = held(monkeypatch, engine_method)
        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(call, handle)
            assert entered.wait(HANG_S)
            cut.set()
            error = outcome.exception(HANG_S)
        release.set()
    assert type(error) is expected
    assert isinstance(error, vecdb.VecdbError)
    if expected is vecdb.OutcomeUnknownError:
        assert error.reason == "OUTCOME_UNKNOWN"
    # The server went on with it: that is what unknown means.
    eventually(lambda: engine_method != "write" or docs.count() > 0)


def test_deadline_during_a_write_is_an_unknown_outcome(
    address: str, docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = held(monkeypatch, "write")
    with Client(address, timeout_s=0.2) as hasty:
        handle = hasty.collection("docs")
        with pytest.raises(vecdb.DeadlineExceededError, match="may still have been applied"):
            handle.upsert(["x"], rows(1))
    assert entered.is_set()
    release.set()


def test_a_search_has_its_own_deadline(docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    docs.upsert(["a"], rows(1))
    entered, release = held(monkeypatch, "search")
    with pytest.raises(vecdb.DeadlineExceededError) as caught:
        docs.search(rows(1)[0], timeout_s=0.2)
    assert isinstance(caught.value, TimeoutError)
    release.set()
    assert entered.is_set()


def test_optimize_has_no_deadline_by_default(docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    remaining: list[float | None] = []

    def done(self: Any, opened: Any, deadline: Any) -> None:
        remaining.append(deadline.remaining_s())

    monkeypatch.setattr(Runtime, "optimize", done)
    calls_of(docs).timeout_s = 25.0
    docs.optimize()
    docs.optimize(timeout_s=20.0)
    assert remaining[0] is None or remaining[0] > 3600
    assert remaining[1] is not None
    assert remaining[1] < 21.0


def test_a_client_finds_a_server_that_came_back(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    with Client(listen, timeout_s=5) as client:
        with running_server_at(tmp_path / "data", listen):
            docs = client.create_collection("docs", DIM)
            docs.upsert(["a"], rows(1))
        with pytest.raises(vecdb.UnavailableError):
            docs.count()
        with running_server_at(tmp_path / "data", listen):
            wait_until_ready(client)
            assert docs.count() == 1


class running_server_at:  # noqa: N801
    """A server at a given address."""

    def __init__(self, data: Path, listen: str) -> None:
        from vecdb_server.process import Server

        self._server = Server(data, listen, indexer=False)

    def __enter__(self) -> None:
        self._server.start()

    def __exit__(self, *exception: object) -> None:
        self._server.drain()


def test_write_to_a_killed_server_is_an_unknown_outcome(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server, Client(server.address) as client:
        docs = client.create_collection("docs", DIM)
        docs.upsert(["a"], rows(1))
        # Stopped, it takes the request and can't answer; then it dies.
        server.stop()
        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(docs.upsert, ["b"], rows(1))
            server.wait_for_unread(REQUEST_BYTES_MIN)
            os.kill(server.pid, signal.SIGKILL)
            error = outcome.exception(HANG_S)
        assert type(error) is vecdb.OutcomeUnknownError
