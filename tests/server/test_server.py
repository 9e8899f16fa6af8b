"""The server over a raw stub: what it refuses and how, its states, its caps, its end."""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import vecdb
from tests.places import override
from tests.serving import ServerProcess, held, running_server
from tests.waiting import HANG_S, NEVER_S, eventually
from vecdb import errors, limits
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.search.search import Searcher
from vecdb.engine.testing import open_runtimes
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import decode_floats, decode_matrix, encode_matrix
from vecdb_proto.vecdb_pb2_grpc import VecdbStub
from vecdb_server import log, translation
from vecdb_server.admission import OpenCalls
from vecdb_server.process import Server, check_listen
from vecdb_server.service import Service
from vecdb_server.transport import Activity, service_handler

DIM = 4
Code = grpc.StatusCode


class Wire:
    """A raw stub, and how a call on it failed."""

    def __init__(self, address: str, **options: int) -> None:
        limit = ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)
        self.channel = grpc.insecure_channel(address, options=limit)
        self.stub: Any = VecdbStub(self.channel)

    def failure(self, method: str, request: Any, **options: Any) -> tuple[Code, str, str]:
        """Status, reason and message."""
        with pytest.raises(grpc.RpcError) as caught:
            getattr(self.stub, method)(request, timeout=HANG_S, **options)
        return failure_of(caught.value)

    def health(self, service: str = "") -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=HANG_S).status


def failure_of(error: Any) -> tuple[Code, str, str]:
    reasons = [value for key, value in error.trailing_metadata() if key == "vecdb-reason"]
    return error.code(), reasons[0] if reasons else "", error.details()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server") / "data", indexer=False) as address:
        yield address


@pytest.fixture(scope="module")
def server(address: str) -> Iterator[Wire]:
    """A server with a collection "docs" of 3 rows; tests that write use others."""
    raw = Wire(address)
    raw.stub.CreateCollection(creation("docs"))
    raw.stub.Upsert(upsert(collection="docs"))
    yield raw
    raw.channel.close()


def creation(name: str, dim: int = DIM, metric: int = wire.METRIC_COSINE) -> Any:
    config = wire.CollectionConfig(dim=dim)
    config.metric = metric  # type: ignore[assignment]
    return wire.CreateCollectionRequest(collection=name, config=config)


VECTORS = np.eye(3, DIM, dtype=np.float32) + np.float32(0.1)


def upsert(**changes: Any) -> Any:
    """A good request for 3 rows, with changes."""
    fields: dict[str, Any] = {
        "collection": "docs",
        "ids": ["a", "b", "c"],
        "vectors": encode_matrix(VECTORS),
        "metadata": [b'{"n": 1}', b"", b'{"big": 9007199254740993}'],
    }
    return wire.UpsertRequest(**{**fields, **changes})


def search(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "collection": "docs",
        "queries": encode_matrix(VECTORS[:2]),
        "k": 2,
        "include_metadata": True,
    }
    return wire.SearchRequest(**{**fields, **changes})


def test_answers_come_in_columns(server: Wire) -> None:
    response = server.stub.Search(search(include_vectors=True))
    assert list(response.counts) == [2, 2]
    assert len(response.ids) == len(response.metadata) == 4
    assert (response.ids[0], response.ids[2]) == ("a", "b")
    assert response.metadata[0] == b'{"n": 1}'
    distances = decode_floats(response.distances)
    assert distances.shape == (4,)
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert np.array_equal(decode_matrix(response.vectors)[[0, 2]], VECTORS[:2])
    (info,) = response.infos
    assert (info.plan, info.exact, info.matches, info.seq) == ("scan", True, 3, 1)
    assert list(response.visited) == [3, 3]


def test_a_search_without_extras_has_none(server: Wire) -> None:
    response = server.stub.Search(search(include_metadata=False))
    assert list(response.metadata) == []
    assert not response.HasField("vectors")


