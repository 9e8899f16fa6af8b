"""The client against real servers: surface, answers, lost connections, upsert_many, forks."""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
import vecdb_client
from tests.places import value_of
from tests.serving import (
    REQUEST_BYTES_MIN,
    ServerProcess,
    free_port,
    held,
    running_server,
    wait_until_ready,
)
from tests.waiting import HANG_S, NEVER_S, eventually
from vecdb import limits
from vecdb.engine.runtime.runtime import Runtime
from vecdb.types import IngestProgress
from vecdb_client import Client
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire

DIM = 8
INVALID = vecdb.InvalidArgumentError


def rows(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("client") / "data", indexer=False) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout_s=HANG_S) as client:
        yield client
        for description in client.list_collections():
            client.drop_collection(description.name)


@pytest.fixture
def docs(client: Client) -> Any:
    return client.create_collection("docs", DIM)


# ----------------------------------------------------------------------------------------- surface


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


def test_everything_public_is_annotated_and_documented() -> None:
    for kind in (vecdb_client.Client, vecdb_client.Collection):
        for name, member in public(kind).items():
            function = member.fget if isinstance(member, property) else member
            assert inspect.getdoc(member), name
            hints = function.__annotations__
            wanted = set(inspect.signature(function).parameters) - {"self"} | {"return"}
            assert wanted <= set(hints), name


def test_the_exported_names() -> None:
    assert vecdb_client.__all__ == ["Client", "Collection"]
    assert isinstance(vecdb.connect("127.0.0.1:1"), vecdb_client.Client)


