"""Messages of filters that other clients may send: what is refused, and how the place is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import vecdb
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.filters import parse_filter
from vecdb_client.filters import filter_to_wire
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix
from vecdb_server.translation.filters import filter_from_wire, filters_of

Op = wire.Comparison


def comparison(operator: int, *values: Any, path: tuple[str, ...] = ("a",)) -> wire.Filter:
    """A message with values given as ``("int_value", 3)``."""
    message = wire.Filter()
    message.comparison.path.extend(path)
    message.comparison.operator = operator  # type: ignore[assignment]
    for each in values:
        message.comparison.values.add(**dict([each]) if each else {})
    return message


def integer(value: int = 1) -> tuple[str, int]:
    return "int_value", value


def text(value: str = "x") -> tuple[str, str]:
    return "string_value", value


def all_of(*filters: wire.Filter) -> wire.Filter:
    return wire.Filter(all_of=wire.FilterList(filters=filters))


@pytest.mark.parametrize(
    ("message", "same_as"),
    [
        (comparison(Op.OPERATOR_EQUAL, integer()), {"a": 1}),
        (comparison(Op.OPERATOR_EQUAL, ("double_value", 1.0)), {"a": 1}),
        (comparison(Op.OPERATOR_EQUAL, ("double_value", 1.5)), {"a": 1.5}),
        (comparison(Op.OPERATOR_EQUAL, ("null_value", True)), {"a": None}),
        (comparison(Op.OPERATOR_EQUAL, ("bool_value", False)), {"a": False}),
        (comparison(Op.OPERATOR_NOT_EQUAL, text()), {"a": {"$ne": "x"}}),
        (comparison(Op.OPERATOR_LESS, integer()), {"a": {"$lt": 1}}),
        (comparison(Op.OPERATOR_LESS_OR_EQUAL, integer()), {"a": {"$lte": 1}}),
        (comparison(Op.OPERATOR_GREATER, integer()), {"a": {"$gt": 1}}),
        (comparison(Op.OPERATOR_GREATER_OR_EQUAL, text()), {"a": {"$gte": "x"}}),
        (comparison(Op.OPERATOR_IN, integer(), text()), {"a": {"$in": [1, "x"]}}),
        (comparison(Op.OPERATOR_IN), {"a": {"$in": []}}),
        (comparison(Op.OPERATOR_NOT_IN, integer()), {"a": {"$nin": [1]}}),
        (comparison(Op.OPERATOR_EXISTS, ("bool_value", True)), {"a": {"$exists": True}}),
        (comparison(Op.OPERATOR_EXISTS, ("bool_value", False)), {"a": {"$exists": False}}),
        (comparison(Op.OPERATOR_CONTAINS, integer()), {"a": {"$contains": 1}}),
        (
            comparison(Op.OPERATOR_CONTAINS, integer(), integer(2)),
            {"a": {"$contains_any": [1, 2]}},
        ),
        (comparison(Op.OPERATOR_CONTAINS_ALL), {"a": {"$contains_all": []}}),
        (comparison(Op.OPERATOR_PREFIX, text()), {"a": {"$prefix": "x"}}),
        (comparison(Op.OPERATOR_EQUAL, text(), path=("a.b", "$c")), {"a\\.b.$c": "x"}),
        (wire.Filter(id_in=wire.IdList(ids=["b", "a", "b"])), {"$id": {"$in": ["a", "b"]}}),
        (wire.Filter(id_in=wire.IdList()), {"$id": {"$in": []}}),
        (wire.Filter(id_prefix="a/"), {"$id": {"$prefix": "a/"}}),
        (all_of(), {}),
        (wire.Filter(any_of=wire.FilterList()), {"$or": []}),
        (wire.Filter(negated=all_of()), {"$not": {}}),
    ],
)
def test_what_a_message_means(message: wire.Filter, same_as: dict[str, Any]) -> None:
    assert filter_from_wire(message).key == parse_filter(same_as).key


BAD = [
    (wire.Filter(), "filter: node is not set"),
    (all_of(all_of(), wire.Filter()), "filter.all_of.filters[1]: node is not set"),
    (wire.Filter(negated=wire.Filter()), "filter.negated: node is not set"),
    (comparison(Op.OPERATOR_EQUAL, ()), "filter.comparison.values[0]: kind is not set"),
    (comparison(0, integer()), "filter.comparison.operator: expected one of 1 (OPERATOR_EQUAL), "),
    (comparison(99, integer()), "12 (OPERATOR_PREFIX), got 99"),
    (comparison(-1, integer()), ", got -1"),
    (comparison(Op.OPERATOR_EQUAL), "filter.comparison.values: expected one value, got 0"),
    (
        comparison(Op.OPERATOR_EQUAL, integer(), integer()),
        "filter.comparison.values: expected one value, got 2",
    ),
    (comparison(Op.OPERATOR_EQUAL, integer(), path=()), "expected 1 to 8 keys, got 0"),
    (comparison(Op.OPERATOR_EQUAL, integer(), path=("a",) * 9), "expected 1 to 8 keys, got 9"),
    (
        comparison(Op.OPERATOR_LESS, ("bool_value", True)),
        "filter.comparison.values[0]: expected a number or a string, got a boolean",
    ),
    (
        comparison(Op.OPERATOR_GREATER, ("null_value", True)),
        "filter.comparison.values[0]: expected a number or a string, got null",
    ),
    (
        comparison(Op.OPERATOR_EQUAL, ("null_value", False)),
        "filter.comparison.values[0].null_value: expected true, got false",
    ),
    (
        comparison(Op.OPERATOR_IN, integer(), ("double_value", float("nan"))),
        "filter.comparison.values[1]: expected a finite number, got nan",
    ),
    (comparison(Op.OPERATOR_EQUAL, ("double_value", float("inf"))), "got inf"),
    (comparison(Op.OPERATOR_EXISTS, integer()), "filter.comparison.values[0]: expected bool_value"),
    (comparison(Op.OPERATOR_PREFIX, integer()), "expected a string, got a number"),
    (
        wire.Filter(id_in=wire.IdList(ids=["a", ""])),
        "filter.id_in.ids[1]: id length in bytes must be 1 to 500, got 0",
    ),
    (
        all_of(*[wire.Filter(id_prefix="a")] * 1025),
        "filter.all_of.filters[1024]: the filter has more than 1024 terms",
    ),
    (
        wire.Filter(id_in=wire.IdList(ids=["a"] * 100_001)),
        "filter.id_in.ids: the lists of the filter have more than 100000 values",
    ),
    (
        comparison(Op.OPERATOR_PREFIX, text("x" * (8 * 1024**2))),
        "the strings of the filter have more than 8388608 bytes",
    ),
]


@pytest.mark.parametrize(("message", "expected"), BAD)
def test_a_hostile_message_is_refused_with_its_place(message: wire.Filter, expected: str) -> None:
    message = wire.Filter.FromString(message.SerializeToString())
    with pytest.raises(InvalidArgumentError, match=re.escape(expected)) as caught:
        filter_from_wire(message)
    assert caught.value.reason == "BAD_FILTER"
    assert caught.value.message.startswith("filter")


@pytest.mark.parametrize("kind", ["negated", "all_of", "any_of"])
def test_a_message_that_is_too_deep_is_refused(kind: str) -> None:
    message = comparison(Op.OPERATOR_EQUAL, integer())
    for level in range(1, 45):
        if kind == "negated":
            message = wire.Filter(negated=message)
        else:
            message = wire.Filter(**{kind: wire.FilterList(filters=[message])})
        back = wire.Filter.FromString(message.SerializeToString())
        if level < limits.FILTER_DEPTH_MAX:
            assert filter_from_wire(back)
        else:
            with pytest.raises(InvalidArgumentError, match="nests deeper than 32 levels"):
                filter_from_wire(back)


def test_the_deepest_filter_fits_in_a_message() -> None:
    given: dict[str, Any] = {"a": 1}
    for level in range(limits.FILTER_DEPTH_MAX - 1):
        given = {"$or" if level % 2 else "$and": [given, {"b": level}]}
    found = parse_filter(given)
    request = wire.SearchRequest(filters=[filter_to_wire(found)])
    request.queries.rows = 1
    back = filters_of(wire.SearchRequest.FromString(request.SerializeToString()))
    assert back == [found]


def test_filters_of_a_search() -> None:
    message = filter_to_wire(parse_filter({"a": 1}))
    none = filter_to_wire(parse_filter({}))
    request = wire.SearchRequest()
    assert filters_of(request) is None
    request.queries.rows = 2
    request.filters.extend([message, none])
    assert filters_of(request) == [parse_filter({"a": 1}), parse_filter({})]
    request.filters.add()
    with pytest.raises(InvalidArgumentError, match=r"filters: expected one per query \(2\), got 3"):
        filters_of(request)
    request.queries.rows = 3
    with pytest.raises(InvalidArgumentError, match=r"filters\[2\]: node is not set"):
        filters_of(request)
    request.filter.CopyFrom(message)
    with pytest.raises(InvalidArgumentError, match="got both"):
        filters_of(request)
    del request.filters[:]
    assert filters_of(request) == parse_filter({"a": 1})


def nested_bytes(levels: int) -> bytes:
    """A search whose filter nests as deep as bytes allow: no message library would write it."""
    inner = b""
    for _ in range(levels):
        inner = b"\x1a" + _varint(len(inner)) + inner  # Filter.negated
    queries = encode_matrix(np.ones((1, 2), np.float32))
    head = wire.SearchRequest(collection="docs", k=1, queries=queries).SerializeToString()
    return head + b"\x52" + _varint(len(inner)) + inner  # SearchRequest.filter


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


@pytest.mark.parametrize(
    ("levels", "reason", "words"),
    [
        (40, "BAD_FILTER", "filter.negated.negated"),
        (200, "BAD_MESSAGE", ""),
        (20_000, "BAD_MESSAGE", ""),
    ],
)
def test_a_server_refuses_what_is_nested_too_deep_and_goes_on(
    tmp_path: Path, levels: int, reason: str, words: str
) -> None:
    with (
        running_server(tmp_path / "data", indexer=False) as address,
        grpc.insecure_channel(address) as channel,
        vecdb.connect(address) as client,
    ):
        docs = client.create_collection("docs", 2)
        docs.upsert(["a"], [[1, 0]], [{"a": 1}])
        search = channel.unary_unary("/vecdb.v1.Vecdb/Search")
        with pytest.raises(grpc.RpcError) as caught:
            search(nested_bytes(levels), timeout=HANG_S)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(error.trailing_metadata())["vecdb-reason"] == reason
        assert words in error.details()
        assert docs.search([1, 0], filter={"a": 1}).ids == ["a"]