def test_no_queries_have_no_answers(server: Wire) -> None:
    none = encode_matrix(np.zeros((0, DIM), np.float32))
    response = server.stub.Search(search(queries=none))
    assert list(response.counts) == []
    assert response.distances == b""


def test_metadata_keeps_its_text(server: Wire) -> None:
    response = server.stub.Get(wire.GetRequest(collection="docs", ids=["c", "zz", "a"]))
    assert list(response.ids) == ["c", "a"]
    assert list(response.missing) == ["zz"]
    assert list(response.metadata) == [b'{"big": 9007199254740993}', b'{"n": 1}']
    assert np.array_equal(decode_matrix(response.vectors), VECTORS[[2, 0]])


def test_server_info(server: Wire) -> None:
    info = server.stub.ServerInfo(wire.ServerInfoRequest())
    assert info.version == vecdb.__version__
    assert info.data_format == 1
    assert info.limits.dim_max == limits.DIM.maximum
    assert info.limits.filter_terms_max == limits.FILTER_TERMS_MAX
    assert info.limits.filter_bytes_max == limits.FILTER_BYTES_MAX
    assert info.limits.message_bytes == limits.MESSAGE_BYTES.default
    assert list(info.features) == [
        *("request_id", "conditions", "rename", "export", "import", "target_recall", "filter"),
        *("on_existing", "set_metadata", "dry_run", "listing", "collection_metadata"),
        "index_fields",
    ]


NAN = np.full((3, DIM), np.nan, np.float32)
FLOAT32 = wire.DTYPE_FLOAT32
REFUSED_UPSERTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "matrix too short": (
        {"vectors": wire.Matrix(rows=3, dim=DIM, dtype=FLOAT32, data=b"x" * 44)},
        "MATRIX_SIZE",
        "48 bytes, got 44",
    ),
    "matrix too long": (
        {"vectors": wire.Matrix(rows=3, dim=DIM, dtype=FLOAT32, data=b"x" * 52)},
        "MATRIX_SIZE",
        "48 bytes, got 52",
    ),
    "no dtype": ({"vectors": wire.Matrix(rows=3, dim=DIM, data=b"x" * 48)}, "MATRIX_DTYPE", "0"),
    "no vectors": ({"vectors": None}, "MATRIX_DTYPE", "got 0"),
    "wrong dim": (
        {"vectors": encode_matrix(np.ones((3, 5), np.float32))},
        "DIM_MISMATCH",
        "expected 4 dimensions, got 5",
    ),
    "NaN": ({"vectors": encode_matrix(NAN)}, "NOT_FINITE", "row 0 (id 'a') has nan"),
    "infinity": ({"vectors": encode_matrix(NAN * 0 + np.inf)}, "NOT_FINITE", "row 0"),
    "zero vector": ({"vectors": encode_matrix(VECTORS * 0)}, "ZERO_VECTOR", "row 0"),
    "overflow": ({"vectors": encode_matrix(VECTORS * np.float32(1e20))}, "TOO_LARGE", "row 0"),
    "fewer ids": ({"ids": ["a", "b"], "metadata": []}, "COUNT_MISMATCH", "expected 2 rows, got 3"),
    "fewer metadata": ({"metadata": [b"{}"]}, "COUNT_MISMATCH", "expected 3 rows, got 1"),
    "no ids": ({"ids": []}, "COUNT_MISMATCH", "expected 0 rows, got 3"),
    "too many ids": ({"ids": [str(i) for i in range(10_001)]}, "BATCH_SIZE", "got 10001"),
    "id twice": ({"ids": ["a", "b", "a"]}, "DUPLICATE_ID", "at positions 0 and 2"),
    "empty id": ({"ids": ["a", "", "c"]}, "BAD_ID", "got 0"),
    "long id": ({"ids": ["a", "ž" * 251, "c"]}, "BAD_ID", "got 502"),
    "metadata is no JSON": ({"metadata": [b"{", b"", b""]}, "BAD_METADATA", "row 0"),
    "metadata is a list": ({"metadata": [b"[1]", b"", b""]}, "BAD_METADATA", "row 0"),
    "metadata with NaN": ({"metadata": [b'{"a": NaN}', b"", b""]}, "BAD_METADATA", "row 0"),
    "metadata not UTF-8": ({"metadata": [b'{"a":"\xff"}', b"", b""]}, "BAD_METADATA", "row 0"),
    "metadata too deep": (
        {"metadata": [b'{"a":' * 9 + b"1" + b"}" * 9, b"", b""]},
        "METADATA_TOO_DEEP",
        "8",
    ),
    "metadata abyss": (
        {"metadata": [b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"", b""]},
        "",
        "row 0",
    ),
    "metadata too large": (
        {"metadata": [b'{"a":"' + b"x" * 65_536 + b'"}', b"", b""]},
        "METADATA_TOO_LARGE",
        "65536",
    ),
    "request id": ({"request_id": "x" * 65}, "OUT_OF_RANGE", "at most 64 bytes, got 65"),
    "insert_only and if_seq": (
        {"condition": wire.WriteCondition(insert_only=True, if_seq=7)},
        "BAD_CONDITION",
        "if_seq 7",
    ),
    "bad name": ({"collection": "../docs"}, "BAD_NAME", "../docs"),
}


