"""User-visible behaviour, embedded and remote: every test runs on both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model
from tests.waiting import HANG_S

RNG = np.random.default_rng(11)


def rows(count: int, dim: int = 8) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def names(count: int, prefix: str = "row") -> list[str]:
    return [f"{prefix}-{i}" for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_written_rows_are_returned_unchanged(surface: Any, metric: str) -> None:
    model = Model(8, metric)
    docs = surface.create_collection("docs", 8, metric)
    assert (docs.name, docs.dim, docs.metric) == ("docs", 8, vecdb.Metric(metric))
    vectors = rows(300) * 3
    metadata = [
        {"n": i, "text": "žluťoučký", "deep": {"a": [1, None, True]}} if i % 3 else None
        for i in range(300)
    ]
    assert docs.upsert(names(300), vectors, metadata) == vecdb.Receipt(1, 300)
    model.upsert(names(300), vectors, metadata)
    model.check_records(docs.get(["row-5", "missing", "row-1"]), ["row-5", "missing", "row-1"])
    query = rows(1)[0]
    for exact in (False, True):
        model.check_hits(docs.search(query, k=7, exact=exact), query, 7, exact=True)
    assert docs.delete(["row-1", "row-2", "missing"]) == vecdb.Receipt(2, 2)
    model.delete(["row-1", "row-2"])
    assert docs.count() == 298
    docs.optimize(timeout_s=HANG_S)
    model.check_hits(docs.search(query, k=298), query, 298, exact=True)
    info = docs.search(query, k=3).info
    assert (info.plan, info.exact, info.ef, info.seq, info.matches) == ("graph", False, 128, 2, 298)
    assert info.verified
    assert 0 < info.visited <= 300


def test_search_with_many_queries_returns_a_list(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    vectors = rows(50)
    docs.upsert(names(50), vectors)
    answers = docs.search(vectors[:20], k=3, include_vectors=True, include_metadata=False)
    assert [hits.ids[0] for hits in answers] == names(20)
    assert [hits.metadata for hits in answers] == [[{}, {}, {}]] * 20
    for hits, vector in zip(answers, vectors, strict=False):
        assert hits.vectors.shape == (3, 8)
        assert hits.vectors[0].tobytes() == vector.tobytes()
    assert docs.search(np.zeros((0, 8), np.float32)) == []
    assert docs.search(vectors[0]).vectors is None


def test_vectors_under_cosine_are_returned_bit_for_bit(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    vectors = rows(3) * np.float32(1e-3)
    vectors[1] *= np.float32(1e-20)
    vectors[2, 0] = -0.0
    docs.upsert(["a", "b", "c"], vectors)
    assert docs.get(["a", "b", "c"]).vectors.tobytes() == vectors.tobytes()


def test_search_with_fewer_rows_than_k_returns_all(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    assert len(docs.search(rows(1)[0], k=5)) == 0
    docs.upsert(names(4), rows(4))
    assert sorted(docs.search(rows(1)[0], k=10).ids) == names(4)
    docs.delete(names(2))
    assert sorted(docs.search(rows(1)[0], k=10).ids) == names(4)[2:]


def test_update_replaces_vector_and_metadata(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    first, second = rows(2)
    docs.upsert(["a"], first[None], [{"old": 1}])
    docs.upsert(["a"], second[None])
    found = docs.get(["a"])
    assert found.vectors[0].tobytes() == second.tobytes()
    assert found.metadata == [{}]
    assert docs.count() == 1
    assert docs.search(first, k=5).ids == ["a"]


def test_integer_ids_become_decimal_text(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    docs.upsert(np.arange(3), rows(3))
    docs.upsert([7, "8"], rows(2))
    assert docs.get([0, "1", np.int64(2), 7, 8]).ids == ["0", "1", "2", "7", "8"]


@pytest.mark.parametrize(
    "vectors", [[], None, (), rows(0), np.zeros(0), np.zeros((0, 0))], ids=lambda v: repr(v)[:20]
)
def test_empty_writes_and_reads_return_the_last_seq(surface: Any, vectors: Any) -> None:
    docs = surface.create_collection("docs", 8)
    for seq in (0, 1):
        for receipt in (
            docs.upsert([], vectors),
            docs.upsert((), vectors, [], insert_only=True, request_id="one"),
            docs.upsert(np.zeros(0, np.int64), vectors, if_seq=0),
            docs.upsert([]),
            docs.delete([]),
            docs.delete(iter(()), if_seq=7, request_id="one"),
        ):
            assert receipt == vecdb.Receipt(seq, 0)
        found = docs.get([])
        assert (found.ids, found.missing, found.metadata, found.seq) == ([], [], [], seq)
        assert found.vectors.shape == (0, 8)
        done = docs.upsert_many([], vectors)
        assert (done.rows, done.total, done.seq) == (0, 0, 0)
        assert docs.stats().seq == seq
        docs.upsert(["a"], rows(1))
    # An empty write does not use up its request id.
    assert not docs.upsert(["b"], rows(1), request_id="one").repeated
    surface.drop_collection("docs")
    for call in (docs.upsert, docs.delete, docs.get):
        with pytest.raises(vecdb.NotFoundError):
            call([])


def test_search_without_queries_returns_an_empty_list(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    docs.upsert(["a"], rows(1))
    for none in ([], (), np.zeros(0), np.zeros((0, 0)), rows(0)):
        assert docs.search(none) == []
    for other in ([[]], [[], []], np.zeros((0, 7)), np.zeros((1, 0))):
        with pytest.raises(vecdb.InvalidArgumentError, match="query: expected 8 dimensions"):
            docs.search(other)


def test_upsert_many_writes_all_rows(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    vectors, reported = rows(2500), []
    result = docs.upsert_many(
        (f"row-{i}" for i in range(2500)), vectors, batch_rows=400, progress=reported.append
    )
    assert (result.rows, docs.count()) == (2500, 2500)
    assert [p.rows for p in reported] == [400, 800, 1200, 1600, 2000, 2400, 2500]
    assert result.seq == docs.search(vectors[0]).info.seq == 7
    assert docs.get(["row-2499"]).vectors[0].tobytes() == vectors[2499].tobytes()


def test_upsert_many_that_fails_reports_its_progress(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    vectors = rows(1000)
    vectors[750, 3] = np.nan
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        docs.upsert_many(names(1000), vectors, batch_rows=100)
    assert caught.value.progress.rows == docs.count() == 700


CLOSED_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "collection": lambda db, docs: db.collection("docs"),
    "create": lambda db, docs: db.create_collection("more", 8),
    "get_or_create": lambda db, docs: db.get_or_create_collection("docs", 8),
    "list": lambda db, docs: db.list_collections(),
    "rename": lambda db, docs: db.rename_collection("docs", "more"),
    "drop": lambda db, docs: db.drop_collection("docs"),
    "backup": lambda db, docs: db.backup("/proc/nope"),
    "import": lambda db, docs: db.import_faiss("README.md", "docs"),
    "upsert": lambda db, docs: docs.upsert(["a"], rows(1)),
    "upsert of nothing": lambda db, docs: docs.upsert([]),
    "upsert_many": lambda db, docs: docs.upsert_many(["a"], rows(1)),
    "get": lambda db, docs: docs.get(["a"]),
    "get of nothing": lambda db, docs: docs.get([]),
    "delete": lambda db, docs: docs.delete(["a"]),
    "count": lambda db, docs: docs.count(),
    "search": lambda db, docs: docs.search(rows(1)[0]),
    "scroll": lambda db, docs: list(docs.scroll()),
    "scroll_page": lambda db, docs: docs.scroll_page(),
    "stats": lambda db, docs: docs.stats(),
    "optimize": lambda db, docs: docs.optimize(timeout_s=HANG_S),
    "export": lambda db, docs: docs.export_faiss("nope.faiss", flat=True),
}


def test_every_call_after_close_is_refused(
    surface: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("no index")
    docs = surface.create_collection("docs", 8)
    surface.close()
    for name, call in CLOSED_CALLS.items():
        with pytest.raises(vecdb.FailedPreconditionError, match="closed") as caught:
            call(surface, docs)
        assert caught.value.reason == "CLOSED", name
    surface.close()


def test_collections_are_created_listed_and_dropped(surface: Any) -> None:
    assert surface.list_collections() == []
    surface.create_collection("b", 4, "dot", M=8, ef_construction=40)
    surface.create_collection("a-A_1", 16_384, "euclidean")
    assert surface.list_collections() == [
        vecdb.CollectionDescription(
            "a-A_1", vecdb.CollectionConfig(16_384, vecdb.Metric.EUCLIDEAN, 16, 128)
        ),
        vecdb.CollectionDescription("b", vecdb.CollectionConfig(4, vecdb.Metric.DOT, 8, 40)),
    ]
    with pytest.raises(vecdb.AlreadyExistsError):
        surface.create_collection("b", 9)
    with pytest.raises(vecdb.NotFoundError):
        surface.collection("c")
    with pytest.raises(vecdb.NotFoundError):
        surface.drop_collection("c")


def test_dropped_collection_is_not_found_and_its_name_is_free(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    docs.upsert(["a"], rows(1))
    surface.drop_collection("docs")
    assert surface.list_collections() == []
    for call in (
        lambda: docs.upsert(["b"], rows(1)),
        lambda: docs.search(rows(1)[0]),
        lambda: docs.get(["a"]),
        lambda: docs.count(),
        lambda: docs.delete(["a"]),
        lambda: docs.stats(),
        lambda: surface.collection("docs"),
    ):
        with pytest.raises(vecdb.NotFoundError):
            call()
    again = surface.create_collection("docs", 4)
    assert again.count() == 0


def test_get_or_create_finds_or_creates_or_refuses_with_both_values(surface: Any) -> None:
    docs = surface.get_or_create_collection("docs", 8, "dot", M=8)
    assert docs.config == vecdb.CollectionConfig(8, vecdb.Metric.DOT, 8, 128)
    docs.upsert(["a"], rows(1))
    again = surface.get_or_create_collection("docs", 8, "dot")
    assert (again.name, again.count(), again.config.M) == ("docs", 1, 8)
    assert surface.get_or_create_collection("docs", np.int64(8), vecdb.Metric.DOT, M=8).count() == 1
    for arguments, said in (
        ({"dim": 9, "metric": "dot"}, "exists with dim 8, expected dim 9"),
        ({"dim": 8}, "exists with metric dot, expected metric cosine"),
        ({"dim": 9}, "with dim 8 and metric dot, expected dim 9 and metric cosine"),
        ({"dim": 8, "metric": "dot", "M": 16}, "with M 8, expected M 16"),
        (
            {"dim": 8, "metric": "dot", "ef_construction": 40},
            "with ef_construction 128, expected ef_construction 40",
        ),
    ):
        with pytest.raises(vecdb.InvalidArgumentError, match=said) as caught:
            surface.get_or_create_collection("docs", **arguments)
        assert caught.value.reason == "CONFIG_MISMATCH"
    for wrong in ({"name": "a b"}, {"dim": 0}, {"metric": "near"}, {"M": 1}, {"M": "x"}):
        with pytest.raises(vecdb.InvalidArgumentError):
            surface.get_or_create_collection(**{"name": "docs", "dim": 8, **wrong})
    assert len(surface.list_collections()) == 1


def test_concurrent_get_or_create_returns_one_collection(surface: Any) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait(HANG_S)
        surface.get_or_create_collection("docs", 8).upsert([number], rows(1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert surface.collection("docs").count() == 8


BAD_WRITES = {
    "wrong dim": (["a"], rows(1, 7), None, ["8", "7"]),
    "NaN": (["a"], np.full((1, 8), np.nan, np.float32), None, ["nan"]),
    "infinity": (["a"], np.full((1, 8), -np.inf, np.float32), None, ["-inf"]),
    "zero length under cosine": (["a"], np.zeros((1, 8), np.float32), None, ["length 0"]),
    "overflowing length": (["a"], np.full((1, 8), 1e19, np.float32), None, ["8.51e+37", "8e+38"]),
    "an id twice": (["a", "b", "a"], rows(3), None, ["'a'", "0", "2"]),
    "empty id": (["a", ""], rows(2), None, ["1", "500", "0"]),
    "long id": (["é" * 251], rows(1), None, ["500", "502"]),
    "more ids than vectors": (["a", "b"], rows(1), None, ["2", "1"]),
    "metadata count": (["a", "b"], rows(2), [{}], ["2", "1"]),
    "metadata no object": (["a"], rows(1), [[1]], ["list"]),
    "metadata not JSON": (["a"], rows(1), [{"a": float("nan")}], ["JSON"]),
    "metadata too large": (["a"], rows(1), [{"a": "x" * 65_536}], ["65536", "65544"]),
    "metadata too deep": (
        ["a"],
        rows(1),
        [{"1": {"2": {"3": {"4": {"5": {"6": {"7": {"8": {"9": 1}}}}}}}}}],
        ["8", "9"],
    ),
    "vectors without ids": (
        [],
        rows(1),
        None,
        ["expected 0 rows, got 1; there must be one per id"],
    ),
    "too many rows": (names(10_001), rows(10_001), None, ["10000", "10001"]),
}


@pytest.mark.parametrize("case", BAD_WRITES)
def test_bad_batch_is_refused_with_both_numbers(surface: Any, case: str) -> None:
    docs = surface.create_collection("docs", 8)
    good = rows(1)
    docs.upsert(["good"], good)
    ids, vectors, metadata, said = BAD_WRITES[case]
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        docs.upsert(ids, vectors, metadata)
    assert caught.value.code == "INVALID_ARGUMENT"
    for words in said:
        assert words in str(caught.value)
    assert docs.count() == 1
    assert docs.get(["a", "b", "good"]).ids == ["good"]
    assert docs.search(good[0], k=3).ids == ["good"]
    assert docs.stats().seq == 1


@pytest.mark.parametrize("metric", ["euclidean", "dot"])
def test_vector_too_short_for_its_scores_is_refused(surface: Any, metric: str) -> None:
    docs = surface.create_collection("docs", 8, metric)
    vectors = rows(3)
    vectors[0] = 0
    vectors[1] *= np.float32(1e-14) / np.linalg.norm(vectors[1])
    docs.upsert(["zero", "short", "long"], vectors)
    wide = vectors.astype(np.float64)
    scores = -wide @ wide[1] if metric == "dot" else np.square(wide - wide[1]).sum(axis=1)
    expected = [["zero", "short", "long"][i] for i in np.argsort(scores)]
    assert docs.search(vectors[1], k=3).ids == expected
    vectors[2] *= np.float32(1e-25) / np.linalg.norm(vectors[2])
    for call in (lambda: docs.upsert(names(3), vectors), lambda: docs.search(vectors)):
        with pytest.raises(vecdb.InvalidArgumentError, match=r"row 2 .* of 1e-25;.*least 1e-15"):
            call()
    with pytest.raises(vecdb.InvalidArgumentError, match=r"row 0 .* of 1e-25;.*least 1e-15"):
        docs.search(vectors[2])
    assert docs.count() == 3


def test_good_rows_of_a_bad_batch_are_not_written(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    vectors = rows(10)
    vectors[9, 7] = np.inf
    with pytest.raises(vecdb.InvalidArgumentError, match="row 9"):
        docs.upsert(names(10), vectors)
    assert (docs.count(), docs.stats().next_row) == (0, 0)


def test_bad_searches_are_refused(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    docs.upsert(["a"], rows(1))
    query = rows(1)[0]
    for arguments, words in (
        ({"query": query[:7]}, ["8", "7"]),
        ({"query": query * np.float32(np.nan)}, ["nan"]),
        ({"query": query * 0}, ["length 0"]),
        ({"query": query, "k": 0}, ["1", "16384", "0"]),
        ({"query": query, "k": 16_385}, ["16384", "16385"]),
        ({"query": query, "ef": 0}, ["1", "65536", "0"]),
        ({"query": rows(101), "k": 10_000}, ["1000000", "1010000"]),
        ({"query": query, "k": 2.5}, ["integer", "float"]),
    ):
        with pytest.raises(vecdb.InvalidArgumentError) as caught:
            docs.search(**arguments)
        for word in words:
            assert word in str(caught.value)
    with pytest.raises(vecdb.InvalidArgumentError, match=r"filter\.a\.\$near"):
        docs.search(query, filter={"a": {"$near": 1}})
    for target in (0, -0.5, 1.01, float("nan"), "0.9", True):
        with pytest.raises(vecdb.InvalidArgumentError, match="target_recall"):
            docs.search(query, target_recall=target)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "a b", "dim": 4}, "a b"),
        ({"name": "", "dim": 4}, "name"),
        ({"name": "x" * 65, "dim": 4}, "64"),
        ({"name": "../up", "dim": 4}, "up"),
        ({"name": "a", "dim": 0}, "16384"),
        ({"name": "a", "dim": 16_385}, "16385"),
        ({"name": "a", "dim": 4, "metric": "manhattan"}, "euclidean"),
        ({"name": "a", "dim": 4, "M": 1}, "256"),
        ({"name": "a", "dim": 4, "ef_construction": 5000}, "4096"),
    ],
)
def test_bad_collections_are_refused(surface: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(vecdb.InvalidArgumentError, match=words):
        surface.create_collection(**arguments)
    assert surface.list_collections() == []


def test_stats_count_rows_by_place(surface: Any) -> None:
    docs = surface.create_collection("docs", 8)
    docs.upsert(names(100), rows(100))
    before = docs.stats()
    assert (before.live_count, before.fresh_rows, before.unindexed_rows) == (100, 100, 100)
    assert before.segments == []
    after = docs.optimize(timeout_s=HANG_S)
    assert (after.live_count, after.fresh_rows, after.unindexed_rows) == (100, 0, 0)
    assert [(s.kind, s.first_row, s.end_row, s.rows, s.dead) for s in after.segments] == [
        ("graph", 0, 100, 100, 0)
    ]
    assert after.segment_bytes == after.segments[0].bytes > 100 * 64
    docs.delete(names(10))
    assert docs.stats().segments[0].dead == 10


def test_deadline_ends_a_long_scan(surface: Any) -> None:
    docs = surface.create_collection("docs", 256, "euclidean")
    docs.upsert_many(names(8000), rows(8000, 256))
    queries = rows(2000, 256)
    with pytest.raises(vecdb.DeadlineExceededError):
        docs.search(queries, k=1, exact=True, timeout_s=0.02)
    assert len(docs.search(queries[0], k=1)) == 1
