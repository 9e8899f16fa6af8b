"""The life of a server: addresses, options, states, drains, signals."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import vecdb
from tests.places import override
from tests.server.raw_calls import (
    DIM,
    VECTORS,
    Code,
    Wire,
    creation,
    search,
    upsert,
)
from tests.serving import ServerProcess, held
from tests.waiting import HANG_S, NEVER_S, eventually
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.access.addresses import check_listen
from vecdb_server.process import Server


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:7801", ("127.0.0.1", 7801)),
        ("127.9.9.9:0", ("127.9.9.9", 0)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("LocalHost:80", ("127.0.0.1", 80)),
        ("[::1]:7801", ("::1", 7801)),
    ],
)
def test_loopback_addresses_are_served(listen: str, expected: tuple[str, int]) -> None:
    found = check_listen(listen)
    assert (found.host, found.port) == expected and found.is_local


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:7801", "[::]:7801", "10.0.0.1:7801", "example.org:7801", "[::ffff:8.8.8.8]:1"],
)
def test_other_addresses_are_refused(listen: str, tmp_path: Path) -> None:
    with pytest.raises(
        vecdb.FailedPreconditionError, match="without --tokens and --tls-cert"
    ) as caught:
        Server(tmp_path / "data", listen)
    assert caught.value.reason == "NOT_LOOPBACK"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "listen",
    [
        *("", "7801", ":7801", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536"),
        *("http://127.0.0.1:7801", "http://127.0.0.1:7801/", "dns:///a:1", "a b:1", "\n:1"),
        *("[::1:7801", "::1:7801", "[::1]x:1", "127.0.0.1:\u0663", "127.0.0.1:" + "9" * 5000),
    ],
)
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(vecdb.InvalidArgumentError, match=r"must be host:port") as caught:
        check_listen(listen)
    assert caught.value.reason == "BAD_ADDRESS" and len(caught.value.message) < 200


@pytest.mark.parametrize(
    "options", [{"threads": 3}, {"message_bytes": 1}, {"message_bytes": 2**30}]
)
def test_options_out_of_limits_are_refused(options: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(vecdb.InvalidArgumentError):
        Server(tmp_path / "data", "127.0.0.1:0", **options)


def test_a_port_in_use_is_refused_and_the_folder_not_touched(address: str, tmp_path: Path) -> None:
    with pytest.raises(vecdb.FailedPreconditionError, match="Address already in use") as caught:
        Server(tmp_path / "data", address).start()
    assert caught.value.reason == "PORT_IN_USE"
    assert address in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_foreign_folder_is_refused_and_the_port_is_released(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(vecdb.FailedPreconditionError):
        Server(tmp_path, f"127.0.0.1:{port}").start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_states_of_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vecdb.server")
    compile_now = threading.Event()
    override(monkeypatch, "load_server_kernels", lambda: compile_now.wait(HANG_S))
    server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False)
    server.bind()
    opening = threading.Thread(target=server.open)
    opening.start()
    raw = Wire(server.address)
    # Starting.
    assert (
        raw.health() == raw.health("vecdb.v1.Vecdb") == health_pb2.HealthCheckResponse.NOT_SERVING
    )
    assert raw.failure("Search", search())[:2] == (Code.UNAVAILABLE, "STARTING")
    assert raw.failure("ListCollections", wire.ListCollectionsRequest())[1] == "STARTING"
    assert raw.stub.ServerInfo(wire.ServerInfoRequest()).version == vecdb.__version__
    # Ready.
    compile_now.set()
    opening.join()
    assert raw.health() == raw.health("vecdb.v1.Vecdb") == health_pb2.HealthCheckResponse.SERVING
    raw.stub.CreateCollection(creation("docs"))
    raw.stub.Upsert(upsert())
    # Draining: a call that runs is let finish, a new one is refused with a reason.
    entered, release = held(monkeypatch, "count")
    running = raw.stub.Count.future(wire.CountRequest(collection="docs"))
    assert entered.wait(HANG_S)
    draining = threading.Thread(target=server.drain)
    draining.start()
    eventually(lambda: raw.health() == health_pb2.HealthCheckResponse.NOT_SERVING)
    assert raw.failure("Search", search())[:2] == (Code.UNAVAILABLE, "DRAINING")
    assert draining.is_alive()
    release.set()
    assert running.result().count == 3
    draining.join(HANG_S)
    assert not draining.is_alive()
    # Gone, and the folder is free for another.
    assert raw.failure("Search", search())[0] is Code.UNAVAILABLE
    raw.channel.close()
    server.drain()
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        assert database.collection("docs").count() == 3
    events = [record.getMessage() for record in caplog.records]
    assert [event.split()[0] for event in events] == ["ready", "drain", "stop"]
    assert events[0] == (
        f"ready address={server.address} data={tmp_path / 'data'} collections=0 rows=0"
    )


def test_a_call_that_outlasts_the_grace_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False)
    server.start()
    raw = Wire(server.address)
    raw.stub.CreateCollection(creation("docs"))
    entered, release = held(monkeypatch, "count")
    running = raw.stub.Count.future(wire.CountRequest(collection="docs"))
    assert entered.wait(HANG_S)
    server.drain(grace_s=0.2)
    with pytest.raises(grpc.RpcError):
        running.result(HANG_S)
    release.set()
    raw.channel.close()


def test_health_watcher_does_not_delay_a_drain(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False)
    server.start()
    raw = Wire(server.address)
    watch = health_pb2_grpc.HealthStub(raw.channel).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    server.drain(grace_s=NEVER_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    raw.channel.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_a_process(tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "data"
    with ServerProcess(data) as server:
        with vecdb.connect(server.address) as client:
            docs = client.create_collection("docs", DIM)
            docs.upsert(["a", "b", "c"], VECTORS)
        server.signal(number)
        assert server.wait() == 0
        events = [line.split()[2] for line in server.log if not line.startswith(" ")]
        assert [e for e in events if e != "compile"] == ["start", "ready", "drain", "stop"]
        assert f"data={data} collections=0 rows=0" in server.wait_for(" INFO ready ")
    with ServerProcess(data) as server:
        assert f"data={data} collections=1 rows=3" in server.wait_for(" INFO ready ")


def test_a_signal_while_kernels_compile_ends_it(tmp_path: Path) -> None:
    # A sleep without an end takes the place of compiling.
    slow = (
        "import sys, time; from tests.places import override_for_good; "
        "override_for_good('load_server_kernels', lambda: "
        "(print(' compiling ', file=sys.stderr, flush=True), time.sleep(1e6)))"
    )
    with ServerProcess(tmp_path / "data", before=slow) as server:
        server.wait_for(" compiling ")
        server.signal()
        assert server.wait() == 0
        assert not any(" INFO ready " in line for line in server.log)


def test_process_that_cannot_serve_reports_it_in_one_line(address: str, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "0.0.0.0:7801") as server:
        assert server.wait() == 2
        (line,) = server.log
        assert "ERROR refused reason=NOT_LOOPBACK" in line
    with ServerProcess(tmp_path / "data", address) as server:
        assert server.wait() == 1
        assert len(server.log) == 2
        assert (
            f'ERROR refused reason=PORT_IN_USE message="cannot listen on {address}' in server.log[1]
        )
    file = tmp_path / "file"
    file.write_text("")
    with ServerProcess(file) as server:
        assert server.wait() == 1
        assert "ERROR failed reason=" in server.wait_for(" failed ")
        assert not any("Traceback" in line for line in server.log)


@pytest.mark.slow
def test_acknowledged_rows_survive_kill_9(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server, vecdb.connect(server.address) as client:
        docs = client.create_collection("docs", DIM)
        docs.upsert(["a", "b", "c"], VECTORS)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    with ServerProcess(tmp_path / "data") as server, vecdb.connect(server.address) as client:
        records = client.collection("docs").get(["a", "b", "c"])
        assert np.array_equal(records.vectors, VECTORS)