@pytest.mark.parametrize("case", REFUSED_UPSERTS)
def test_refused_upsert_has_a_reason_and_writes_nothing(server: Wire, case: str) -> None:
    changes, reason, words = REFUSED_UPSERTS[case]
    code, got_reason, message = server.failure("Upsert", upsert(**changes))
    assert code is Code.INVALID_ARGUMENT
    assert got_reason == reason or not reason
    assert words in message
    assert server.stub.Stats(wire.StatsRequest(collection="docs")).stats.seq == 1
    assert server.stub.Count(wire.CountRequest(collection="docs")).count == 3


REFUSED_SEARCHES: dict[str, tuple[dict[str, Any], str, str]] = {
    "wrong dim": (
        {"queries": encode_matrix(np.ones((1, 3), np.float32))},
        "DIM_MISMATCH",
        "expected 4 dimensions, got 3",
    ),
    "NaN": ({"queries": encode_matrix(NAN)}, "NOT_FINITE", "row 0"),
    "matrix size": (
        {"queries": wire.Matrix(rows=2, dim=DIM, dtype=FLOAT32, data=b"")},
        "MATRIX_SIZE",
        "32 bytes, got 0",
    ),
    "no k": ({"k": 0}, "OUT_OF_RANGE", "1 to 16384, got 0"),
    "large k": ({"k": 16_385}, "OUT_OF_RANGE", "1 to 16384, got 16385"),
    "no ef": ({"ef": 0}, "OUT_OF_RANGE", "1 to 65536, got 0"),
    "too many results": (
        {"queries": encode_matrix(np.ones((1_000, DIM), np.float32)), "k": 1_001},
        "TOO_MANY_RESULTS",
        "1001000",
    ),
}


@pytest.mark.parametrize("case", REFUSED_SEARCHES)
def test_refused_search_has_a_reason(server: Wire, case: str) -> None:
    changes, reason, words = REFUSED_SEARCHES[case]
    code, got_reason, message = server.failure("Search", search(**changes))
    assert (code, got_reason) == (Code.INVALID_ARGUMENT, reason)
    assert words in message


