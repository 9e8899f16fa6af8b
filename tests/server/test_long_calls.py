"""Calls that wait: deadlines, callers that disconnect, writes and optimizes in progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.server.raw_calls import (
    VECTORS,
    Code,
    Wire,
    creation,
    failure_of,
    runtime_of,
    search,
    upsert,
)
from tests.serving import held, running_server
from tests.waiting import HANG_S, eventually
from vecdb import errors
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.search.search import Searcher
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix
from vecdb_server.access.callers import EVERYONE
from vecdb_server.service import Service


def test_a_deadline_that_has_passed_stops_a_write(server: Wire) -> None:
    class Late:
        caller = EVERYONE

        def check_collection(self, name: str) -> None:
            pass

        def time_remaining(self) -> float:
            return 0.0

        def is_active(self) -> bool:
            return True

    service = Service(1024)
    service.refusal = None
    service.runtime = runtime_of(server)
    with pytest.raises(errors.DeadlineExceededError):
        service.upsert(
            upsert(ids=["late"], vectors=encode_matrix(VECTORS[:1]), metadata=[]), Late()
        )
    response = server.stub.Get(wire.GetRequest(collection="docs", ids=["late"]))
    assert list(response.missing) == ["late"]


def test_search_of_a_disconnected_caller_is_cancelled(
    server: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome: list[Any] = []
    entered = threading.Event()

    def endless(self: Any, request: Any, deadline: Any) -> Any:
        entered.set()
        try:
            while True:
                deadline.check()
                time.sleep(0.005)
        except errors.VecdbError as error:
            outcome.append(type(error))
            raise

    monkeypatch.setattr(Searcher, "run", endless)
    call = server.stub.Search.future(search())
    assert entered.wait(HANG_S)
    call.cancel()
    eventually(lambda: outcome == [errors.CancelledError])
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Search(search(), timeout=0.1)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    eventually(lambda: len(outcome) == 2)


@pytest.mark.parametrize(
    ("method", "engine_method", "reason"),
    [
        ("Upsert", "write", "TOO_MANY_WRITES"),
        ("Optimize", "optimize", "TOO_MANY_OPTIMIZES"),
    ],
)
def test_waiting_writes_hold_a_quarter_of_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, engine_method: str, reason: str
) -> None:
    request: Any = wire.OptimizeRequest(collection="docs")
    with running_server(tmp_path / "data", threads=8) as address:
        raw = Wire(address)
        raw.stub.CreateCollection(creation("docs"))
        raw.stub.Upsert(upsert())
        entered, release = held(monkeypatch, engine_method)
        if method == "Upsert":
            request = upsert()
        start = getattr(raw.stub, method).future
        running = []
        for _ in range(2):
            entered.clear()
            running.append(start(request, timeout=HANG_S))
            assert entered.wait(HANG_S)
        eventually(lambda: _refused(raw, method, request) == (Code.RESOURCE_EXHAUSTED, reason))
        # Other calls are served.
        assert list(raw.stub.Search(search()).counts) == [2, 2]
        release.set()
        for call in running:
            call.result()
        getattr(raw.stub, method)(request, timeout=HANG_S)
        raw.channel.close()


def _refused(raw: Wire, method: str, request: Any) -> Any:
    """How a further call ends; one that is not refused would wait until its deadline."""
    with pytest.raises(grpc.RpcError) as caught:
        getattr(raw.stub, method)(request, timeout=HANG_S)
    return failure_of(caught.value)[:2]


def _never_done(ended: threading.Event, begun: threading.Event) -> Callable[..., Any]:
    """An optimize that goes on until its deadline says otherwise."""

    def run(self: Any, opened: Any, deadline: Any) -> Any:
        begun.set()
        try:
            while True:
                deadline.check()
                time.sleep(0.01)
        finally:
            ended.set()

    return run


def test_optimize_ends_with_its_deadline(server: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, begun = threading.Event(), threading.Event()
    monkeypatch.setattr(Runtime, "optimize", _never_done(ended, begun))
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Optimize(wire.OptimizeRequest(collection="docs"), timeout=0.4)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
    assert ended.wait(HANG_S)


def test_optimize_ends_when_its_caller_disconnects(
    server: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, begun = threading.Event(), threading.Event()
    monkeypatch.setattr(Runtime, "optimize", _never_done(ended, begun))
    call = server.stub.Optimize.future(wire.OptimizeRequest(collection="docs"))
    assert begun.wait(HANG_S)
    call.cancel()
    assert ended.wait(HANG_S)


def test_optimize_returns_the_stats_after_it(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as address:
        raw = Wire(address)
        raw.stub.CreateCollection(creation("docs"))
        raw.stub.Upsert(upsert())
        stats = raw.stub.Optimize(wire.OptimizeRequest(collection="docs"), timeout=HANG_S).stats
        assert (stats.live_count, stats.unindexed_rows, stats.fresh_rows) == (3, 0, 0)
        assert [segment.kind for segment in stats.segments] == ["graph"]
        raw.channel.close()


def test_many_callers_at_once(server: Wire) -> None:
    def one(number: int) -> list[str]:
        return list(server.stub.Search(search(k=1), timeout=HANG_S).ids)

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(one, range(400))) == [["a", "b"]] * 400
