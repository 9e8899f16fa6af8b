"""What monitoring sees: metrics, health over HTTP, log lines as JSON."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import vecdb
from tests.serving import ServerProcess
from tests.waiting import HANG_S, eventually
from vecdb.errors import DataLossError
from vecdb_server import log
from vecdb_server.process import Server

ROWS = np.eye(4, dtype=np.float32)


def get(address: str, path: str) -> tuple[int, str]:
    connection = HTTPConnection(address, timeout=HANG_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def metrics(address: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels, which are in the order of their names."""
    status, text = get(address, "/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(
        tmp_path / "data", "127.0.0.1:0", indexer=False, metrics="127.0.0.1:0", recall_meter=1.0
    )
    made.start()
    yield made
    made.drain(0)


def test_calls_are_counted_by_outcome(server: Server) -> None:
    assert server.metrics_address is not None
    with vecdb.connect(server.address) as client:
        docs = client.create_collection("docs", 4)
        docs.upsert(list("abcd"), ROWS)
        for _ in range(5):  # By calls and by a stream, which count alike.
            docs.search(ROWS[0], k=1)
        with pytest.raises(vecdb.InvalidArgumentError):
            docs.upsert(["a"], ROWS[:1], if_seq=-1)
        for _ in range(2):
            with pytest.raises(vecdb.NotFoundError):
                client.collection("nothing")
    found = metrics(server.metrics_address)
    assert found["vecdb_calls_total", "Upsert", "OK"] == 1
    assert found["vecdb_calls_total", "GetCollection", "NOT_FOUND"] == 2
    searches = [
        found.get(("vecdb_calls_total", call, "OK"), 0) for call in ("Search", "SearchStream")
    ]
    assert sum(searches) == 5 and min(searches) > 0
    assert found["vecdb_call_duration_seconds_count", "Upsert"] == 1
    assert found["vecdb_call_duration_seconds_sum", "Upsert"] > 0
    assert found["vecdb_calls_running",] == found["vecdb_write_queue_bytes",] == 0
    assert found["process_resident_memory_bytes",] > 0
    assert found["vecdb_server_info", vecdb.__version__] == 1


def test_open_collections_are_shown(server: Server) -> None:
    address = server.metrics_address
    assert address is not None
    with vecdb.connect(server.address) as client:
        docs = client.create_collection("docs", 4)
        docs.upsert(list("abcd"), ROWS)
        docs.delete(["a"])
        found = metrics(address)
        values = {
            name.removeprefix("vecdb_collection_"): value
            for (name, *labels), value in found.items()
            if labels == ["docs"]
        }
        assert values["rows"] == values["memtable_rows"] == values["unindexed_rows"] == 3
        assert values["seq"] == 2 and values["store_bytes"] > 0
        assert found["vecdb_collection_segments", "docs", "graph"] == 0
        stats = docs.stats()
        assert values["store_bytes"] == stats.store_bytes
        client.rename_collection("docs", "renamed")
        assert metrics(address)["vecdb_collection_rows", "renamed"] == 3
        client.drop_collection("renamed")
        assert ("vecdb_collection_rows", "renamed") not in metrics(address)


def test_measured_recall_is_shown(tmp_path: Path) -> None:
    rows = np.random.default_rng(7).normal(size=(2_000, 8)).astype(np.float32)
    server = Server(tmp_path / "data", "127.0.0.1:0", metrics="127.0.0.1:0", recall_meter=1.0)
    server.start()
    try:
        address = server.metrics_address
        assert address is not None
        with vecdb.connect(server.address) as client:
            docs = client.create_collection("docs", 8)
            docs.upsert_many(range(len(rows)), rows)
            docs.optimize()

            def is_measured() -> bool:
                docs.search(rows[:20], k=10)
                return ("vecdb_collection_recall_queries", "docs", "hour") in metrics(address)

            eventually(is_measured)
            found, hour = metrics(address), docs.stats().recall_hour
            assert hour is not None
            measured = found["vecdb_collection_recall", "docs", "measured", "hour"]
            assert 0.5 < measured <= 1
            assert found["vecdb_collection_recall", "docs", "promised", "hour"] == hour.promised
    finally:
        server.drain(0)


def test_health_follows_the_states_of_the_server(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", "127.0.0.1:0", metrics="127.0.0.1:0", indexer=False)
    assert server.metrics_address is None
    server.bind()
    address = server.metrics_address
    assert address is not None
    assert get(address, "/healthz") == (200, "ok\n")
    assert get(address, "/readyz") == (503, "not ready\n")
    assert metrics(address)["vecdb_calls_open",] == 0  # No folder is open yet.
    server.open()
    assert get(address, "/readyz") == (200, "ready\n")
    assert get(address, "/secrets")[0] == 404
    server.drain(0)
    with pytest.raises(OSError):
        get(address, "/healthz")


def test_connections_that_send_nothing_are_bounded(server: Server) -> None:
    assert server.metrics_address is not None
    host, _, port = server.metrics_address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), HANG_S) for _ in range(40)]
    try:
        closed = 0
        for each in silent:
            each.settimeout(HANG_S)
            closed += each.recv(1) == b""  # At the limit at once, the others after a while.
        assert closed == len(silent)
    finally:
        for each in silent:
            each.close()
    assert get(server.metrics_address, "/healthz")[0] == 200


@pytest.mark.parametrize("listen", ["9090", "unix:/tmp/a", "127.0.0.1:x"])
def test_bad_addresses_are_refused(tmp_path: Path, listen: str) -> None:
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        Server(tmp_path / "data", "127.0.0.1:0", metrics=listen)
    assert caught.value.reason == "BAD_ADDRESS"


def test_port_of_metrics_in_use_is_refused(tmp_path: Path, server: Server) -> None:
    other = Server(tmp_path / "other", "127.0.0.1:0", metrics=server.metrics_address)
    with pytest.raises(vecdb.FailedPreconditionError) as caught:
        other.start()
    assert caught.value.reason == "PORT_IN_USE"
    assert not (tmp_path / "other").exists()


def test_log_lines_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(logging.getLogger("vecdb.server"), "level", logging.NOTSET)
    stream = io.StringIO()
    log.configure(stream, as_json=True)
    log.event("ready", rows=3, data='a "b"\nc', long="x" * 5_000)
    try:
        raise DataLossError("lost\nbytes")
    except DataLossError as error:
        log.failure("defect", error, call="Get")
    logging.getLogger("vecdb.recall").warning("below\n%s", "promise")
    ready, defect, message = map(json.loads, stream.getvalue().splitlines())
    assert ready["event"] == "ready" and ready["level"] == "INFO"
    assert ready["rows"] == 3 and ready["data"] == 'a "b"\nc' and len(ready["long"]) < 2_500
    assert defect["call"] == "Get" and "DataLossError: lost" in defect["traceback"]
    assert message["logger"] == "vecdb.recall" and message["message"] == "below\npromise"


def test_server_process_logs_json(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", log_json=True, indexer=False) as process:
        ready = json.loads(process.wait_for('"event": "ready"'))
        assert ready["collections"] == 0
        process.signal()
        assert process.wait() == 0
        assert [json.loads(line)["event"] for line in process.log][-1] == "stop"