RESERVED: list[tuple[str, Any]] = [
    ("Upsert", upsert(namespace="tenant")),
    ("ListCollections", wire.ListCollectionsRequest(namespace="tenant")),
    ("CreateCollection", wire.CreateCollectionRequest(collection="n", namespace="tenant")),
    *(
        (method, getattr(wire, f"{method}Request")(collection="docs", namespace="tenant"))
        for method in (
            "GetCollection", "RenameCollection", "DropCollection", "Delete", "SetMetadata", "Get",
            "SetCollectionMetadata", "ListIds", "Facet", "Fields",
            "Count", "Search", "Stats", "Optimize", "ScrollPage", "EndScroll",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "request_"), RESERVED)
def test_reserved_fields_are_refused_and_not_ignored(
    server: Wire, method: str, request_: Any
) -> None:
    code, reason, message = server.failure(method, request_)
    assert (code, reason) == (Code.UNIMPLEMENTED, "RESERVED")
    assert "reserved" in message


def test_a_request_id_makes_one_effect_of_two_calls(server: Wire) -> None:
    server.stub.CreateCollection(creation("with-request-id"))
    once = upsert(collection="with-request-id", request_id="4f2a")
    first, second = server.stub.Upsert(once), server.stub.Upsert(once)
    assert (first.seq, first.count, first.repeated_request) == (1, 3, False)
    assert (second.seq, second.count, second.repeated_request) == (1, 3, True)
    other = upsert(collection="with-request-id", request_id="4f2a", metadata=[])
    code, reason, message = server.failure("Upsert", other)
    assert (code, reason) == (Code.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    assert "'4f2a'" in message and "seq 1" in message


def test_conditions_over_the_wire(server: Wire) -> None:
    server.stub.CreateCollection(creation("conditional"))
    good = upsert(collection="conditional", condition=wire.WriteCondition())  # None at all.
    assert server.stub.Upsert(good).seq == 1
    for condition, said in (
        (wire.WriteCondition(insert_only=True), ("CONDITION_EXISTS", "seq 1")),
        (wire.WriteCondition(if_seq=0), ("CONDITION_CHANGED", "if_seq 0")),
        (wire.WriteCondition(if_seq=2), ("CONDITION_CHANGED", "seq 1")),
    ):
        refused = upsert(collection="conditional", condition=condition)
        code, reason, message = server.failure("Upsert", refused)
        assert (code, reason) == (Code.ABORTED, said[0])
        assert said[1] in message
    deletion = wire.DeleteRequest(collection="conditional", ids=["a"])
    deletion.condition.insert_only = True
    assert server.failure("Delete", deletion)[:2] == (Code.INVALID_ARGUMENT, "BAD_CONDITION")
    deletion.condition.CopyFrom(wire.WriteCondition(if_seq=1))
    answer = server.stub.Delete(deletion)
    assert (answer.seq, answer.count, answer.repeated_request) == (2, 1, False)


@pytest.mark.parametrize("metric", [0, 4])
def test_an_unknown_metric_is_refused(server: Wire, metric: int) -> None:
    code, reason, message = server.failure("CreateCollection", creation("x", metric=metric))
    assert (code, reason) == (Code.INVALID_ARGUMENT, "BAD_METRIC")
    assert f"got {metric}" in message


def test_names_are_found_or_not(server: Wire) -> None:
    for method in ("GetCollection", "DropCollection", "Upsert", "Get", "Delete", "Count", "Search",
                   "Stats", "Optimize"):  # fmt: skip
        request = getattr(wire, f"{method}Request")(collection="nobody")
        assert server.failure(method, request)[0] is Code.NOT_FOUND, method
    assert server.failure("CreateCollection", creation("docs"))[0] is Code.ALREADY_EXISTS


def test_a_name_means_what_has_it_now(server: Wire) -> None:
    server.stub.CreateCollection(creation("again", dim=DIM))
    server.stub.Upsert(upsert(collection="again"))
    server.stub.DropCollection(wire.DropCollectionRequest(collection="again"))
    server.stub.CreateCollection(creation("again", dim=2))
    assert server.stub.Count(wire.CountRequest(collection="again")).count == 0
    assert server.failure("Upsert", upsert(collection="again"))[1] == "DIM_MISMATCH"


def test_bytes_that_are_no_message_are_an_invalid_argument(server: Wire) -> None:
    call = server.channel.unary_unary("/vecdb.v1.Vecdb/Upsert")
    for data in (b"\xff\xff\xff", upsert().SerializeToString()[:-3], b"\x1a\x02\xff\xfe"):
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=HANG_S)
        code, reason, message = failure_of(caught.value)
        assert (code, reason) == (Code.INVALID_ARGUMENT, "BAD_MESSAGE")
        assert str(len(data)) in message


def test_a_request_over_the_limit_is_refused_by_grpc(server: Wire) -> None:
    large = upsert(metadata=[b"x" * (17 * 1024**2), b"", b""])
    code, reason, message = server.failure("Upsert", large)
    assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "")
    assert "larger than max" in message
    # The connection is as good as before.
    assert server.stub.Count(wire.CountRequest(collection="docs")).count == 3


