"""What ``stats`` says of a build: rows, and the time left at the measured rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now
from vecdb.engine.indexing.indexer import CollectionIndexer
from vecdb.engine.indexing.progress import BuildProgress
from vecdb.engine.testing import opened_of


class Build:
    """The progress of a build whose clock only the test advances."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.progress = BuildProgress(lambda: self.now_s)

    def event(self, event: str, **fields: Any) -> None:
        self.progress.note({"event": event, "collection": "a", **fields})

    def inserted(self, rows: int, of: int, cpu_s: float = 0.0) -> None:
        self.event("progress", rows=rows, of=of, cpu_s=cpu_s)


def test_time_left_follows_from_the_rate() -> None:
    build = Build()
    build.event("building", rows=10_000)
    assert build.progress.text() == "building (10,000 rows)"
    build.event("choosing", rows=10_000)
    assert build.progress.text() == "building (10,000 rows: comparing ways to build on a sample)"
    build.inserted(0, 10_000, cpu_s=3.0)
    assert build.progress.text() == "building (0 of 10,000 rows)"
    build.now_s += 10
    build.inserted(2_500, 10_000, cpu_s=22.0)
    assert build.progress.text() == "building (2,500 of 10,000 rows, about 30 s left)"
    build.event("finishing", rows=10_000)
    text = "building (10,000 rows: measuring recall and writing files)"
    assert build.progress.text() == text and build.progress.seconds_left() is None


def test_rows_of_an_extended_graph_do_not_count_as_progress() -> None:
    build = Build()
    build.event("building", rows=100_000)
    build.inserted(90_000, 100_000)
    build.now_s += 10
    build.inserted(91_000, 100_000)
    assert build.progress.seconds_left() == pytest.approx(90)


def test_time_left_grows_while_nothing_moves() -> None:
    build = Build()
    build.event("building", rows=1_000)
    build.inserted(0, 1_000)
    build.now_s += 10
    build.inserted(500, 1_000)
    assert build.progress.seconds_left() == pytest.approx(10)
    build.now_s += 90
    assert build.progress.seconds_left() == pytest.approx(100)


def test_time_left_follows_a_change_of_the_rate() -> None:
    build = Build()
    build.event("building", rows=1_000_000)
    for step in range(20):
        build.inserted(step * 1_000, 1_000_000)
        build.now_s += 10
    for step in range(20):
        build.inserted(20_000 + step * 10_000, 1_000_000)
        build.now_s += 10
    left_s = build.progress.seconds_left()
    assert left_s is not None and left_s == pytest.approx(790, rel=0.2)


def test_busy_machine_is_named() -> None:
    build = Build()
    build.event("building", rows=1_000)
    build.inserted(0, 1_000, cpu_s=1.0)
    build.now_s += 20
    build.inserted(100, 1_000, cpu_s=5.0)
    assert build.progress.text() == (
        "building (100 of 1,000 rows, about 3 min left, the machine is busy, it gets 0.2 cores)"
    )


def test_next_build_starts_anew() -> None:
    build = Build()
    build.event("building", rows=1_000)
    build.inserted(0, 1_000)
    build.now_s += 10
    build.inserted(500, 1_000)
    build.event("building", rows=3_000)
    assert build.progress.seconds_left() is None and "500" not in build.progress.text()


@pytest.mark.parametrize("count", [300, 12_000])
def test_indexer_reports_the_rows_of_each_step(tmp_path: Path, count: int) -> None:
    events: list[dict[str, Any]] = []
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 8)
        vectors = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
        docs.upsert_many([str(i) for i in range(count)], vectors)
        flush_now(docs)
        opened = opened_of(docs)
        indexer = CollectionIndexer(
            opened.store,
            opened.folder,
            opened.id,
            threads=1,
            rows_max=10**6,
            report=events.append,
            should_stop=lambda: False,
        )
        indexer.run("optimizing")
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[0]["rows"] == 0 and progress[-1]["rows"] == count
    assert all(event["of"] == count for event in progress)
    assert [e["event"] for e in events if e["event"] != "progress"][:1] == ["building"]
    assert events.index(progress[-1]) < [e["event"] for e in events].index("finishing")
