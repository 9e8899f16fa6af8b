"""What calls may take: known before it is taken, bounded for all of them, and given back."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import vecdb
from tests.places import override, value_of
from tests.serving import ServerProcess, running_server
from tests.waiting import HANG_S, eventually
from vecdb.engine.api.database import Database
from vecdb.engine.search import hits as answers
from vecdb.engine.search import search as search_module
from vecdb.engine.search.search import Searcher
from vecdb.engine.search.snapshots import lookup
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import MemoryBudget
from vecdb.engine.testing import runtime_of
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix
from vecdb_proto.vecdb_pb2_grpc import VecdbStub

DIM, ROWS = 64, 3_000
VECTORS = np.random.default_rng(3).normal(size=(ROWS, DIM)).astype(np.float32)
MIB = 1024**2


@pytest.fixture(scope="module")
def filled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with "docs" of 3,000 rows and "texts" of 100 with 60 KiB of metadata each."""
    data = tmp_path_factory.mktemp("memory") / "data"
    with vecdb.open(data, indexer=False) as database:
        database.create_collection("docs", DIM).upsert_many(range(ROWS), VECTORS)
        texts = database.create_collection("texts", DIM)
        texts.upsert(range(100), VECTORS[:100], [{"text": "x" * 60_000}] * 100)
    return data


@pytest.fixture
def opened(filled_folder: Path) -> Iterator[Callable[..., Any]]:
    """Opens that database, with options."""
    databases = []

    def open_it(**options: Any) -> Any:
        databases.append(vecdb.open(filled_folder, indexer=False, **options))
        return databases[-1]

    yield open_it
    for database in databases:
        database.close()


@pytest.fixture
def served(filled_folder: Path) -> Iterator[tuple[str, Database]]:
    """The address of a server of that database, and the database in it."""
    size = 2 * MIB
    with (
        running_server(filled_folder, indexer=False, message_bytes=size) as address,
        vecdb.open(filled_folder) as database,
    ):
        yield address, database


def refusal(work: Callable[[], Any]) -> vecdb.VecdbError:
    with pytest.raises(vecdb.ResourceExhaustedError) as caught:
        work()
    return caught.value


def search_whole(client: Any, name: str, queries: Any, k: int, **wanted: bool) -> Any:
    """A search as it is sent by clients that do not cut what is too large for a message."""
    request = wire.SearchRequest(collection=name, queries=encode_matrix(queries), k=k, **wanted)
    return calls_of(client).search(request, HANG_S)


def get_whole(client: Any, name: str, ids: list[str]) -> Any:
    return calls_of(client).wait("Get", wire.GetRequest(collection=name, ids=ids), HANG_S)