def test_an_answer_over_the_limit_is_refused_by_us(tmp_path: Path) -> None:
    least = limits.MESSAGE_BYTES.minimum
    with running_server(tmp_path / "data", indexer=False, message_bytes=least) as address:
        raw = Wire(address)
        raw.stub.CreateCollection(creation("docs", dim=1000))
        for first in range(0, 20, 5):
            vectors = np.ones((5, 1000), np.float32)
            ids = [str(i) for i in range(first, first + 5)]
            raw.stub.Upsert(upsert(ids=ids, vectors=encode_matrix(vectors), metadata=[]))
        ids = [str(i) for i in range(20)]
        code, reason, message = raw.failure("Get", wire.GetRequest(collection="docs", ids=ids))
        assert (code, reason) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
        assert str(least) in message
        few = raw.stub.Get(wire.GetRequest(collection="docs", ids=ids[:10]))
        assert decode_matrix(few.vectors).shape == (10, 1000)
        raw.channel.close()


# ------------------------------------------------------------------------------------------- errors


def test_every_error_has_a_status() -> None:
    public = {getattr(errors, name) for name in errors.__all__} - {errors.VecdbError}
    assert set(translation.STATUS_OF_ERROR) == public
    for kind, status in translation.STATUS_OF_ERROR.items():
        assert status.name == kind.code


def test_every_error_is_in_the_table() -> None:
    """A class that a part keeps for itself is one of those in the table, and goes out as such."""
    left = [errors.VecdbError]
    while left:
        for child in left.pop().__subclasses__():
            left.append(child)
            if child.__module__.partition(".")[0] in ("vecdb", "vecdb_server", "vecdb_client"):
                assert any(base in translation.STATUS_OF_ERROR for base in child.__mro__), child
                assert translation.status_of(_made(child)).code.name == child.code


def _made(kind: Any) -> errors.VecdbError:
    error: errors.VecdbError
    error = kind("x", "server") if kind is errors.MissingExtraError else kind("x")
    return error


def test_only_messages_made_for_callers_reach_them() -> None:
    class Foreign(errors.VecdbError):
        """Not in the table, so it is a defect."""

    for error in (
        RuntimeError("password"),
        KeyError("password"),
        errors.InternalError("password"),
        Foreign("password"),
    ):
        status = translation.status_of(error)
        assert status == (Code.INTERNAL, "INTERNAL", translation.GENERIC_MESSAGE)
    assert translation.status_of(errors.NotFoundError("no 'x'", "NO_X")) == (
        Code.NOT_FOUND,
        "NO_X",
        "no 'x'",
    )
    unknown = translation.status_of(errors.OutcomeUnknownError("?", "COMMIT_FAILED"))
    assert unknown == (Code.UNKNOWN, "OUTCOME_UNKNOWN", "?")


def test_a_long_message_fits_into_headers() -> None:
    status = translation.status_of(errors.InvalidArgumentError("ž" * 100_000))
    assert 900 < len(status.message.encode()) <= 1_000


