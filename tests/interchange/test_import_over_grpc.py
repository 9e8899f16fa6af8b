"""Imports over gRPC behave like embedded ones, and an interrupted transfer leaves nothing.

The first tests run on both surfaces; the others send single messages to a server.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import grpc
import hnswlib
import numpy as np
import pytest

import vecdb
from tests.index_files import faiss_index, vectors
from tests.places import override, value_of
from tests.serving import ServerProcess, held, running_server
from tests.waiting import HANG_S, eventually
from vecdb.engine.interchange.importing import import_file
from vecdb.engine.testing import spooled_bytes
from vecdb_cli import command_line
from vecdb_client import imports
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.vecdb_pb2_grpc import VecdbStub


def saved(path: Path, index: Any) -> Path:
    faiss.write_index(index, str(path))
    return path


def refusal(surface: Any, path: Path, name: str = "docs", **options: Any) -> Any:
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        surface.import_faiss(path, name, **options)
    return caught.value


# ------------------------------------------------------------------------------------ both surfaces


def test_faiss_file_is_imported_with_its_graph(surface: Any, tmp_path: Path) -> None:
    rows = vectors(1_500, 24)
    index = faiss_index("hnsw-ids", rows, M=16)
    path = saved(tmp_path / "index", index)
    report = surface.import_faiss(path, "docs")
    assert (report.collection, report.made, report.rows) == ("docs", True, 1_500)
    assert (report.kind, report.graph) == ("IndexIDMap2(IndexHNSWFlat)", "taken over")
    docs = surface.collection("docs")
    assert docs.config == vecdb.CollectionConfig(24, vecdb.Metric.EUCLIDEAN, 16, 40)
    assert [(s.kind, s.rows) for s in docs.stats().segments] == [("graph", 1_500)]
    assert docs.stats().seq == report.seq
    faiss.downcast_index(index.index).hnsw.efSearch = 64
    queries = vectors(100, 24, seed=6)
    _, ids = index.search(queries, 10)
    ours = np.array([[int(each) for each in hits.ids] for hits in docs.search(queries, 10, ef=64)])
    assert (ours == ids).all(axis=1).mean() >= 0.99
    assert docs.get(["100", "103"]).vectors.tobytes() == rows[:2].tobytes()
    again = surface.import_faiss(path, "docs")
    assert (again.made, again.graph, again.seq) == (False, "there already", docs.stats().seq)


def test_hnswlib_file_is_imported_remotely(surface: Any, tmp_path: Path) -> None:
    index = hnswlib.Index("l2", 8)
    index.init_index(300, M=16, ef_construction=60)
    index.add_items(vectors(300, 8), np.arange(300) + 5)
    index.save_index(str(tmp_path / "index"))
    report = surface.import_hnswlib(tmp_path / "index", "docs", dim=8, metric="euclidean")
    assert (report.graph, report.rows) == ("taken over", 300)
    assert surface.collection("docs").config.ef_construction == 60
    for options, reason in (
        ({"dim": 9, "metric": "euclidean"}, "DIM_MISMATCH"),
        ({"dim": 0, "metric": "euclidean"}, "OUT_OF_RANGE"),
        ({"dim": 8, "metric": "l2"}, "BAD_METRIC"),
    ):
        with pytest.raises(vecdb.InvalidArgumentError) as caught:
            surface.import_hnswlib(tmp_path / "index", "new", **options)
        assert caught.value.reason == reason


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_ids_and_metadata_are_sent_with_the_sidecar(
    surface: Any, suffix: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw-ids", vectors(4, 3)))
    sidecar = tmp_path / f"index.meta.{suffix}"
    entries = [(100, "a", '{"n":  1}'), (103, "ž", None), (106, "c", None), (109, "d", None)]
    write_side(sidecar, entries)
    assert surface.import_faiss(path, "docs").graph == "taken over"
    found = surface.collection("docs").get(["a", "ž", "c"])
    assert (found.missing, found.metadata) == ([], [{"n": 1}, {}, {}])
    surface.import_faiss(path, "plain", meta=False)
    assert surface.collection("plain").get(["100"]).missing == []
    elsewhere = sidecar.rename(tmp_path / f"elsewhere.{suffix}")
    surface.import_faiss(path, "named", meta=elsewhere)
    assert surface.collection("named").get(["ž"]).missing == []
    write_side(elsewhere, entries[::-1])
    error = refusal(surface, path, "new", meta=elsewhere)
    assert error.reason == "BAD_META"
    assert error.message.startswith(f"{elsewhere}: line 1: expected faiss_id 100")
    elsewhere.write_bytes(b"no\n")
    assert refusal(surface, path, "new", meta=elsewhere).reason == "BAD_META"
    with pytest.raises(vecdb.NotFoundError) as caught:
        surface.import_faiss(path, "new", meta=tmp_path / "nothing")
    assert caught.value.reason == "NO_FILE"


def write_side(path: Path, entries: list[tuple[int, str, str | None]]) -> None:
    keys = ("faiss_id", "id", "metadata")
    if path.suffix == ".parquet":
        from pyarrow import parquet, table

        columns = zip(*entries, strict=True)
        parquet.write_table(table({k: list(c) for k, c in zip(keys, columns, strict=True)}), path)
        return
    lines = [json.dumps(dict(zip(keys, each, strict=True))) for each in entries]
    path.write_text("".join(f"{line}\n" for line in lines))


def test_exported_collection_is_imported_unchanged(surface: Any, tmp_path: Path) -> None:
    docs = surface.create_collection("docs", 8)
    names = [f"row-{i}" for i in range(300)]
    docs.upsert(names, vectors(300, 8), [{"n": i} if i % 2 else None for i in range(300)])
    docs.optimize(timeout_s=HANG_S)
    docs.export_faiss(tmp_path / "index")
    report = surface.import_faiss(tmp_path / "index", "back", metric="cosine")
    assert (report.rows, report.graph, report.connected) == (300, "taken over", 0)
    back = surface.collection("back")
    assert back.get(names).metadata == docs.get(names).metadata
    queries = vectors(50, 8, seed=6)
    answers = zip(docs.search(queries, k=10), back.search(queries, k=10), strict=True)
    assert all(ours.ids == theirs.ids for ours, theirs in answers)


def test_embedded_and_remote_refusals_have_the_same_reason(surface: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(50, 3)))
    surface.create_collection("four", 4, "euclidean")
    error = refusal(surface, path, "four")
    assert (error.reason, "4 dimensions, the file 3" in error.message) == ("DIM_MISMATCH", True)
    surface.create_collection("dots", 3, "dot")
    assert refusal(surface, path, "dots").reason == "METRIC_MISMATCH"
    assert refusal(surface, path, "a b").reason == "BAD_NAME"
    assert refusal(surface, path, metric="l2").reason == "BAD_METRIC"
    assert refusal(surface, path, timeout_s=0).reason == "OUT_OF_RANGE"
    assert refusal(surface, tmp_path).reason == "BAD_FILE"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    error = refusal(surface, path)
    assert error.reason == "BAD_FILE"
    assert error.message.startswith(f"{path}: byte ")
    quantised = faiss.index_factory(3, "IVF1,PQ1x4")
    quantised.train(vectors(700, 3))
    error = refusal(surface, saved(path, quantised))
    assert (error.reason, "IwPQ" in error.message) == ("FAISS_INDEX", True)
    with pytest.raises(vecdb.NotFoundError) as caught:
        surface.import_faiss(tmp_path / "nothing", "docs")
    assert caught.value.reason == "NO_FILE"
    assert [each.name for each in surface.list_collections()] == ["dots", "four"]
    assert spools(tmp_path / "data") == []


def test_deadline_ends_the_import_between_batches(
    surface: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(500, 3)))
    override(monkeypatch, "import_batch_bytes", 4 * 3 * 100)
    make_batch, made, timeout_s = import_file.make_batch, [], 1.0

    def slow(*arguments: Any) -> Any:
        made.append(arguments)
        time.sleep(0.0 if len(made) < 3 else 1.2 * timeout_s)
        return make_batch(*arguments)

    monkeypatch.setattr(import_file, "make_batch", slow)
    while not made and timeout_s < 60:  # A slow machine may not reach the first batch.
        with pytest.raises(vecdb.DeadlineExceededError):
            surface.import_faiss(path, "docs", timeout_s=timeout_s)
        eventually(lambda: spools(tmp_path / "data") == [])
        timeout_s *= 4
    docs = surface.collection("docs")
    eventually(lambda: docs.count() == 100 * len(made))
    assert 1 <= len(made) <= 3  # Fewer on a slow machine, but never a fourth.
    monkeypatch.setattr(import_file, "make_batch", make_batch)
    report = surface.import_faiss(path, "docs")
    assert (report.rows, report.graph, docs.count()) == (500, "taken over", 500)


# ------------------------------------------------------------------------------- message by message


def spools(data: Path) -> list[str]:
    folder = data / "incoming"
    return os.listdir(folder) if folder.exists() else []


class Sender:
    """The messages of an import of one small file, and a raw stub."""

    def __init__(self, address: str, file: Path) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub: Any = VecdbStub(self.channel)
        self.content = file.read_bytes()

    def begin(self, **fields: Any) -> wire.ImportRequest:
        chosen = {"collection": "docs", "kind": wire.IMPORT_KIND_FAISS, "bytes": len(self.content)}
        return wire.ImportRequest(begin=wire.ImportBegin(**{**chosen, **fields}))

    def end(self, **fields: str) -> wire.ImportRequest:
        chosen = {"sha256": hashlib.sha256(self.content).hexdigest()}
        return wire.ImportRequest(end=wire.ImportEnd(**{**chosen, **fields}))

    def chunk(self, first: int = 0, end: int | None = None) -> wire.ImportRequest:
        return wire.ImportRequest(chunk=self.content[first:end])

    def send(self, *messages: wire.ImportRequest) -> Any:
        return self.stub.Import(iter(messages), timeout=HANG_S)

    def refused(self, *messages: wire.ImportRequest) -> tuple[str, str, str]:
        """Return status, reason and message of a refused call."""
        with pytest.raises(grpc.RpcError) as caught:
            self.send(*messages)
        error: Any = caught.value
        reasons = [value for key, value in error.trailing_metadata() if key == "vecdb-reason"]
        return error.code().name, "".join(reasons), error.details()


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(200, 8)))
    with running_server(tmp_path / "data", indexer=False) as address:
        found = Sender(address, path)
        yield found
        found.channel.close()


def test_transfer_that_differs_from_its_announcement_writes_nothing(
    sender: Sender, tmp_path: Path
) -> None:
    size, side = len(sender.content), wire.ImportRequest(side_chunk=b"{}\n")
    begin, end, whole = sender.begin(), sender.end(), sender.chunk()
    halves = sender.chunk(0, 500), sender.chunk(500)
    for messages, reason, words in (
        ((begin, whole, sender.end(sha256="00")), "TRANSFER_DAMAGED", "SHA-256 '00'"),
        ((begin, whole, side, end), "BAD_TRANSFER", "no sidecar was announced"),
        ((begin, whole, whole, end), "BAD_TRANSFER", f"expected {size} bytes, got {2 * size}"),
        ((begin, halves[0], end), "BAD_TRANSFER", f"expected {size} bytes, got 500"),
        ((begin, halves[0]), "BAD_TRANSFER", f"after 500 of {size} bytes"),
        ((begin, begin), "BAD_TRANSFER", "got begin"),
        ((begin, wire.ImportRequest()), "BAD_TRANSFER", "got None"),
        ((whole, end), "BAD_TRANSFER", "must be begin, got chunk"),
        ((), "BAD_TRANSFER", "must be begin, got None"),
        ((sender.begin(side_bytes=3), whole, side, end), "TRANSFER_DAMAGED", "the sidecar"),
        ((sender.begin(collection="a b"),), "BAD_NAME", ""),
        ((sender.begin(kind=9),), "BAD_FORMAT", "got 9"),
        ((sender.begin(metric=9),), "BAD_METRIC", "got 9"),
        ((sender.begin(kind=wire.IMPORT_KIND_HNSWLIB, metric=1),), "OUT_OF_RANGE", "dim"),
        ((sender.begin(kind=wire.IMPORT_KIND_HNSWLIB, dim=8),), "BAD_METRIC", "got 0"),
    ):
        code, found, text = sender.refused(*messages)
        assert (code, found) == ("INVALID_ARGUMENT", reason), text
        assert words in text
    assert sender.refused(sender.begin(namespace="n"))[1] == "RESERVED"
    assert list(sender.stub.ListCollections(wire.ListCollectionsRequest()).collections) == []
    assert spools(tmp_path / "data") == []
    report = sender.send(begin, *halves, end).report
    assert (report.rows, report.graph) == (200, "taken over")


def test_bytes_beyond_the_announced_size_are_not_spooled(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    receive = value_of("receive_import")

    def watched(spool: Any, *arguments: Any) -> None:
        try:
            receive(spool, *arguments)
        finally:
            sizes.append(spooled_bytes(spool))

    override(monkeypatch, "receive_import", watched)
    refused = sender.refused(sender.begin(bytes=700), sender.chunk(0, 500), sender.chunk(0, 500))
    assert (refused[1], sizes) == ("BAD_TRANSFER", [500])
    assert "the file: expected 700 bytes, got 1000" in refused[2]


def test_import_without_enough_free_space_writes_nothing(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, reason, text = sender.refused(sender.begin(bytes=2**60))
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert f"{2**60} bytes needs {5 * 2**59} bytes free" in text
    assert not (tmp_path / "data" / "incoming").exists()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 2_500))
    assert sender.refused(sender.begin(bytes=1_000), sender.chunk(0, 10))[1] == "BAD_TRANSFER"
    assert sender.refused(sender.begin(bytes=1_000, side_bytes=1))[1] == "DISK_FULL"


def test_cancelled_transfer_leaves_nothing(sender: Sender, tmp_path: Path) -> None:
    hold = threading.Event()

    def messages() -> Iterator[wire.ImportRequest]:
        yield sender.begin()
        yield sender.chunk(0, 500)
        hold.wait(HANG_S)

    try:
        for leave in (lambda call: call.cancel(), lambda call: sender.channel.close()):
            call = sender.stub.Import.future(messages(), timeout=HANG_S)
            eventually(lambda: len(spools(tmp_path / "data")) == 1)
            leave(call)
            eventually(lambda: spools(tmp_path / "data") == [])
    finally:
        hold.set()


def test_deadline_during_the_transfer_leaves_nothing(sender: Sender, tmp_path: Path) -> None:
    hold = threading.Event()

    def messages() -> Iterator[wire.ImportRequest]:
        yield sender.begin()
        yield sender.chunk(0, 500)
        hold.wait(HANG_S)

    try:
        with pytest.raises(grpc.RpcError) as caught:
            sender.stub.Import(messages(), timeout=0.3)
        failure: Any = caught.value
        assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: spools(tmp_path / "data") == [])
    finally:
        hold.set()


def test_draining_server_ends_a_transfer(tmp_path: Path) -> None:
    path = saved(tmp_path / "index", faiss_index("flat", vectors(200, 8)))
    go_on, hold = threading.Event(), threading.Event()
    with running_server(tmp_path / "data", indexer=False) as address:
        sender = Sender(address, path)

        def messages() -> Iterator[wire.ImportRequest]:
            yield sender.begin()
            yield sender.chunk(0, 500)
            while not hold.wait(0.05):
                yield wire.ImportRequest(chunk=b"")
                go_on.set()

        call = sender.stub.Import.future(messages(), timeout=HANG_S)
        assert go_on.wait(HANG_S)
        assert len(spools(tmp_path / "data")) == 1
    with pytest.raises(grpc.RpcError) as caught:
        call.result(HANG_S)
    hold.set()
    failure: Any = caught.value
    assert failure.code() is grpc.StatusCode.UNAVAILABLE
    assert ("vecdb-reason", "DRAINING") in failure.trailing_metadata()
    assert spools(tmp_path / "data") == []
    sender.channel.close()


def test_spool_of_a_killed_server_is_removed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    path = saved(tmp_path / "index", faiss_index("flat", vectors(200, 8)))
    hold = threading.Event()
    with ServerProcess(data, indexer=False) as server:
        sender = Sender(server.address, path)

        def messages() -> Iterator[wire.ImportRequest]:
            yield sender.begin()
            yield sender.chunk(0, 500)
            hold.wait(HANG_S)

        call = sender.stub.Import.future(messages(), timeout=HANG_S)
        eventually(lambda: len(spools(data)) == 1)
        # The spool of a running import is not a leftover.
        with vecdb.open(data, indexer=False):
            assert len(spools(data)) == 1
        server.signal(signal.SIGKILL)
        server.wait()
        with pytest.raises(grpc.RpcError):
            call.result(HANG_S)
    hold.set()
    sender.channel.close()
    assert len(spools(data)) == 1
    assert vecdb.check(data).problems == ()
    backup = tmp_path / "backup"
    with vecdb.open(data, indexer=False) as database:
        assert spools(data) == []
        database.backup(backup)
    assert not (backup / "incoming").exists()


# --------------------------------------------------------------------------------------- the client


def test_file_that_shrinks_while_it_is_sent_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "index", faiss_index("flat", vectors(5_000, 8)))
    size = path.stat().st_size
    override(monkeypatch, "import_chunk_bytes", 40_960)
    cut = threading.Event()

    def progress(sent: int, total: int) -> None:
        if not cut.is_set():
            assert (sent, total) == (40_960, size)
            os.truncate(path, 40_960)
            cut.set()

    with running_server(tmp_path / "data", indexer=False) as address:
        client = vecdb.connect(address)
        begin = wire.ImportBegin(collection="docs", kind=wire.IMPORT_KIND_FAISS)
        with client, pytest.raises(vecdb.InvalidArgumentError) as caught:
            imports.send_import(calls_of(client), begin, path, None, None, progress)
    assert caught.value.reason == "BAD_FILE"
    assert f"{path}: expected {size} bytes, got 40960" in caught.value.message


def test_import_with_small_messages_works(tmp_path: Path) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(3_000, 16)))
    data, size = tmp_path / "data", 64 * 1024
    with (
        running_server(data, indexer=False, message_bytes=size) as address,
        vecdb.connect(address) as client,
    ):
        assert client.import_faiss(path, "docs").rows == 3_000


def test_too_many_concurrent_imports_are_refused(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = held(monkeypatch, "optimize")
    sender.send(sender.begin(), sender.chunk(), sender.end())
    request = wire.OptimizeRequest(collection="docs")
    calls = [sender.stub.Optimize.future(request, timeout=HANG_S) for _ in range(40)]
    try:
        assert entered.wait(HANG_S)
        eventually(lambda: any(call.done() for call in calls))
        assert sender.refused(sender.begin())[:2] == ("RESOURCE_EXHAUSTED", "TOO_MANY_OPTIMIZES")
    finally:
        release.set()
        for call in calls:
            call.exception(HANG_S)


def test_command_line_imports_remotely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw-ids", vectors(4, 3)))
    write_side(tmp_path / "index.meta.parquet", [(100, "a", '{"n": 1}')])
    with running_server(tmp_path / "data", indexer=False) as address:
        server = ["--url", address]
        assert command_line.run(["import", "faiss", str(path), "docs", *server]) == 0
        said = capsys.readouterr()
        assert "created collection docs, from IndexIDMap2(IndexHNSWFlat)" in said.out
        assert "4 rows in" in said.out and "graph: taken over" in said.out
        assert "importing index: 0.0 MB" in said.err
        with vecdb.connect(address) as client:
            found = client.collection("docs").get(["a", "103"])
        assert (found.missing, found.metadata) == ([], [{"n": 1}, {}])
        plain = ["import", "faiss", str(path), "plain", "--no-meta", "--json", *server]
        assert command_line.run(plain) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == 4
        both = ["import", "faiss", str(path), "docs", *server, "--data", str(tmp_path / "other")]
        assert command_line.run(both) == 1
        assert "not both" in capsys.readouterr().err
        path.write_bytes(path.read_bytes()[:-1])
        assert command_line.run(["import", "faiss", str(path), "docs", *server]) == 1
        assert f"{path}: byte" in capsys.readouterr().err
