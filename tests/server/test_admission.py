"""Calls that are open and idle: they do not delay others, and their number is limited."""

from __future__ import annotations

import gc
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import vecdb
from tests.places import override
from tests.serving import held, running_server
from tests.waiting import HANG_S, eventually
from vecdb import limits
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix
from vecdb_proto.vecdb_pb2_grpc import VecdbStub
from vecdb_server.call_threads import CallThreads
from vecdb_server.process import Server
from vecdb_server.testing import has_reaper, open_calls, running_calls

DIM = 4
VECTORS = np.eye(3, DIM, dtype=np.float32) + np.float32(0.1)
SERVING = health_pb2.HealthCheckResponse.SERVING
METHODS = wire.DESCRIPTOR.services_by_name["Vecdb"].methods_by_name


class Idle:
    """Calls on a connection of their own whose message does not come until ``go_on``."""

    def __init__(self, address: str) -> None:
        own = (("grpc.use_local_subchannel_pool", 1),)
        self.address = address
        self.channel = grpc.insecure_channel(address, options=own)
        self.calls: list[Any] = []
        self._ends: list[queue.SimpleQueue[Any]] = []

    def open(self, method: str, count: int = 1, *messages: bytes) -> list[Any]:
        """Begin some, each after its first messages."""
        started = []
        for _ in range(count):
            more: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for message in messages:
                more.put(message)
            self._ends.append(more)
            begin = self.channel.stream_stream(method)
            started.append(begin(iter(more.get, None), timeout=2 * HANG_S))
        self.calls += started
        return started

    def finish_sending(self) -> None:
        """Nothing more will come on any of them."""
        for more in self._ends:
            more.put(None)

    def close(self) -> None:
        self.finish_sending()
        for call in self.calls:
            call.cancel()
        self.channel.close()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a server with a collection "docs" of 3 rows; gives it, a raw stub, and idle calls."""
    with ExitStack() as stack:

        def start(**options: Any) -> tuple[Server, Any, Idle]:
            server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False, **options)
            server.start()
            stack.callback(server.drain, 1.0)
            idle = Idle(server.address)
            stack.callback(idle.close)
            channel = stack.enter_context(grpc.insecure_channel(server.address))
            stub: Any = VecdbStub(channel)
            config = wire.CollectionConfig(dim=DIM, metric=wire.METRIC_COSINE)
            stub.CreateCollection(wire.CreateCollectionRequest(collection="docs", config=config))
            stub.Upsert(upsert(), timeout=HANG_S)
            return server, stub, idle

        yield start


def upsert() -> Any:
    return wire.UpsertRequest(
        collection="docs", ids=["a", "b", "c"], vectors=encode_matrix(VECTORS)
    )


def search() -> Any:
    return wire.SearchRequest(collection="docs", queries=encode_matrix(VECTORS[:1]), k=2)


def check_served(server: Server, stub: Any) -> None:
    """Search, upsert and health are answered, on connections that are there and on a new one."""
    assert list(stub.Search(search(), timeout=HANG_S).counts) == [2]
    assert stub.Upsert(upsert(), timeout=HANG_S).count == 3
    assert health(server.address) == SERVING


def health(address: str) -> int:
    own = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=own) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S).status


def code_of(call: Any) -> Any:
    """How a call ended, once it has."""
    eventually(call.done)
    return call.code()


def test_calls_without_a_message_do_not_delay_others(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "slow_calls_max", 1_000)  # Slow ones stay, however long this takes.
    server, stub, idle = started(threads=4)
    for method in METHODS:
        idle.open(f"/vecdb.v1.Vecdb/{method}", 8)
        eventually(lambda: open_calls(server) == len(idle.calls))
        check_served(server, stub)
        assert running_calls(server) == 0
    assert len(idle.calls) > 100


def test_a_call_that_ends_without_a_message_is_refused(started: Any) -> None:
    server, stub, idle = started(threads=4)
    for method in set(METHODS) - {"Import"}:
        (call,) = idle.open(f"/vecdb.v1.Vecdb/{method}")
        idle.finish_sending()
        assert code_of(call) is grpc.StatusCode.INVALID_ARGUMENT, method
        assert call.details() == "the call ended without a message"
    eventually(lambda: open_calls(server) == 0)
    check_served(server, stub)


def test_slow_calls_beyond_the_limit_are_cancelled(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "slow_calls_max", 4)
    override(monkeypatch, "call_patience_s", 0.05)
    server, stub, idle = started()
    calls = idle.open("/vecdb.v1.Vecdb/Search", 20)
    eventually(lambda: sum(call.done() for call in calls) == 16)
    assert {call.code() for call in calls if call.done()} == {grpc.StatusCode.CANCELLED}
    eventually(lambda: open_calls(server) == 4 and not has_reaper(server))
    check_served(server, stub)
    # The thread that ends slow calls is started again.
    idle.open("/vecdb.v1.Vecdb/Count", 3)
    eventually(lambda: sum(call.done() for call in idle.calls) == 19)


def test_call_beyond_the_limit_cancels_the_one_that_waits_longest(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "calls_max", 6)
    server, stub, idle = started()
    first = idle.open("/vecdb.v1.Vecdb/Search")
    eventually(lambda: open_calls(server) == 1)
    others = idle.open("/vecdb.v1.Vecdb/Upsert", 5)
    eventually(lambda: open_calls(server) == 6)
    assert list(stub.Search(search(), timeout=HANG_S).counts) == [2]
    assert code_of(first[0]) is grpc.StatusCode.CANCELLED
    assert not any(call.done() for call in others)


def test_call_is_refused_if_all_open_calls_are_running(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "calls_max", 2)
    server, stub, _ = started()
    _, release = held(monkeypatch, "count")
    request = wire.CountRequest(collection="docs")
    calls = [stub.Count.future(request, timeout=HANG_S) for _ in range(2)]
    eventually(lambda: running_calls(server) == 2)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Search(search(), timeout=HANG_S)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("vecdb-reason", "TOO_MANY_CALLS") in error.trailing_metadata()
    assert "too many open calls (2, limit 2)" in error.details()
    assert health(server.address) == SERVING
    release.set()
    assert [call.result().count for call in calls] == [3, 3]
    eventually(lambda: open_calls(server) == 0)
    check_served(server, stub)


def test_calls_of_a_connection_are_limited(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    override(monkeypatch, "calls_of_connection_max", 5)
    server, stub, idle = started()
    calls = idle.open("/vecdb.v1.Vecdb/Search", 9)
    eventually(lambda: open_calls(server) == 5)
    check_served(server, stub)
    # What is kept back is sent when there is room.
    calls[0].cancel()
    eventually(lambda: open_calls(server) == 5)
    assert sum(call.done() for call in calls) == 1


def test_connection_beyond_the_limit_is_refused(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "connections_max", 3)
    _, stub, idle = started()
    with ExitStack() as stack:
        channels = [
            stack.enter_context(
                grpc.insecure_channel(
                    idle.address, options=(("grpc.use_local_subchannel_pool", 1),)
                )
            )
            for _ in range(6)
        ]
        answered = 0
        for channel in channels:
            try:
                VecdbStub(channel).ServerInfo(wire.ServerInfoRequest(), timeout=2)  # type: ignore[no-untyped-call]
                answered += 1
            except grpc.RpcError:
                pass
        assert answered <= 3
        assert list(stub.Search(search(), timeout=HANG_S).counts) == [2]


def test_connections_without_a_call_are_closed(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "idle_connection_s", 1)
    override(monkeypatch, "handshake_s", 1)
    server, stub, _ = started()
    host, _, port = server.address.partition(":")
    says_nothing = socket.create_connection((host, int(port)), timeout=HANG_S)
    greets = socket.create_connection((host, int(port)), timeout=HANG_S)
    settings = b"\0\0\0\x04\0\0\0\0\0"
    greets.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
    for connection in (says_nothing, greets):
        with connection, suppress(ConnectionResetError):
            while connection.recv(65_536):
                pass
    check_served(server, stub)


def test_a_call_waits_for_a_worker_until_its_deadline(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, stub, _ = started(threads=4)
    _, release = held(monkeypatch, "count")
    request = wire.CountRequest(collection="docs")
    calls = [stub.Count.future(request, timeout=HANG_S) for _ in range(4)]
    eventually(lambda: running_calls(server) == 4)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Search(search(), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    waiting = stub.Search.future(search(), timeout=HANG_S)
    eventually(lambda: open_calls(server) == 5)
    assert running_calls(server) == 4
    assert health(server.address) == SERVING
    release.set()
    assert list(waiting.result().counts) == [2]
    assert [call.result().count for call in calls] == [3] * 4


# ---------------------------------------------------------------------------- health


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_health_answers_beside_calls_of_its_own_without_a_message(
    started: Any, method: str
) -> None:
    server, stub, idle = started(threads=4)
    idle.open(f"/grpc.health.v1.Health/{method}", 120)
    eventually(lambda: sum(call.done() for call in idle.calls) >= 120 - 96)
    check_served(server, stub)


def test_health_watchers_are_notified_and_the_oldest_is_replaced(started: Any) -> None:
    server, _, idle = started()
    request = health_pb2.HealthCheckRequest().SerializeToString()
    watchers = idle.open("/grpc.health.v1.Health/Watch", 32, request)
    first = [health_pb2.HealthCheckResponse.FromString(next(each)).status for each in watchers]
    assert first == [SERVING] * 32
    (newer,) = idle.open("/grpc.health.v1.Health/Watch", 1, request)
    assert health_pb2.HealthCheckResponse.FromString(next(newer)).status == SERVING
    eventually(lambda: sum(each.done() for each in watchers) == 1)
    server.drain()
    told = health_pb2.HealthCheckResponse.FromString(next(newer)).status
    assert told == health_pb2.HealthCheckResponse.NOT_SERVING
    assert code_of(newer) is grpc.StatusCode.OK


def test_health_of_an_unknown_service_is_not_found(started: Any) -> None:
    server, _, _ = started()
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="other")
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(request, timeout=HANG_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
        watch = stub.Watch(request, timeout=HANG_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


# ------------------------------------------------------------------- slots of idle transfers


def import_begin() -> bytes:
    begin = wire.ImportBegin(collection="new", kind=wire.IMPORT_KIND_FAISS, bytes=1_000_000)
    message: bytes = wire.ImportRequest(begin=begin).SerializeToString()
    return message


def spools(folder: Path) -> int:
    return len(list((folder / "data" / "incoming").glob("*")))


def test_idle_import_yields_its_slot_to_a_new_one(
    tmp_path: Path, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "idle_transfer_s", 0.0)
    _, stub, idle = started(threads=4)
    (first,) = idle.open("/vecdb.v1.Vecdb/Import", 1, import_begin())
    eventually(lambda: spools(tmp_path) == 1)
    (second,) = idle.open("/vecdb.v1.Vecdb/Import", 1, import_begin())
    assert code_of(first) is grpc.StatusCode.CANCELLED
    eventually(lambda: spools(tmp_path) == 1)
    assert not second.done()
    request = wire.OptimizeRequest(collection="docs")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Optimize(request, timeout=HANG_S)
    # It has the place: what refuses it is that this server runs no indexer.
    assert ("vecdb-reason", "NO_INDEXER") in caught.value.trailing_metadata()  # type: ignore[attr-defined]
    eventually(lambda: spools(tmp_path) == 0)


def test_import_that_is_idle_for_a_moment_keeps_its_slot(tmp_path: Path, started: Any) -> None:
    _, stub, idle = started(threads=4)
    (first,) = idle.open("/vecdb.v1.Vecdb/Import", 1, import_begin())
    eventually(lambda: spools(tmp_path) == 1)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Optimize(wire.OptimizeRequest(collection="docs"), timeout=HANG_S)
    reasons = dict(caught.value.trailing_metadata())  # type: ignore[attr-defined]
    assert reasons["vecdb-reason"] == "TOO_MANY_OPTIMIZES"
    assert not first.done()


def test_unread_export_yields_its_slot_to_a_new_one(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "idle_transfer_s", 0.0)
    server, stub, _ = started(threads=4)
    with vecdb.connect(server.address) as client:
        wide = client.create_collection("wide", 1_024)
        wide.upsert_many(
            range(4_000), np.random.default_rng(1).normal(size=(4_000, 1_024)).astype(np.float32)
        )
    request = wire.ExportRequest(collection="wide", format=wire.EXPORT_FORMAT_FAISS_FLAT)
    own = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
    with grpc.insecure_channel(server.address, options=own) as channel:
        unread = VecdbStub(channel).Export(request)  # type: ignore[no-untyped-call]
        next(unread)  # The rest is more than gRPC takes on without a reader.
        sizes: list[int] = []

        def exported() -> bool:
            """The first may still be sending."""
            with suppress(grpc.RpcError):
                sizes.extend(len(p.chunk) for p in stub.Export(request, timeout=HANG_S))
            return bool(sizes)

        eventually(exported)
        assert sum(sizes) > 4_000 * 4 * 1_024
        with pytest.raises(grpc.RpcError) as caught:
            list(unread)
        assert caught.value.code() is grpc.StatusCode.CANCELLED


# ---------------------------------------------------------------------------------- the threads


def test_pool_has_a_thread_per_call_and_ends_idle_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    override(monkeypatch, "idle_thread_s", 0.02)
    pool, go_on = CallThreads(20, 3, lambda: None), threading.Event()
    waiting = [pool.submit(go_on.wait) for _ in range(20)]
    queued = [pool.submit(int, number) for number in "123"]
    assert pool.threads == 20
    assert not any(each.done() for each in queued)
    go_on.set()
    assert [each.result(HANG_S) for each in queued] == [1, 2, 3]
    assert all(each.result(HANG_S) for each in waiting)
    eventually(lambda: pool.threads == 3)
    assert isinstance(pool.submit(int, "x").exception(HANG_S), ValueError)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_calls_are_queued_if_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short: list[bool] = []
    pool, go_on = CallThreads(20, 3, lambda: short.append(True)), threading.Event()
    first = pool.submit(go_on.wait)

    def refused(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        second = pool.submit(int, "2")
    assert (pool.threads, short) == (1, [True])
    go_on.set()
    assert first.result(HANG_S)
    assert second.result(HANG_S) == 2
    pool.shutdown()


# -------------------------------------------------------------------------- abandoned scrolls


def page(stub: Any, token: str = "") -> Any:
    request = wire.ScrollPageRequest(collection="docs", batch=1, token=token)
    return stub.ScrollPage(request, timeout=HANG_S)


def test_abandoned_scrolls_yield_to_new_ones(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASES_MAX", 20)
    override(monkeypatch, "scroll_idle_s", 0.0)
    _, stub, _ = started()
    left = [page(stub).next_token for _ in range(20)]
    page(stub, left[0])  # This one is gone on with: so the second has rested for longest.
    mine = page(stub)
    assert len(page(stub, mine.next_token).ids) == 1
    assert len(page(stub, left[0]).ids) == 1
    with pytest.raises(grpc.RpcError) as caught:
        page(stub, left[1])
    assert ("vecdb-reason", "PIN_EXPIRED") in caught.value.trailing_metadata()  # type: ignore[attr-defined]
    for _ in range(50):
        page(stub)


def test_scrolls_in_use_are_not_ended_for_a_new_one(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEASES_MAX", 3)
    override(monkeypatch, "scroll_idle_s", 2 * HANG_S)
    _, stub, _ = started()
    used = [page(stub).next_token for _ in range(3)]
    with pytest.raises(grpc.RpcError) as caught:
        page(stub)
    assert ("vecdb-reason", "TOO_MANY_SCROLLS") in caught.value.trailing_metadata()  # type: ignore[attr-defined]
    assert [len(page(stub, token).ids) for token in used] == [1, 1, 1]


def test_calls_that_failed_do_not_stay_open(tmp_path: Path) -> None:
    """A server hardly collects garbage: a call that is kept by a circle of references would count
    among those of its connection, of which there may be 256."""
    with running_server(tmp_path / "data", indexer=False) as address:
        gc.collect()
        gc.disable()
        try:
            with grpc.insecure_channel(address) as channel:
                get = channel.unary_unary("/vecdb.v1.Vecdb/Get")
                data = wire.GetRequest(collection="none", ids=["a"]).SerializeToString()
                for _ in range(600):
                    with pytest.raises(grpc.RpcError) as caught:
                        get(data, timeout=HANG_S)
                    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        finally:
            gc.enable()
