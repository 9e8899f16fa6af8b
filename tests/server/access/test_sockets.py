"""Servers on a socket in the file system."""

from __future__ import annotations

import os
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.serving import ServerProcess
from vecdb_server.access.addresses import check_listen
from vecdb_server.process import Server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A short path: a socket's name has at most 107 bytes."""
    return tmp_path / "v.sock"


def test_calls_over_a_socket_that_only_its_owner_reaches(tmp_path: Path, path: Path) -> None:
    server = Server(tmp_path / "data", f"unix:{path}", indexer=False)
    server.start()
    try:
        assert server.address == f"unix:{path}" and server.is_protected
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert sorted(os.listdir(tmp_path)) == ["data", "v.sock"]
        with vecdb.connect(server.address) as client:
            docs = client.create_collection("docs", 2)
            docs.upsert(["a"], [[1, 0]])
            for _ in range(3):
                assert docs.search(np.array([1, 0]), k=1).ids == ["a"]
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            Server(tmp_path / "other", f"unix:{path}").start()
        assert caught.value.reason == "PORT_IN_USE"
        with vecdb.connect(server.address) as client:
            assert client.collection("docs").count() == 1
    finally:
        server.drain(0)
    assert not path.exists()


def test_socket_of_a_killed_server_is_replaced(tmp_path: Path, path: Path) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        with ServerProcess(tmp_path / "data", f"unix:{path}", indexer=False) as server:
            with vecdb.connect(server.address) as client:
                client.get_or_create_collection("docs", 2)
            server.signal(number)
            server.wait()
            assert path.exists() == (number == signal.SIGKILL)


def test_server_removes_its_own_socket_only(tmp_path: Path, path: Path) -> None:
    first = Server(tmp_path / "first", f"unix:{path}", indexer=False)
    first.start()
    path.unlink()
    second = Server(tmp_path / "second", f"unix:{path}", indexer=False)
    second.start()
    try:
        first.drain(0)
        with vecdb.connect(f"unix:{path}") as client:
            assert client.list_collections() == []
    finally:
        second.drain(0)
    assert not path.exists()


def test_one_of_several_servers_gets_the_socket(tmp_path: Path, path: Path) -> None:
    servers = [Server(tmp_path / f"{n}", f"unix:{path}", indexer=False) for n in range(4)]
    bound, refused = [], []

    def bind(server: Server) -> None:
        try:
            server.bind()
            bound.append(server)
        except vecdb.FailedPreconditionError as error:
            refused.append(error.reason)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bind, servers))
    for server in servers:
        server.drain(0)
    assert len(bound) == 1 and refused == ["PORT_IN_USE"] * 3
    assert not path.exists()


def test_file_at_the_place_of_a_socket_is_kept(tmp_path: Path, path: Path) -> None:
    path.write_text("dear")
    for place in (path, tmp_path / "missing" / "v.sock"):
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            Server(tmp_path / "data", f"unix:{place}").start()
        assert caught.value.reason == "PORT_IN_USE"
    assert path.read_text() == "dear" and not (tmp_path / "data").exists()


def test_addresses_of_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_listen("unix:v.sock").socket == str(tmp_path / "v.sock")
    longest = "/" + "a" * 106
    assert check_listen(f"unix:{longest}").socket == longest
    for wrong in (
        "unix:",
        "unix:/",
        "unix:/a/",
        "unix:/a\0",
        "unix:/a#b",
        "unix:/a%41",
        "unix://a",
        f"unix:{longest}b",
    ):
        with pytest.raises(vecdb.InvalidArgumentError):
            check_listen(wrong)
    folder = "/" + "b" * 100
    with pytest.raises(vecdb.InvalidArgumentError):  # No room for the folder where it is bound.
        check_listen(f"unix:{folder}/c")
    with pytest.raises(vecdb.UnavailableError), vecdb.connect("unix:nothing.sock") as client:
        client.list_collections()
    for wrong in ("unix:", "unix:\0a", "unix:/a?b", "unix://a"):
        with pytest.raises(vecdb.InvalidArgumentError):
            vecdb.connect(wrong)
