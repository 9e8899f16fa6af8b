"""The server over a raw stub: answers, and what it refuses and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import vecdb
from tests.server.raw_calls import (
    DIM,
    VECTORS,
    Code,
    Wire,
    creation,
    failure_of,
    search,
    upsert,
)
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb import limits
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import decode_floats, decode_matrix, encode_matrix
from vecdb_server.access.callers import Access
from vecdb_server.admission import Activity, OpenCalls
from vecdb_server.metrics.registry import Metrics
from vecdb_server.service import Service
from vecdb_server.transport import service_handler


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
        *("index_fields", "collection_target_recall"),
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


def test_every_call_of_the_contract_is_served(server: Wire) -> None:
    methods = wire.DESCRIPTOR.services_by_name["Vecdb"].methods
    handler = service_handler(
        Service(1024), Access(None), _metrics(), Activity(), OpenCalls(8, 8), 8, 1024
    )
    for method in methods:
        details = _CallDetails(f"/vecdb.v1.Vecdb/{method.name}")
        found = handler.service(details)
        assert found is not None, method.name
        stem = method.name.removesuffix("Stream")
        assert method.input_type.name == f"{stem}Request"
        assert method.output_type.name == f"{stem}Response"
    assert handler.service(_CallDetails("/vecdb.v1.Vecdb/Nothing")) is None


def _metrics() -> Metrics:
    return Metrics(lambda: None, lambda: 0, lambda: 0)


class _CallDetails(grpc.HandlerCallDetails):  # type: ignore[misc]
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()