def test_the_client_needs_no_engine() -> None:
    """Imports of the client's files, and what is loaded once it is imported."""
    allowed = {"vecdb", "vecdb_client", "vecdb_proto", "grpc", "google", "numpy"}
    for file in Path(vecdb_client.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top in allowed or top in sys.stdlib_module_names, f"{file.name}: {name}"
                assert not name.startswith("vecdb.engine")
    code = (
        "import sys, vecdb_client; "
        "bad = {'lmdb', 'hnswlib', 'numba', 'vecdb.engine', 'vecdb_server'}; "
        "sys.exit(str(sorted(bad & set(sys.modules))) if bad & set(sys.modules) else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_every_status_becomes_the_class_with_its_code() -> None:
    for status, kind in value_of("error_of_status").items():
        assert kind.code == status.name
    kinds = set(vecdb.errors.__all__) - {"Reason"}
    public_codes = {getattr(vecdb.errors, name).code for name in kinds}
    assert {status.name for status in value_of("error_of_status")} == public_codes


def test_metrics_are_all_on_the_wire() -> None:
    assert set(value_of("wire_of_metric")) == set(vecdb.Metric)
    assert set(value_of("metric_of_wire")) == set(wire.Metric.values()) - {0}


# ----------------------------------------------------------------------------------------- answers


def test_hits_are_what_was_written(docs: Any) -> None:
    vectors = rows(20)
    docs.upsert(
        [f"r{i}" for i in range(20)], vectors, [{"n": i} if i % 2 else None for i in range(20)]
    )
    hits = docs.search(vectors[3], k=5, include_vectors=True)
    assert hits.ids[0] == "r3"
    assert hits.metadata[0] == {"n": 3}
    assert hits.distances.dtype == np.float32
    assert np.all(np.diff(hits.distances) >= 0)
    assert np.array_equal(hits.vectors, vectors[[int(i[1:]) for i in hits.ids]])
    whole = vecdb.RecallInfo(1.0, 1.0, 0.95, 20, 0, None)
    assert hits.info == vecdb.SearchInfo(
        "scan", True, 0, 20, 20, 1, True, unindexed_rows=20, recall=whole
    )


def test_answers_may_be_written_into(docs: Any) -> None:
    docs.upsert(range(3), rows(3))
    hits = docs.search(rows(1)[0], k=3, include_vectors=True)
    hits.distances += 1
    hits.vectors *= 2
    docs.get([1]).vectors[0] = 0
    two = docs.search(rows(2), k=3)
    two[0].distances[:] = 7
    assert two[1].distances.max() < 7


def test_answers_to_many_queries_are_cut_at_the_right_places(docs: Any) -> None:
    vectors = rows(30)
    docs.upsert(range(30), vectors, [{"n": i} for i in range(30)])
    docs.delete(range(25, 30))
    queries = rows(7, seed=6)
    together = docs.search(queries, k=26, include_vectors=True)
    assert len(together) == 7
    for query, hits in zip(queries, together, strict=True):
        alone = docs.search(query, k=26, include_vectors=True)
        assert len(hits) == 25
        assert hits.ids == alone.ids
        assert hits.metadata == alone.metadata == [{"n": int(i)} for i in hits.ids]
        np.testing.assert_array_equal(hits.vectors, alone.vectors)
        np.testing.assert_allclose(hits.distances, alone.distances, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_few_queries_and_an_empty_collection(docs: Any, count: int) -> None:
    queries = rows(count)
    assert [len(hits) for hits in docs.search(queries, include_vectors=True)] == [0] * count
    docs.upsert(["a"], rows(1))
    answers = docs.search(queries, include_vectors=True)
    assert [hits.ids for hits in answers] == [["a"]] * count
    assert [hits.vectors.shape for hits in answers] == [(1, DIM)] * count


def test_a_search_of_nothing(docs: Any) -> None:
    hits = docs.search(rows(1)[0], include_vectors=True)
    assert (len(hits), hits.metadata, hits.vectors.shape) == (0, [], (0, DIM))
    records = docs.get(["a"])
    assert (records.ids, records.missing, records.vectors.shape) == ([], ["a"], (0, DIM))


@pytest.mark.parametrize(
    "query",
    [
        rows(1)[0].tolist(),
        rows(1)[0].astype(np.float64),
        np.stack([rows(1)[0]] * 2, axis=1)[:, 0],  # strided
        tuple(rows(1)[0]),
    ],
)
def test_queries_of_any_kind(docs: Any, query: Any) -> None:
    docs.upsert(range(5), rows(5))
    assert docs.search(query, k=1).ids == ["0"]


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (lambda c: c.search(np.ones(DIM + 1, np.float32)), INVALID, "DIM_MISMATCH"),
        (lambda c: c.search([1.0] * 3), INVALID, "DIM_MISMATCH"),
        (lambda c: c.search(np.full(DIM, np.nan, np.float32)), INVALID, "NOT_FINITE"),
        (lambda c: c.search([[1.0] * DIM, [1.0]]), INVALID, "NOT_A_MATRIX"),
        (lambda c: c.search("query"), INVALID, "NOT_A_MATRIX"),
        (lambda c: c.search(np.ones((1, 1, DIM), np.float32)), INVALID, "NOT_A_MATRIX"),
        (lambda c: c.search(rows(1), k=0), INVALID, "OUT_OF_RANGE"),
        (lambda c: c.search(rows(1), k=2.5), INVALID, "NOT_AN_INTEGER"),
        (lambda c: c.search(rows(1), ef=0), INVALID, "OUT_OF_RANGE"),
        (lambda c: c.search(rows(1), timeout_s=0), INVALID, "OUT_OF_RANGE"),
        (lambda c: c.search(rows(1), filter={"n": {"$near": 1}}), INVALID, "BAD_FILTER"),
        (lambda c: c.search(rows(1), filter=[{}, {}]), INVALID, "BAD_FILTER"),
        (lambda c: c.search(rows(1), target_recall=0), INVALID, "BAD_TARGET_RECALL"),
        (lambda c: c.upsert(["a", "a"], rows(2)), INVALID, "DUPLICATE_ID"),
        (lambda c: c.upsert(["a"], rows(2)), INVALID, "COUNT_MISMATCH"),
        (lambda c: c.upsert(["a"], rows(1), [[1]]), INVALID, "BAD_METADATA"),
        (lambda c: c.get(range(10_001)), INVALID, "BATCH_SIZE"),
        (lambda c: c.delete("a"), INVALID, "NOT_A_LIST"),
        (lambda c: c.optimize(), vecdb.UnavailableError, "NO_INDEXER"),
    ],
)  # fmt: skip
def test_refusals(docs: Any, call: Any, kind: type[vecdb.VecdbError], reason: str | None) -> None:
    with pytest.raises(kind) as caught:
        call(docs)
    assert type(caught.value) is kind
    assert reason is None or caught.value.reason == reason
    assert docs.stats().seq == 0


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (lambda c: c.collection("no such"), INVALID, "BAD_NAME"),
        (lambda c: c.collection("nobody"), vecdb.NotFoundError, None),
        (lambda c: c.drop_collection("nobody"), vecdb.NotFoundError, None),
        (lambda c: c.create_collection("docs", 3), vecdb.AlreadyExistsError, None),
        (lambda c: c.create_collection("x", 0), INVALID, "OUT_OF_RANGE"),
        (lambda c: c.create_collection("x", 3, "l2"), INVALID, "BAD_METRIC"),
    ],
)
def test_refusals_of_names_and_configurations(
    client: Client, docs: Any, call: Any, kind: type[vecdb.VecdbError], reason: str | None
) -> None:
    with pytest.raises(kind) as caught:
        call(client)
    assert type(caught.value) is kind
    assert reason is None or caught.value.reason == reason
    assert [each.name for each in client.list_collections()] == [docs.name]


