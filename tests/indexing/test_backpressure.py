"""Writers are delayed while the indexer is behind, and never without indexing progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.waiting import eventually
from vecdb.engine.indexing import backpressure
from vecdb.engine.indexing.backpressure import DELAY_S_MAX, Backpressure
from vecdb.engine.segments.lifecycle import GRAPH_LOCK, reserve
from vecdb.engine.testing import opened_of

DIM = 16
ROW_BYTES = 4 * DIM


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def noted(docs: Any, backlog_rows: int) -> Any:
    """Return the stats after the last commit was recorded, which follows its answer."""
    eventually(lambda: docs.stats().backlog_bytes == backlog_rows * ROW_BYTES, docs.stats)
    return docs.stats()


def test_delay_grows_with_the_backlog_up_to_a_second() -> None:
    pressure = Backpressure(1000)
    delays = []
    for backlog in (0, 1000, 1100, 1500, 2000, 9000):
        pressure.note(backlog, 0)
        delays.append(pressure.delay_s)
    assert delays == pytest.approx([0, 0, 0.1, 0.5, DELAY_S_MAX, DELAY_S_MAX])


def test_delay_without_indexing_progress_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(backpressure.time, "monotonic", lambda: now[0])
    pressure = Backpressure(1000)
    pressure.note(2000, 5)
    now[0] += 29
    assert pressure.delay_s == 1.0 and not pressure.is_stalled
    now[0] += 2
    pressure.note(3000, 5)
    assert pressure.delay_s == 0.0 and pressure.is_stalled
    pressure.progress()
    assert pressure.delay_s == 1.0
    now[0] += 31
    pressure.note(3000, 6)
    assert pressure.delay_s == 1.0


def test_delayed_writers_see_the_delay_in_stats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vecdb.open(tmp_path, indexer=False, backlog_bytes_max=100 * ROW_BYTES) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(range(100), rows(100, 0))
        assert noted(docs, 100).write_delay_s == 0.0
        docs.upsert(range(100, 110), rows(10, 1))
        stats = noted(docs, 110)
        assert stats.write_delay_s == pytest.approx(0.1)
        docs.delete([0])  # Deletions do not add to the backlog.
        # Only now, so that the delay above is seen however slow the machine is.
        monkeypatch.setattr(backpressure, "NO_PROGRESS_S", 0.0)
        docs.upsert([200], rows(1, 2))
        stats = noted(docs, 111)
        assert stats.write_delay_s == 0.0 and "no progress" in stats.indexer
        assert docs.count() == 110


@pytest.mark.slow
def test_indexing_ends_the_delay(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, backlog_bytes_max=400 * ROW_BYTES, seal_bytes=4096) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(range(1000), rows(1000, 0))
        docs.optimize()
        docs.upsert([1000], rows(1, 1))
        assert noted(docs, 1).write_delay_s == 0.0


def test_segments_during_steady_writes_stay_within_sixteen(tmp_path: Path) -> None:
    """Many flushes while the indexer works."""
    with vecdb.open(tmp_path, seal_bytes=20 * ROW_BYTES) as database:
        docs = database.create_collection("docs", DIM)
        most = 0
        for step in range(80):
            docs.upsert(range(40 * step, 40 * step + 40), rows(40, step))
            most = max(most, len(docs.stats().segments))
        assert most <= 16
        assert docs.optimize().unindexed_rows == 0


def test_segments_during_a_full_merge_stay_within_sixteen(tmp_path: Path) -> None:
    """The twelve segments of the merge cannot be joined until it ends, however long it takes."""
    with vecdb.open(tmp_path, indexer=False, seal_bytes=20 * ROW_BYTES) as database:
        docs = database.create_collection("docs", DIM)

        def written(step: int) -> int:
            docs.upsert(range(40 * step, 40 * step + 40), rows(40, step))
            opened_of(docs).flush(1)
            return len(docs.stats().segments)

        for step in range(12):
            written(step)
        segments = docs.stats().segments[:12]
        store = opened_of(docs).store
        assert reserve(store, GRAPH_LOCK, segments[0].first_row, segments[-1].end_row) is not None
        assert max(written(step) for step in range(12, 40)) <= 16
        assert docs.count() == 40 * 40
        queries = rows(3, 99)
        assert all(h.info.matches == 1600 for h in docs.search(queries, exact=True))


def test_small_segment_limit_creates_many_graphs_searched_as_one(tmp_path: Path) -> None:
    vectors = rows(2000, 5)
    with vecdb.open(
        tmp_path, segment_bytes_max=250 * (ROW_BYTES + 160), seal_bytes=4096
    ) as database:
        docs = database.create_collection("docs", DIM, "euclidean")
        docs.upsert_many(range(2000), vectors)
        stats = docs.optimize()
        assert len(stats.segments) >= 7 and {s.kind for s in stats.segments} == {"graph"}
        queries = rows(50, 6)
        exact = docs.search(queries, k=10, exact=True)
        found = docs.search(queries, k=10)
        shares = [len(set(a.ids) & set(b.ids)) / 10 for a, b in zip(exact, found, strict=True)]
        assert np.mean(shares) >= 0.95
