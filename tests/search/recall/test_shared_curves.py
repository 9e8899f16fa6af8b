"""What one process has measured with real queries is there for others, and after a restart."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.checking import checked
from tests.model import flush_now, index_now
from tests.second_process import SecondProcess
from vecdb.engine.search.recall.real_curves import QUERIES_MAX, QUERIES_MIN, RealCurves, all_efforts
from vecdb.engine.store.recall_sums import read_recall_sums, write_recall_sums
from vecdb.engine.store.store import Store
from vecdb.engine.testing import measure_recall, opened_of
from vecdb.types import Metric

ROWS = 2_000


def create(database: Any, glove: np.ndarray) -> Any:
    words = database.create_collection("words", 50)
    words.upsert_many([str(i) for i in range(ROWS)], glove[:ROWS])
    flush_now(words)
    index_now(words)
    return words


def queries_behind(words: Any, query: np.ndarray) -> int:
    """How many queries the expected recall of a search rests on."""
    found: int = words.search(query, target_recall=0.9).info.recall.queries
    return found


def test_another_process_and_a_restart_begin_with_what_was_measured(
    tmp_path: Path, glove: np.ndarray
) -> None:
    rare = glove[60_000:60_100]
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as database:
        words = create(database, glove)
        stored = queries_behind(words, rare[0])
        measure_recall(words, rare[:QUERIES_MIN], target_recall=0.9)
        known = words.search(rare[0], target_recall=0.9).info.recall
        assert known.queries == QUERIES_MIN != stored
        with SecondProcess() as other:
            other.open(tmp_path / "data")
            other.take("words")
            theirs = other.call("search", rare[0], target_recall=0.9).info.recall
            assert (
                theirs.queries == QUERIES_MIN and abs(theirs.measured_at - known.measured_at) <= 1
            )
            assert theirs.expected == pytest.approx(known.expected, abs=1e-3)
            other.close()
    assert checked(tmp_path / "data")[0] == []
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as database:
        words = database.collection("words")
        assert queries_behind(words, rare[0]) == QUERIES_MIN
        measure_recall(words, rare[50:80], target_recall=0.9)
        assert queries_behind(words, rare[0]) > 1.2 * QUERIES_MIN
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0, codes="none") as database:
        assert database.collection("words").search(rare[0]).info.recall is None


def test_searches_write_nothing(tmp_path: Path, glove: np.ndarray) -> None:
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as database:
        words = create(database, glove)
        environment = opened_of(words).store.environment
        with environment.read() as transaction:
            before = transaction.id()
        measure_recall(words, glove[60_000 : 60_000 + QUERIES_MIN - 1], target_recall=0.9)
        with environment.read() as transaction:
            assert transaction.id() == before
        measure_recall(words, glove[60_100:60_101], target_recall=0.9)
        with environment.read() as transaction:
            assert transaction.id() == before + 1


# ------------------------------------------------------------------------- two processes, in small


@pytest.fixture
def words(database: Any, glove: np.ndarray) -> Any:
    return create(database, glove)


@pytest.fixture
def store(words: Any) -> Store:
    found: Store = opened_of(words).store
    return found


@pytest.fixture
def graph(words: Any) -> int:
    (segment,) = opened_of(words).snapshots.snapshot().segments
    return int(segment.number)


def measured(store: Store, graph: int, count: int, recall: float) -> RealCurves:
    """The curves of a process that has read what is shared, and measured so many queries since."""
    curves = RealCurves(Metric.COSINE, lambda: None)
    with store.environment.read() as transaction:
        curves.read(store, transaction)
    add(curves, graph, count, recall)
    return curves


def add(curves: RealCurves, graph: int, count: int, recall: float) -> None:
    for _ in range(count):
        curves.of(graph).add(np.full(curves.of(graph).efforts.shape, recall))


def shared(store: Store) -> dict[int, tuple[float, float]]:
    """Queries and mean recall of each graph."""
    with store.environment.read() as transaction:
        found = read_recall_sums(store, transaction, all_efforts(Metric.COSINE))
    return {n: (each.queries, float(each.sums.mean() / each.queries)) for n, each in found.items()}


def test_processes_add_up_what_they_measured(store: Store, graph: int) -> None:
    one, other = measured(store, graph, 60, 1.0), measured(store, graph, 20, 0.5)
    one.share(store)
    other.share(store)
    other.share(store)
    assert shared(store) == {graph: (80, 0.875)}
    assert (one.of(graph).queries, other.of(graph).queries) == (60, 80)
    with store.environment.read() as transaction:
        one.read(store, transaction)
    add(one, graph, 20, 0.5)
    one.share(store)
    assert shared(store) == {graph: (100, 0.8)} and one.of(graph).queries == 100
    add(one, graph, QUERIES_MAX, 0.0)
    one.share(store)
    assert shared(store)[graph][0] <= QUERIES_MAX and shared(store)[graph][1] < 0.2


def test_what_is_measured_again_replaces_what_is_shared(store: Store, graph: int) -> None:
    one = measured(store, graph, 300, 1.0)
    one.share(store)
    other = measured(store, graph, 10, 1.0)
    one.measure_again(256)
    add(one, graph, 49, 0.5)
    one.share(store)
    assert shared(store) == {graph: (300, 1.0)}
    with store.environment.read() as transaction:
        one.read(store, transaction)
    add(one, graph, 51, 0.5)
    one.share(store)
    assert shared(store) == {graph: (100, 0.5)}
    other.share(store)
    assert shared(store)[graph][0] == 110


def test_graphs_that_are_gone_are_dropped(words: Any, store: Store, graph: int) -> None:
    curves = measured(store, graph, 60, 1.0)
    add(curves, graph + 100, 60, 1.0)
    curves.share(store)
    assert set(shared(store)) == {graph}
    words.upsert_many([f"more-{i}" for i in range(ROWS)], np.eye(50, dtype=np.float32)[[1] * ROWS])
    flush_now(words)
    index_now(words)
    RealCurves(Metric.COSINE, lambda: None).share(store)
    assert shared(store) == {}


def test_what_cannot_be_used_is_ignored(
    store: Store, graph: int, caplog: pytest.LogCaptureFixture
) -> None:
    measured(store, graph, 60, 1.0).share(store)
    other_efforts = all_efforts(Metric.COSINE) + 1
    with store.environment.read() as transaction:
        assert read_recall_sums(store, transaction, other_efforts) == {}
        stored = read_recall_sums(store, transaction, all_efforts(Metric.COSINE))
    wrong = stored[graph]._replace(sums=-stored[graph].sums)
    cut = stored[graph]._replace(squares=stored[graph].squares[:, 1:])
    for bad in (wrong, cut):
        store.environment.transact(
            lambda transaction, bad=bad: write_recall_sums(
                store, transaction, all_efforts(Metric.COSINE), {graph: bad}
            )
        )
        assert shared(store) == {}
    meta = store.environment.handles.meta
    store.environment.transact(lambda transaction: transaction.put(b"recall", b"{}12", db=meta))
    assert shared(store) == {}
    with caplog.at_level(logging.WARNING):
        measured(store, graph, 70, 1.0).share(store)
    assert shared(store) == {graph: (70, 1.0)}
