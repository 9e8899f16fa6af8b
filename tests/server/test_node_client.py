"""A client in Node, which knows the contract alone, sends filters and gets the rows that match.

Filters are drawn at random and sent in the forms in which a program in Node writes messages: names
in camel case, enumerations by name, 64-bit integers as text. Skipped where npm cannot install
grpc-js.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

import vecdb
import vecdb_proto
from tests.filter_model import holds, random_filter, random_metadata, random_scalars
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb.filters import parse_filter
from vecdb_client.filters import filter_to_wire
from vecdb_proto import codec

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("node_client.js")
PROTO = Path(vecdb_proto.__file__).with_name("vecdb.proto")
PACKAGES = ("@grpc/grpc-js@^1.12", "@grpc/proto-loader@^0.8")
SEED = random.SystemRandom().randrange(2**32)
ROWS = 40


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with grpc-js."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node with npm")
    folder = tmp_path_factory.mktemp("node")
    options = ("--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund")
    try:
        done = subprocess.run(
            ["npm", "install", *options, *PACKAGES], capture_output=True, text=True, timeout=HANG_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm cannot install grpc-js in time")
    if done.returncode:
        pytest.skip(f"npm cannot install grpc-js: {done.stderr[-300:]}")
    return folder / "node_modules"


def answers_of(modules: Path, address: str, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    given = {"address": address, "proto": str(PROTO), "calls": calls}
    done = subprocess.run(
        ["node", str(SCRIPT)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env={**os.environ, "NODE_PATH": str(modules)},
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def search(filter: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    queries = json_format.MessageToDict(codec.encode_matrix(np.ones((1, 3), np.float32)))
    request = {"collection": "docs", "queries": queries, "k": ROWS, "exact": True, **more}
    if filter is not None:
        request["filter"] = filter
    return {"method": "search", "request": request}


def comparison(path: str, operator: str, *values: dict[str, Any]) -> dict[str, Any]:
    return {"comparison": {"path": [path], "operator": operator, "values": list(values)}}


WRITTEN_BY_HAND: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"a": 1}, comparison("a", "OPERATOR_EQUAL", {"intValue": 1})),
    (
        {"a": {"$in": [2**53 + 1, None]}},
        comparison("a", "OPERATOR_IN", {"intValue": "9007199254740993"}, {"nullValue": True}),
    ),
    ({"a": {"$lt": 0.5}}, comparison("a", "OPERATOR_LESS", {"doubleValue": 0.5})),
    ({"a": False}, comparison("a", "OPERATOR_EQUAL", {"boolValue": False})),
    ({"a": {"$ne": ""}}, comparison("a", "OPERATOR_NOT_EQUAL", {"stringValue": ""})),
    ({"a": {"$exists": False}}, comparison("a", "OPERATOR_EXISTS", {"boolValue": False})),
    (
        {"$or": [{"$id": {"$in": ["7", "8"]}}, {"$id": {"$prefix": "1"}}]},
        {"anyOf": {"filters": [{"idIn": {"ids": ["7", "8"]}}, {"idPrefix": "1"}]}},
    ),
    ({"a\\.b": "x"}, comparison("a.b", "OPERATOR_EQUAL", {"stringValue": "x"})),
    ({"$not": {"a": "x"}}, {"negated": comparison("a", "OPERATOR_EQUAL", {"stringValue": "x"})}),
    ({}, {"allOf": {}}),
]


def test_filters_sent_from_node_match_what_the_plain_evaluator_matches(
    node_modules: Path, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    scalars = random_scalars(draw)
    metadata = [random_metadata(draw, scalars) for _ in range(ROWS)]
    ids = [str(number) for number in range(ROWS)]
    conditions = [random_filter(draw, scalars) for _ in range(60)]
    messages = [
        json_format.MessageToDict(filter_to_wire(parse_filter(each))) for each in conditions
    ]
    conditions += [condition for condition, _ in WRITTEN_BY_HAND]
    messages += [message for _, message in WRITTEN_BY_HAND]
    calls = [search(each) for each in messages]
    calls.append(search({}))
    calls.append(search({"negated": comparison("a", "OPERATOR_EQUAL")}))
    with running_server(tmp_path / "data", indexer=False) as address:
        with vecdb.connect(address) as client:
            docs = client.create_collection("docs", 3)
            docs.upsert(ids, np.ones((ROWS, 3), np.float32), metadata)
        *found, unset, valueless = answers_of(node_modules, address, calls)
    for condition, each in zip(conditions, found, strict=True):
        rows = zip(ids, metadata, strict=True)
        expected = {id for id, row in rows if holds(condition, id, row)}
        assert set(each["answer"]["ids"]) == expected, (SEED, condition)
    for each, place in ((unset, "filter: "), (valueless, "filter.negated.comparison.values: ")):
        assert (each["code"], each["reason"]) == (3, "BAD_FILTER")
        assert each["message"].startswith(place)
