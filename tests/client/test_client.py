"""The client against real servers: surface, answers, refusals, forks."""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import os
import subprocess
import sys
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
import vecdb_client
from tests.client.rows import DIM, rows
from tests.places import value_of
from tests.waiting import HANG_S
from vecdb_client import Client
from vecdb_proto import vecdb_pb2 as wire

INVALID = vecdb.InvalidArgumentError


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
