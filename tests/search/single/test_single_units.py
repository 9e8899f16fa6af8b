"""The short way through several search units gives what the general path gives, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from tests.search.single.short_way import assert_same, drawn, general, short
from tests.second_process import SecondProcess
from vecdb.engine.search.single import single_ways
from vecdb.engine.segments.codecs.byte_codes import BYTE_CODES
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.recall_part import RECALL
from vecdb.engine.testing import opened_of

DIM = 64
GRAPH_ROWS_MAX = 3_000
METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
ID = {"graph": "graph {}", "flat": "flach {} é 行", "memtable": "memtable {}"}


class Filling:
    """A collection that gets one search unit after the other."""

    def __init__(self, database: Any, metric: str, dim: int = DIM) -> None:
        self.docs = database.create_collection("docs", dim, metric)
        self._dim, self._rows, self.ids = dim, 0, {kind: list[str]() for kind in ID}

    def add(self, kind: str, rows: int, vectors: np.ndarray | None = None) -> None:
        """Add a unit of this kind with so many rows, every third without metadata."""
        if vectors is None:
            vectors = drawn(rows, 3 + self._rows, self._dim)
        numbers = range(self._rows, self._rows + rows)
        ids = [ID[kind].format(i) for i in numbers]
        metadata = [{"n": i, "text": "ü"} if i % 3 else {} for i in numbers]
        self.docs.upsert_many(ids, vectors, metadata)
        self._rows += rows
        self.ids[kind] += ids
        if kind != "memtable":
            flush_now(self.docs)
        if kind == "graph":
            index_now(self.docs, GRAPH_ROWS_MAX)


def kinds(docs: Any) -> list[str]:
    return [segment.kind for segment in docs.stats().segments]


def assert_equal_answers(docs: Any, queries: np.ndarray, k: int = 10, **wish: Any) -> None:
    general(docs, queries[0])
    for query in queries:
        for with_metadata in (False, True):
            expected = general(docs, query, k, with_metadata, **wish)
            found = short(docs, query, k, with_metadata, **wish)
            if found is not None or not scans_a_graph(docs, query, k, **wish):
                assert_same(found, expected)


def scans_a_graph(docs: Any, query: np.ndarray, k: int, **wish: Any) -> bool:
    """Whether all rows of a graph are read in order: by its curve, no effort is enough."""
    graphs = {segment.number for segment in docs.stats().segments if segment.kind == "graph"}
    explained = general(docs, query, k, explain=True, **wish).info.explain
    return any(plan.segment in graphs and plan.way == "rows" for plan in explained)


@pytest.mark.parametrize(
    ("metric", "dim", "codes"),
    [
        *(("cosine", DIM, "auto"), ("euclidean", DIM, "none"), ("dot", 7, "none")),
        pytest.param("euclidean", DIM, "auto", marks=pytest.mark.slow),
        pytest.param("dot", DIM, "auto", marks=pytest.mark.slow),
        pytest.param("cosine", 7, "auto", marks=pytest.mark.slow),
    ],
)
def test_answers_equal_those_of_the_general_path(
    tmp_path: Path, metric: str, dim: int, codes: str
) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0, codes=codes) as database:
        filling = Filling(database, metric, dim)
        docs, queries = filling.docs, drawn(8, dim=dim)
        filling.add("memtable", 70)
        assert_equal_answers(docs, queries, 10)
        assert_equal_answers(docs, queries, 100)
        filling.add("graph", GRAPH_ROWS_MAX - 70)
        filling.add("memtable", 1)
        assert_equal_answers(docs, queries, 10)
        filling.add("graph", 2_900)
        filling.add("graph", 300)
        filling.add("flat", 50)
        filling.add("flat", 5_000)
        filling.add("memtable", 30)
        assert kinds(docs) == ["graph", "graph", "graph", "flat", "flat"]
        units = opened_of(docs).snapshots.snapshot().units
        assert [unit.parts.has(SKETCH) for unit in units[:3]] == 2 * [
            codes == "auto" and dim == DIM
        ] + [False]
        assert [unit.parts.has(RECALL) for unit in units[:3]] == [True, True, False]
        assert units[4].parts.has(BYTE_CODES) == (codes == "auto" and dim == DIM)
        for k in (1, 10, 100):
            assert_equal_answers(docs, queries, k)
        for k, wish in (
            *((1, {"ef": 1}), (10, {"ef": 500}), (100, {"ef": 10})),
            *((10, {"target": 0.7}), (10, {"target": 0.98})),
        ):
            assert_equal_answers(docs, queries, k, **wish)
        for of_kind in filling.ids.values():
            docs.delete(of_kind[::5])
        for k in (1, 10, 100):
            assert_equal_answers(docs, queries, k, ef=50)


@METRICS
def test_rows_of_equal_distance_are_in_the_order_of_writing(tmp_path: Path, metric: str) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        filling = Filling(database, metric)
        few = drawn(20)
        for kind in ("graph", "flat", "flat", "memtable"):
            filling.add(kind, 60, np.tile(few, (3, 1)))
        docs = filling.docs
        assert_equal_answers(docs, few, 7, ef=60)
        assert_equal_answers(docs, few, 12, ef=60)
        found = short(docs, few[3], 12, ef=60)
        assert found is not None
        assert [int(name.split()[1]) for name in found.ids] == list(range(3, 240, 20))


def test_chunks_of_the_memtable_are_units(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0, seal_bytes=64 * 2**20) as database:
        filling = Filling(database, "cosine", 4_096)  # A chunk holds 192 rows.
        filling.add("memtable", 600)
        docs = filling.docs
        docs.delete(filling.ids["memtable"][192:384])
        assert len(opened_of(docs).snapshots.snapshot().units) == 3
        assert_equal_answers(docs, drawn(5, dim=4_096), 100)


@pytest.mark.parametrize("kept", [0, 4])
def test_units_with_fewer_live_rows_than_k(tmp_path: Path, kept: int) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        filling = Filling(database, "euclidean")
        filling.add("graph", 80)
        filling.add("flat", 90)
        filling.add("memtable", 100)
        docs = filling.docs
        for of_kind in filling.ids.values():
            docs.delete(of_kind[kept:])
            if docs.count():  # Without units there is nothing to search.
                assert_equal_answers(docs, drawn(10), 100, ef=200)
        assert docs.count() == 3 * kept


def test_commits_are_seen_at_once(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        filling = Filling(database, "cosine")
        filling.add("graph", 1_500)
        filling.add("memtable", 10)
        docs, query = filling.docs, drawn(1)[0]
        docs.search(query)
        docs.upsert(["own"], query[None])
        found = short(docs, query)
        assert found is not None
        assert found.ids[0] == "own"
        with SecondProcess() as other:
            other.open(tmp_path)
            other.take("docs")
            other.call("delete", ["own"])
            found = short(docs, query)
            assert found is not None
            assert found.ids[0] != "own"
            assert_same(found, general(docs, query))
            other.close()


def test_many_units_and_long_scans_are_left_to_the_general_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        filling = Filling(database, "cosine")
        filling.add("flat", 100)
        filling.add("memtable", 10)
        docs, query = filling.docs, drawn(1)[0]
        general(docs, query)
        for name, value in (
            *(("UNITS_MAX", 1), ("SCANNED_FLOATS_MAX", 110 * DIM)),
            *(("CANDIDATES_BYTES_MAX", 1_000),),
        ):
            with monkeypatch.context() as patched:
                patched.setattr(single_ways, name, value)
                assert short(docs, query) is None
        assert short(docs, query, 101) is None
        assert short(docs, query) is not None


def test_a_damaged_record_of_the_memtable_is_left_to_the_general_path(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False, recall_meter=0) as database:
        filling = Filling(database, "cosine")
        filling.add("flat", 100)
        filling.add("memtable", 10)
        docs, query = filling.docs, drawn(1)[0]
        opened = opened_of(docs)
        (row,) = opened.snapshots.snapshot().memtable.chunks[0].rows[:1].tolist()
        vector = docs.get(filling.ids["memtable"][:1]).vectors[0]

        def damage(transaction: Any) -> None:
            records = opened.store.environment.handles.records
            with transaction.cursor(records) as cursor:
                assert cursor.set_range(row.to_bytes(8, "big"))
                key = bytes(cursor.key())
            transaction.put(key, b"damaged!", db=records)

        opened.store.environment.transact(damage)
        assert short(docs, vector, with_metadata=False) is None
        with pytest.raises(vecdb.DataLossError):
            docs.search(vector, include_metadata=False)
        assert short(docs, query, 1, with_metadata=False) is not None