def test_calls_larger_than_a_message_are_cut(docs: Any) -> None:
    entry = {"text": "x" * 60_000}
    assert docs.upsert(range(300), rows(300), [entry] * 300).count == 300
    found = docs.get(range(300))
    assert (len(found), found.metadata[299]) == (300, entry)


# -------------------------------------------------------------------------------------- connections


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


@pytest.mark.parametrize("address", ["", "localhost", ":7801", "localhost:http"])
def test_an_address_is_checked(address: str) -> None:
    with pytest.raises(vecdb.InvalidArgumentError, match="host:port"):
        Client(address)


def test_closed_client_refuses_calls(address: str) -> None:
    client = Client(address)
    assert client.list_collections() == []
    client.close()
    client.close()
    with pytest.raises(vecdb.FailedPreconditionError, match="closed") as caught:
        client.list_collections()
    assert caught.value.reason == "CLOSED"


def _gate(address: str) -> Iterator[tuple[str, threading.Event]]:
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
def gate(address: str) -> Iterator[tuple[str, threading.Event]]:
    yield from _gate(address)


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
    gate: tuple[str, threading.Event],
    monkeypatch: pytest.MonkeyPatch,
    engine_method: str,
    call: Any,
    expected: type[vecdb.VecdbError],
) -> None:
    address, cut = gate
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


# -------------------------------------------------------------------------------------- upsert_many


def test_upsert_many_reports_each_batch(docs: Any) -> None:
    told: list[IngestProgress] = []
    done = docs.upsert_many(range(95), rows(95), batch_rows=10, progress=told.append)
    assert [p.rows for p in told] == [*range(10, 100, 10), 95]
    # Two under way may overtake each other, so that the greatest seq so far is reported.
    seqs = [p.seq for p in told]
    assert seqs == sorted(seqs)
    assert all(seq >= number for number, seq in enumerate(seqs, 1))
    assert seqs[-1] == 10
    assert {p.total for p in told} == {95}
    assert done == told[-1]
    assert docs.count() == 95


def test_upsert_many_takes_iterables(docs: Any) -> None:
    done = docs.upsert_many(
        (f"r{i}" for i in range(25)), iter(rows(25)), ({"n": i} for i in range(25)), batch_rows=10
    )
    assert (done.rows, done.total, done.seq) == (25, None, 3)
    assert docs.get(["r24"]).metadata == [{"n": 24}]
    assert docs.upsert_many([], rows(0)).rows == 0


def test_the_later_of_two_rows_with_an_id_wins(docs: Any) -> None:
    """Neighbouring batches share ids, and two are under way at a time."""
    ids = [str(i % 7) for i in range(350)]
    vectors = rows(350)
    for _ in range(3):
        docs.upsert_many(ids, vectors, batch_rows=7)
        assert np.array_equal(docs.get([str(i) for i in range(7)]).vectors, vectors[-7:])


def test_batches_are_cut_to_the_servers_limit(tmp_path: Path) -> None:
    least = limits.MESSAGE_BYTES.minimum
    with (
        running_server(tmp_path / "data", indexer=False, message_bytes=least) as address,
        Client(address) as client,
    ):
        docs = client.create_collection("wide", 1_000)
        vectors = np.random.default_rng(1).normal(size=(100, 1_000)).astype(np.float32)
        metadata = [{"text": "x" * (40_000 if i == 50 else 10)} for i in range(100)]
        done = docs.upsert_many(range(100), vectors, metadata, batch_rows=100)
        assert done.rows == 100
        assert done.seq >= 100 * 4_000 / least
        assert docs.count() == 100
        assert np.array_equal(docs.get([50, 99]).vectors, vectors[[50, 99]])


