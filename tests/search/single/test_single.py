"""The short way of single queries gives what the general path gives, and leaves the rest to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from tests.search.single.short_way import assert_same, drawn, general, short
from vecdb.engine.search.search import SearchRequest
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import opened_of

ROWS, DIM, QUERIES = 3_000, 64, 30
METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])


def filled(database: Any, metric: str, dim: int = DIM, name: str = "row {}") -> Any:
    docs = database.create_collection("docs", dim, metric)
    ids = [name.format(i) for i in range(ROWS)]
    docs.upsert_many(ids, drawn(ROWS, 3, dim), [{"n": i} if i % 3 else {} for i in range(ROWS)])
    flush_now(docs)
    index_now(docs)
    assert [s.kind for s in docs.stats().segments] == ["graph"]
    return docs


@METRICS
@pytest.mark.parametrize("dim", [DIM, 7])
def test_answers_equal_those_of_the_general_path(tmp_path: Path, metric: str, dim: int) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs = filled(database, metric, dim)
        general(docs, drawn(1, dim=dim)[0])
        unit = opened_of(docs).snapshots.snapshot().units[0]
        assert unit.parts.has(SKETCH) == (dim == DIM)  # Both kernels.
        for query in drawn(QUERIES, dim=dim):
            for k in (1, 10, 100):
                found, expected = short(docs, query, k), general(docs, query, k)
                if k > 1 or found is not None:
                    assert_same(found, expected)
                else:  # By the curve of a graph that happens to be worse, no effort is enough.
                    assert expected.info.plan == "scan"
                request = SearchRequest(query[None], k)
                (hits,) = opened_of(docs).searcher.run(request, Deadline()).hits()
                assert_same(hits, general(docs, query, k))
            assert_same(short(docs, query, 5, False), general(docs, query, 5, False))
        docs.delete([f"row {i}" for i in range(0, ROWS, 5)])
        general(docs, drawn(1, dim=dim)[0])
        for query in drawn(QUERIES, 6, dim):
            assert_same(short(docs, query), general(docs, query))


def test_without_codes_the_walk_is_that_of_float32(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs = filled(database, "cosine")
        by_sketches = [docs.search(query).info.visited for query in drawn(QUERIES)]
    with vecdb.open(tmp_path, indexer=False, recall_meter=0, codes="none") as database:
        docs = database.collection("docs")
        general(docs, drawn(1)[0])
        for query in drawn(QUERIES):
            assert_same(short(docs, query), general(docs, query))
        assert [docs.search(query).info.visited for query in drawn(QUERIES)] != by_sketches


def test_ids_that_are_not_ascii_are_decoded(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs = filled(database, "cosine", name="Zeile {} é 行")
        general(docs, drawn(1)[0])
        for query in drawn(5):
            assert_same(short(docs, query, 10, False), general(docs, query, 10, False))


def test_fewer_live_rows_than_k_are_all_found(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs = filled(database, "euclidean")
        docs.delete([f"row {i}" for i in range(ROWS - 4)])
        for query in drawn(5):
            assert docs.search(query, 10).ids == docs.search(query, 10, exact=True).ids
            assert len(docs.search(query, 10)) == 4


@pytest.mark.parametrize("bad", ["row", "offset", "text"])
def test_a_damaged_segment_is_left_to_the_general_path(tmp_path: Path, bad: str) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs, query = filled(database, "cosine"), drawn(1)[0]
        expected = docs.search(query, ef=ROWS)
    (segment,) = tmp_path.glob("collections/*/segments/*")
    name, value = {"row": ("rows", 2**40), "offset": ("id_offsets", -5), "text": ("id_bytes", 255)}[
        bad
    ]
    array = np.load(segment / f"{name}.npy", mmap_mode="r+")
    array[:] = value
    array.flush()
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs = database.collection("docs")
        opened_of(docs).snapshots.snapshot()
        assert short(docs, query, 10, False) is None
        assert docs.search(query, ef=ROWS).ids == expected.ids


def test_invalid_arguments_raise_as_ever(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs, query = filled(database, "cosine"), drawn(1)[0]
        docs.search(query, 1, ef=1)
        for k, ef, reason in (
            *((True, None, "NOT_AN_INTEGER"), (1.0, None, "NOT_AN_INTEGER")),
            *((0, None, "OUT_OF_RANGE"), (1, True, "NOT_AN_INTEGER"), (1, 0, "OUT_OF_RANGE")),
        ):
            with pytest.raises(vecdb.InvalidArgumentError) as caught:
                docs.search(query, k, ef=ef)
            assert caught.value.reason == reason
        for value, reason in (
            *((np.nan, "NOT_FINITE"), (np.inf, "NOT_FINITE"), (3e38, "TOO_LARGE")),
            *((0.0, "ZERO_VECTOR"),),
        ):
            with pytest.raises(vecdb.InvalidArgumentError) as caught:
                docs.search(np.full(DIM, value, np.float32))
            assert caught.value.reason == reason
        with pytest.raises(vecdb.DeadlineExceededError):
            docs.search(query, timeout_s=1e-9)


def test_a_truncated_store_is_noticed(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        docs, query = filled(database, "cosine"), drawn(1)[0]
        docs.search(query)
        (file,) = tmp_path.glob("collections/*/store/data.mdb")
        size = file.stat().st_size
        os.truncate(file, size // 2)
        with pytest.raises(vecdb.DataLossError) as caught:
            docs.search(query, include_metadata=False)
        assert caught.value.reason == "STORE_CUT"
        assert short(docs, query) is None


def test_large_metadata_count_against_the_memory_of_calls(tmp_path: Path) -> None:
    text = json.dumps({"text": "x" * 60_000})
    with vecdb.open(tmp_path, indexer=False, recall_meter=0, call_bytes_max=300_000) as database:
        docs, query = filled(database, "cosine"), drawn(1)[0]
        nearest = docs.search(query, 5)
        vectors = docs.get(nearest.ids).vectors
        docs.upsert(nearest.ids, vectors, [json.loads(text)] * 5)
        assert docs.search(query, 1).metadata == [json.loads(text)]
        assert short(docs, query, 5) is None
        with pytest.raises(vecdb.ResourceExhaustedError) as caught:
            docs.search(query, 5)
        assert caught.value.reason == "CALL_MEMORY"