def never(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("it was read")


def test_an_answer_that_fits_no_message_is_refused_before_anything_is_read(
    served: tuple[str, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, database = served
    with vecdb.connect(address) as client:
        docs = client.collection("docs")
        assert len(docs.search(VECTORS[:2], k=ROWS, include_vectors=True)[1]) == ROWS
        for name in ("walk", "scan", "scan_unread"):
            monkeypatch.setattr(Searcher, name, never)
        monkeypatch.setattr(answers, "read_vectors", never)
        monkeypatch.setattr(lookup, "read_vectors", never)
        for _ in range(2):  # As a call and in a stream.
            error = refusal(
                lambda: search_whole(client, "docs", VECTORS[:20], ROWS, include_vectors=True)
            )
            assert error.reason == "MESSAGE_TOO_LARGE"
            least = 20 * ROWS * (4 * DIM + 7)
            assert f"at least {least} bytes, the maximum of a message is {2 * MIB}" in error.message
        # More hits than there are rows are not counted.
        error = refusal(
            lambda: search_whole(client, "docs", VECTORS[:20], 16_384, include_vectors=True)
        )
        assert str(least) in error.message
        ids = [str(number % ROWS) for number in range(9_000)]
        error = refusal(lambda: get_whole(client, "docs", ids))
        assert error.reason == "MESSAGE_TOO_LARGE"
    assert runtime_of(database).call_memory.bytes_used == 0


def test_metadata_that_fits_no_message_is_not_read_to_its_end(
    served: tuple[str, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "lookup_slice_records", 10)
    read: list[int] = []
    real = value_of("count_records")

    def count(records: Any, memory: Any) -> None:
        read.append(len(records))
        real(records, memory)

    override(monkeypatch, "count_records", count)
    address, database = served
    with vecdb.connect(address) as client:
        texts = client.collection("texts")
        for work in (
            lambda: search_whole(client, "texts", VECTORS[:1], 100, include_metadata=True),
            lambda: get_whole(client, "texts", [str(number) for number in range(100)]),
        ):
            read.clear()
            error = refusal(work)
            assert error.reason == "MESSAGE_TOO_LARGE"
            assert str(2 * MIB) in error.message
            assert sum(read) == 40  # Of 60 KB each, 34 fill 2 MiB.
        assert len(texts.search(VECTORS[0], k=30)) == 30
        assert len(texts.search(VECTORS[0], k=100, include_metadata=False)) == 100
    assert runtime_of(database).call_memory.bytes_used == 0


def test_calls_take_no_more_than_they_may_together(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened(call_bytes_max=12 * MIB)
    docs = database.collection("docs")
    assert len(docs.search(VECTORS[0], k=ROWS, include_vectors=True)) == ROWS
    error = refusal(lambda: docs.search(VECTORS[:12], k=ROWS, include_vectors=True))
    assert error.reason == "CALL_MEMORY"
    numbers = [int(number) for number in re.findall(r"\d+", error.message)]
    assert numbers[0] > numbers[1] == numbers[2] == 12 * MIB
    assert runtime_of(database).call_memory.bytes_used == 0

    inside, go_on = threading.Event(), threading.Event()
    real = search_module.answers

    def waiting(*arguments: Any) -> Any:
        inside.set()
        assert go_on.wait(HANG_S)
        return real(*arguments)

    with ThreadPoolExecutor() as pool:
        monkeypatch.setattr(search_module, "answers", waiting)
        first = pool.submit(docs.search, VECTORS[:5], k=ROWS, include_vectors=True)
        assert inside.wait(HANG_S)
        monkeypatch.setattr(search_module, "answers", real)
        used = runtime_of(database).call_memory.bytes_used
        assert 5 * ROWS * 4 * DIM < used < 12 * MIB
        error = refusal(lambda: docs.search(VECTORS[:5], k=ROWS, include_vectors=True))
        assert f"{12 * MIB - used} are free" in error.message
        # Others that take little go on.
        assert len(docs.search(VECTORS[0], k=10)) == 10
        assert len(docs.get(["1", "2"])) == 2
        assert len(docs.scroll_page(batch=10).records) == 10
        go_on.set()
        assert len(first.result(HANG_S)) == 5
    assert runtime_of(database).call_memory.bytes_used == 0
    assert len(docs.search(VECTORS[:5], k=ROWS, include_vectors=True)) == 5


def test_metadata_is_counted_as_it_is_read(opened: Callable[..., Any]) -> None:
    database = opened(call_bytes_max=4 * MIB)
    texts = database.collection("texts")
    assert refusal(lambda: texts.search(VECTORS[0], k=100)).reason == "CALL_MEMORY"
    assert refusal(lambda: texts.get(range(100))).reason == "CALL_MEMORY"
    assert runtime_of(database).call_memory.bytes_used == 0
    assert len(texts.get(range(50))) == 50


def test_what_is_done_once_more_is_counted_once(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened(call_bytes_max=12 * MIB)
    docs = database.collection("docs")
    used: list[int] = []
    real = search_module.answers

    def overtaken(*arguments: Any) -> Any:
        used.append(runtime_of(database).call_memory.bytes_used)
        if len(used) == 1:
            raise search_module.SnapshotTooOldError("purged meanwhile", "OVERTAKEN")
        return real(*arguments)

    monkeypatch.setattr(search_module, "answers", overtaken)
    assert len(docs.search(VECTORS[:5], k=ROWS, include_vectors=True)) == 5
    assert used[0] == used[1] > 0


def test_requests_and_answers_on_their_way_are_counted(served: tuple[str, Database]) -> None:
    address, database = served
    options = (("grpc.http2.lookahead_bytes", 0), ("grpc.http2.bdp_probe", 0))
    with grpc.insecure_channel(address, options=options) as channel:
        search = channel.unary_stream(
            "/vecdb.v1.Vecdb/Search", response_deserializer=wire.SearchResponse.FromString
        )
        queries = encode_matrix(VECTORS[:2])
        request = wire.SearchRequest(
            collection="docs", queries=queries, k=ROWS, include_vectors=True
        )
        unread = search(request.SerializeToString(), timeout=HANG_S)
        # It is not read: it stays counted, though its handler has returned.
        eventually(lambda: 3 * MIB < runtime_of(database).call_memory.bytes_used < 4 * MIB)
        assert list(next(unread).counts) == [ROWS, ROWS]
        eventually(lambda: runtime_of(database).call_memory.bytes_used == 0)
        gone = search(request.SerializeToString(), timeout=HANG_S)
        eventually(lambda: 3 * MIB < runtime_of(database).call_memory.bytes_used < 4 * MIB)
        gone.cancel()
        eventually(lambda: runtime_of(database).call_memory.bytes_used == 0)


def test_a_request_that_does_not_fit_beside_others_is_refused(
    served: tuple[str, Database],
) -> None:
    address, database = served
    with grpc.insecure_channel(address) as channel:
        stub: Any = VecdbStub(channel)
        request = wire.UpsertRequest(
            collection="docs",
            ids=[str(number) for number in range(4_000)],
            vectors=encode_matrix(np.resize(VECTORS, (4_000, DIM))),
        )
        other = runtime_of(database).call_memory.call()
        other.take(runtime_of(database).call_memory.bytes_max - MIB)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Upsert(request, timeout=HANG_S)
        assert ("vecdb-reason", "CALL_MEMORY") in caught.value.trailing_metadata()
        assert stub.Count(wire.CountRequest(collection="docs")).count == ROWS
        other.close()
    assert runtime_of(database).call_memory.bytes_used == 0


# -------------------------------------------------------------------------- no memory at all


def without_memory(*arguments: Any, **named: Any) -> Any:
    return np.empty((2**24, 2**24), np.float32)


@pytest.mark.parametrize("way", ["embedded", "remote"])
def test_a_machine_without_memory_refuses_calls(
    way: str, served: tuple[str, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, database = served
    with vecdb.connect(address) as client:
        docs = (client if way == "remote" else database).collection("docs")
        with monkeypatch.context() as patched:
            patched.setattr(search_module, "answers", without_memory)
            patched.setattr(lookup, "read_vectors", without_memory)
            patched.setattr(Store, "apply", without_memory)
            for work in (
                lambda: docs.search(VECTORS[0]),
                lambda: docs.get(["1"]),
                lambda: docs.upsert(["new"], VECTORS[:1]),
            ):
                error = refusal(work)
                assert error.reason == "OUT_OF_MEMORY"
                assert "out of memory" in error.message
        assert docs.count() == ROWS
        assert docs.get(["new"]).missing == ["new"]


def test_a_budget_counts_from_many_threads() -> None:
    budget = MemoryBudget(64 * MIB)

    def work(number: int) -> int:
        refused = 0
        for _ in range(200):
            try:
                with budget.call() as memory:
                    memory.take(number * MIB)
                    memory.answer(10_000)
            except vecdb.ResourceExhaustedError:
                refused += 1
        return refused

    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(work, [1, 2, 3, 4, 40, 50, 64, 65]))
    assert refused[-2:] == [200, 200]  # With an answer they never fit.
    assert budget.bytes_used == 0


# --------------------------------------------------------------------------- and back it goes


def memory_of(pid: int) -> tuple[int, int]:
    """Resident bytes of a process now, and at most so far."""
    text = Path(f"/proc/{pid}/status").read_text()
    now, most = (re.search(rf"{name}:\s+(\d+) kB", text) for name in ("VmRSS", "VmHWM"))
    assert now is not None and most is not None
    return 1024 * int(now[1]), 1024 * int(most[1])


@pytest.mark.slow
def test_memory_of_ended_calls_is_returned_to_the_system(filled_folder: Path) -> None:
    with ServerProcess(filled_folder, indexer=False) as server:
        address = server.address

        def search(_: int) -> int:
            with vecdb.connect(address) as client:
                found = client.collection("docs").search(VECTORS[:20], k=ROWS, include_vectors=True)
                return sum(len(hits) for hits in found)

        assert len(vecdb.connect(address).collection("docs").search(VECTORS[0])) == 10
        before, _ = memory_of(server.pid)
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(search, range(6))) == [20 * ROWS] * 6
        _, most = memory_of(server.pid)
        assert most > before + 100 * MIB
        eventually(lambda: memory_of(server.pid)[0] < before + 80 * MIB)


def test_unread_answers_release_their_memory(
    filled_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "unread_answer_s", 0.0)
    override(monkeypatch, "idle_stream_s", 0.5)
    size = 2 * MIB
    with (
        running_server(
            filled_folder, indexer=False, threads=4, message_bytes=size, call_bytes_max=10 * MIB
        ) as address,
        vecdb.connect(address) as client,
    ):
        docs = client.collection("docs")
        ids = [str(number) for number in range(ROWS)]
        get = wire.GetRequest(collection="docs", ids=ids).SerializeToString()
        search = wire.SearchRequest(
            collection="docs", queries=encode_matrix(VECTORS[:1]), k=ROWS, include_vectors=True
        ).SerializeToString()
        with contextlib.ExitStack() as open_ones:
            for _ in range(8):
                open_ones.enter_context(reads_nothing(address, b"Get", get))
            open_ones.enter_context(reads_nothing(address, b"SearchStream", search))
            # A refused call has released its memory.
            eventually(lambda: served_whole(lambda: get_whole(client, "docs", ids)))
            with grpc.insecure_channel(address) as channel:
                one = wire.SearchRequest(collection="docs", queries=encode_matrix(VECTORS[:1]), k=1)
                eventually(lambda: in_a_stream(VecdbStub(channel), one))
        assert docs.count() == ROWS


def test_little_answers_on_their_way_are_counted() -> None:
    budget = MemoryBudget(3 * MIB)
    calls = [budget.call(MIB) for _ in range(16)]
    for call in calls[:15]:
        with call:
            call.answer(20_000)
            call.outlive(100_000)
    assert budget.bytes_used == 15 * 200_000
    error = refusal(lambda: calls[15].outlive(100_000))
    assert error.reason == "CALL_MEMORY"
    for call in calls:
        call.close()
    assert budget.bytes_used == 0


def served_whole(call: Callable[[], Any]) -> bool:
    try:
        return bool(call())
    except (vecdb.ResourceExhaustedError, vecdb.CancelledError):
        # Cancelled: where no answer may wait to be read, this one made room for another.
        return False


def in_a_stream(stub: Any, request: wire.SearchRequest) -> bool:
    try:
        return len(list(stub.SearchStream(iter([request]), timeout=HANG_S))) == 1
    except grpc.RpcError:  # TOO_MANY_STREAMS.
        return False


@contextlib.contextmanager
def reads_nothing(address: str, method: bytes, message: bytes) -> Iterator[None]:
    """A caller that leaves no room for its answer: HTTP/2 with windows of no bytes."""

    def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
        return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body

    def header(name: bytes, value: bytes) -> bytes:
        return bytes([0, len(name)]) + name + bytes([len(value)]) + value

    headers = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/vecdb.v1.Vecdb/" + method),
        (b":authority", b"test"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    data = b"\0" + struct.pack(">I", len(message)) + message
    parts = [data[at : at + 16_384] for at in range(0, len(data), 16_384)]
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=HANG_S) as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, struct.pack(">HI", 4, 0))
            + frame(1, 4, 1, b"".join(header(*each) for each in headers))
            + b"".join(frame(0, 0, 1, part) for part in parts)
        )
        yield