@pytest.mark.parametrize("bad_row", [0, 15, 34])
def test_failure_reports_the_acknowledged_prefix(docs: Any, bad_row: int) -> None:
    vectors = rows(50)
    vectors[bad_row, 3] = np.nan
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        docs.upsert_many(range(50), vectors, batch_rows=10)
    progress = caught.value.progress
    # Those before it were under way, and are waited for.
    assert progress.rows == docs.count() == bad_row // 10 * 10
    assert progress.total == 50
    assert progress.seq == docs.stats().seq


def test_refused_batch_ends_upsert_many_with_the_prefix_before_it(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Runtime.write

    def third_fails(self: Any, opened: Any, batch: Any) -> Any:
        if b"20" in batch.ids:
            time.sleep(0.05)
            raise vecdb.ResourceExhaustedError("the disk is full", "DISK_FULL")
        return real(self, opened, batch)

    monkeypatch.setattr(Runtime, "write", third_fails)
    told: list[int] = []
    with pytest.raises(vecdb.ResourceExhaustedError, match="disk is full") as caught:
        docs.upsert_many(range(60), rows(60), batch_rows=10, progress=lambda p: told.append(p.rows))
    assert caught.value.reason == "DISK_FULL"
    assert caught.value.progress.rows == 20
    assert told == [10, 20]
    # The batch behind it was under way and may be there; nothing comes after that.
    count = docs.count()
    assert count in (20, 30)
    time.sleep(0.1)
    assert docs.count() == count


def test_error_of_the_input_has_the_acknowledged_prefix(docs: Any) -> None:
    def vectors() -> Iterator[np.ndarray]:
        yield from rows(25)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="the file ends here") as caught:
        docs.upsert_many(range(100), vectors(), batch_rows=10)
    assert caught.value.progress.rows == 20  # type: ignore[attr-defined]
    assert "20 of 100 rows were acknowledged" in caught.value.__notes__[0]
    assert docs.count() == 20


def test_rejected_writes_are_retried(tmp_path: Path) -> None:
    """Sixteen writers and a server that lets one write at a time."""
    with (
        running_server(tmp_path / "data", indexer=False, threads=4) as address,
        Client(address) as client,
    ):
        docs = client.create_collection("docs", DIM)

        def write(number: int) -> None:
            docs.upsert([f"one-{number}"], rows(1))
            docs.upsert_many([f"many-{number}-{i}" for i in range(20)], rows(20), batch_rows=5)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(write, range(16)))
        assert docs.count() == 16 * 21


# ------------------------------------------------------------------------------ threads and forks


def test_one_client_in_many_threads(docs: Any) -> None:
    vectors = rows(50)
    docs.upsert(range(50), vectors)

    def one(number: int) -> bool:
        row = number % 50
        return bool(docs.search(vectors[row], k=1).ids == [str(row)])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(300)))


def _in_a_child(client: Client, docs: Any, pipe: Any) -> None:
    outcomes = []
    for call in (docs.count, client.list_collections, lambda: docs.upsert(["x"], rows(1)),
                 lambda: docs.upsert_many(["x"], rows(1))):  # fmt: skip
        try:
            call()
            outcomes.append("answered")
        except vecdb.FailedPreconditionError as error:
            outcomes.append(error.reason)
    client.close()
    pipe.send(outcomes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Threads: that is the test.
def test_after_a_fork_every_call_fails_at_once(client: Client, docs: Any) -> None:
    assert docs.count() == 0
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=_in_a_child, args=(client, docs, theirs))
    child.start()
    assert ours.poll(20), "the child hangs"
    assert ours.recv() == ["FORKED"] * 4
    child.join(HANG_S)
    assert child.exitcode == 0
    # The parent's client is as good as before.
    assert docs.count() == 0


def test_type_hints_can_be_read() -> None:
    hints = typing.get_type_hints(Client.create_collection)
    assert hints["return"] is vecdb_client.Collection