def test_defect_is_reported_to_the_log_only(
    server: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Any) -> int:
        raise RuntimeError("the secret path /srv/secret")

    monkeypatch.setattr(OpenCollection, "count", broken)
    with caplog.at_level(logging.ERROR, "vecdb.server"):
        code, reason, message = server.failure("Count", wire.CountRequest(collection="docs"))
    assert (code, reason) == (Code.INTERNAL, "INTERNAL")
    assert message == translation.GENERIC_MESSAGE
    (record,) = caplog.records
    assert "defect call=Count" in record.getMessage()
    assert record.exc_info is not None
    assert "the secret path" in str(record.exc_info[1])


def test_reasons_and_messages_arrive_whatever_is_in_them(
    server: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, status in translation.STATUS_OF_ERROR.items():
        if kind in (errors.InternalError, errors.MissingExtraError):
            continue

        def failing(self: Any, kind: Any = kind) -> int:
            raise kind('žluťoučký\nkůň "%41"', "SOME_REASON")

        monkeypatch.setattr(OpenCollection, "count", failing)
        expected = "OUTCOME_UNKNOWN" if status is Code.UNKNOWN else "SOME_REASON"
        failure = server.failure("Count", wire.CountRequest(collection="docs"))
        assert failure == (status, expected, 'žluťoučký\nkůň "%41"')


# ------------------------------------------------------------------------------- deadlines and caps


def test_a_deadline_that_has_passed_stops_a_write(server: Wire) -> None:
    class Late:
        def time_remaining(self) -> float:
            return 0.0

        def is_active(self) -> bool:
            return True

    service = Service(1024)
    service.refusal = None
    service.runtime = _runtime_of(server)
    with pytest.raises(errors.DeadlineExceededError):
        service.upsert(
            upsert(ids=["late"], vectors=encode_matrix(VECTORS[:1]), metadata=[]), Late()
        )
    response = server.stub.Get(wire.GetRequest(collection="docs", ids=["late"]))
    assert list(response.missing) == ["late"]


def _runtime_of(server: Wire) -> Any:
    (runtime,) = [r for r in open_runtimes() if r.list_collections()]
    return runtime


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


def test_every_call_of_the_contract_is_served(server: Wire) -> None:
    methods = wire.DESCRIPTOR.services_by_name["Vecdb"].methods
    handler = service_handler(Service(1024), Activity(), OpenCalls(8, 8), 8, 1024)
    for method in methods:
        details = _CallDetails(f"/vecdb.v1.Vecdb/{method.name}")
        found = handler.service(details)
        assert found is not None, method.name
        stem = method.name.removesuffix("Stream")
        assert method.input_type.name == f"{stem}Request"
        assert method.output_type.name == f"{stem}Response"
    assert handler.service(_CallDetails("/vecdb.v1.Vecdb/Nothing")) is None


class _CallDetails(grpc.HandlerCallDetails):  # type: ignore[misc]
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


def test_many_callers_at_once(server: Wire) -> None:
    def one(number: int) -> list[str]:
        return list(server.stub.Search(search(k=1), timeout=HANG_S).ids)

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(one, range(400))) == [["a", "b"]] * 400


# ----------------------------------------------------------------------------------- lifecycle


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
    assert check_listen(listen) == expected


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:7801", "[::]:7801", "10.0.0.1:7801", "example.org:7801", "[::ffff:8.8.8.8]:1"],
)
def test_other_addresses_are_refused(listen: str, tmp_path: Path) -> None:
    with pytest.raises(vecdb.FailedPreconditionError, match="access control") as caught:
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


# --------------------------------------------------------------------------- a process of its own


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


# ---------------------------------------------------------------------------------------------- log


def test_an_event_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vecdb.server"):
        log.event("failed", message='a "b"\nc', path="/srv/data", empty="", number=3)
    line = caplog.records[0].getMessage()
    assert line == 'failed message="a \\"b\\"\\nc" path=/srv/data empty="" number=3'


FOREIGN = [
    "a\n2026-11-29T00:00:00.000Z INFO ready address=evil",
    "a\r\nb",
    "a\x1b[2J\x1b]0;title\x07b",
    "a\x00b\x7f\x85\x9bc",
    "a\u2028b\u2029c\u202ed\u200be",
    "\ud800 half of a pair",
    'back\\slash and "quotes" = signs',
    "é漢字🙂",
    "x" * 100_000 + "\n" + "y" * 100_000,
]


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """What a process that logs as a server does writes."""
    root, own = logging.getLogger(), logging.getLogger("vecdb.server")
    before = root.handlers[:], root.level, own.level
    stream = io.StringIO()
    log.configure(stream)
    yield stream
    root.handlers[:], root.level, own.level = before


def _lines(stream: io.StringIO) -> list[str]:
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    text.encode()  # No half of a pair is left.
    assert text.endswith("\n") and all(c == "\n" or c.isprintable() for c in text)
    assert max(map(len, text.split("\n"))) < 20_000
    return text.splitlines()


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_text_makes_no_line_of_its_own(text: str, log_stream: io.StringIO) -> None:
    log.event("error", logging.ERROR, message=text, id=text)
    assert len(_lines(log_stream)) == 1
    logging.getLogger("somebody.else").warning("got %s", text)
    assert len(_lines(log_stream)) == 1
    try:
        try:
            raise KeyError(text)
        except KeyError:
            raise RuntimeError(text) from OSError(5, text)
    except RuntimeError as error:
        log.failure("defect", error, call=text)
        logging.getLogger("somebody.else").exception(text)
    lines = _lines(log_stream)
    began = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[1] for line in began] == ["ERROR", "ERROR"]
    assert sum("RuntimeError: " in line for line in lines) == 2
    assert sum("OSError: " in line for line in lines) == 2
    assert sum("test_server.py" in line for line in lines) == 2


def test_what_can_be_printed_is_logged_as_it_is(log_stream: io.StringIO) -> None:
    log.event("error", message="é漢字🙂 =", name="é漢字🙂")
    assert _lines(log_stream)[0].endswith(' error message="é漢字🙂 =" name=é漢字🙂')
    log.event("error", message="x" * 5_000)
    assert _lines(log_stream)[0].endswith('x… (5000 characters)"')


def test_foreign_text_in_calls_makes_no_line_of_its_own(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", indexer=False) as process:
        raw = Wire(process.address)
        raw.stub.CreateCollection(creation("docs"))
        for text in FOREIGN[:5]:
            for request in (upsert(collection=text), upsert(ids=[text, text, "c"])):
                assert raw.failure("Upsert", request)[0] is Code.INVALID_ARGUMENT
            host, _, port = process.address.partition(":")
            with socket.create_connection((host, int(port)), timeout=HANG_S) as client:
                client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, b""))
                # The last stream, an internal error, and whatever somebody likes to say.
                client.sendall(_frame(7, b"\0\0\0\0\0\0\0\x02" + text.encode()))
                client.sendall(_frame(6, b"are here"))
                heard = b""
                while b"are here" not in heard:  # It has read what came before.
                    heard += client.recv(65_536)
        raw.channel.close()
        process.signal()
        assert process.wait() == 0
        events = [line.split()[2] for line in process.log]
        assert [each for each in events if each != "compile"] == ["start", "ready", "drain", "stop"]


def _frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, 0)) + b"\0\0\0\0" + payload


@pytest.mark.parametrize("text", FOREIGN[:5])
def test_foreign_text_of_a_server_is_one_line_in_a_client(text: str) -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> None:
        context.abort(Code.UNAVAILABLE, text)

    rpcs = {"ListCollections": grpc.unary_unary_rpc_method_handler(refuse)}
    stranger = grpc.server(ThreadPoolExecutor(1))
    stranger.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("vecdb.v1.Vecdb", rpcs),)
    )
    port = stranger.add_insecure_port("127.0.0.1:0")
    stranger.start()
    with (
        vecdb.connect(f"127.0.0.1:{port}") as client,
        pytest.raises(vecdb.UnavailableError) as caught,
    ):
        client.list_collections()
    stranger.stop(None)
    assert caught.value.message.isprintable()
