"""The thread that measures recall: its budget, and that nothing ends it but closing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from tests.places import override, value_of
from tests.waiting import eventually
from vecdb.engine.runtime.metering import Metering
from vecdb.engine.testing import opened_of
from vecdb.errors import DataLossError

ROWS, DIM = 1_200, 16
Threads = Callable[[], list[threading.Thread]]


def vectors(count: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def filled(database: Any, name: str) -> Any:
    docs = database.create_collection(name, DIM)
    docs.upsert_many([str(i) for i in range(ROWS)], vectors(ROWS))
    flush_now(docs)
    index_now(docs)
    return docs


@pytest.fixture
def measured(tmp_path: Path) -> Iterator[Any]:
    """A database whose meter takes a whole core, so that no test waits for a budget."""
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=1) as database:
        yield database


@pytest.fixture
def unmeasured(tmp_path: Path) -> Iterator[Any]:
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as database:
        yield database


@pytest.fixture
def meter_threads() -> Threads:
    """A function that returns the meters' threads that were started in this test."""

    def threads() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if each.name == "vecdb-recall"}

    before = threads()  # Of servers that serve several tests, for example.
    return lambda: list(threads() - before)


def queries_measured(docs: Any) -> int:
    hour = docs.stats().recall_hour
    return 0 if hour is None else hour.queries


def search_until_measured(docs: Any, count: int) -> None:
    """Search until the meter has measured so many queries."""

    def enough() -> bool:
        docs.search(vectors(1, seed=queries_measured(docs))[0])
        return queries_measured(docs) >= count

    eventually(enough)


class Clocks:
    """A wall clock, and a CPU clock of which each reading takes a while."""

    def __init__(self) -> None:
        self.now = self.cpu_s = 1_000.0

    def read(self) -> float:
        return self.now

    def read_cpu(self) -> float:
        self.now += 0.001
        self.cpu_s += 0.001
        return self.cpu_s


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_the_budget_of_cpu_time_is_kept(unmeasured: Any, share: float) -> None:
    docs, clocks = filled(unmeasured, "docs"), Clocks()
    metering = Metering(share, clock=clocks.read, cpu_clock=clocks.read_cpu)
    opened = opened_of(docs)
    began, began_cpu = clocks.now, clocks.cpu_s
    for query in vectors(10, seed=1):
        opened.meter.arm()
        docs.search(query)
        metering.run_step(opened.meter)
        assert metering.pause_s() > 0
        clocks.now += metering.pause_s()
        used = (clocks.cpu_s - began_cpu) / (clocks.now - began)
        assert used == pytest.approx(share, rel=0.1)
    assert queries_measured(docs) == 10


def test_searches_are_measured_in_the_background(measured: Any, meter_threads: Threads) -> None:
    docs = filled(measured, "docs")
    assert not meter_threads()
    search_until_measured(docs, 3)
    (thread,) = meter_threads()
    measured.close()
    assert not thread.is_alive() and not meter_threads()


def test_collections_take_turns(measured: Any, meter_threads: Threads) -> None:
    both = [filled(measured, name) for name in ("busy", "quiet")]
    eventually(lambda: [d.search(vectors(1)[0]) for d in both] and all(map(queries_measured, both)))
    assert len(meter_threads()) == 1


def test_nothing_is_measured_without_a_budget(unmeasured: Any, meter_threads: Threads) -> None:
    docs = filled(unmeasured, "docs")
    for query in vectors(5):
        docs.search(query)
    assert not opened_of(docs).searcher.tap.has_samples() and not meter_threads()


def test_a_failed_step_is_logged_and_the_thread_goes_on(
    measured: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    docs, other = filled(measured, "docs"), filled(measured, "other")
    step, damaged = value_of("measure_samples"), opened_of(docs).meter
    failures: list[int] = []

    def failing(meter: Any, deadline: Any) -> Any:
        if meter is damaged and len(failures) < 2:
            failures.append(1)
            raise DataLossError("a block is damaged")
        return step(meter, deadline)

    override(monkeypatch, "measure_samples", failing)
    eventually(lambda: [docs.search(vectors(1)[0])] and failures)
    search_until_measured(other, 2)
    assert len(failures) == 1 and queries_measured(docs) == 0
    assert "a block is damaged" in caplog.text


def test_a_collection_whose_step_failed_is_measured_again_later(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "meter_failed_pause_s", 0.0)
    docs, step, failures = filled(measured, "docs"), value_of("measure_samples"), [1, 1]

    def failing(meter: Any, deadline: Any) -> Any:
        if failures:
            failures.pop()
            raise DataLossError("a block is damaged")
        return step(meter, deadline)

    override(monkeypatch, "measure_samples", failing)
    search_until_measured(docs, 2)
    assert not failures


def test_a_dropped_collection_is_not_measured_any_more(measured: Any) -> None:
    docs, other = filled(measured, "docs"), filled(measured, "other")
    search_until_measured(docs, 1)
    meter = opened_of(docs).meter
    measured.drop_collection("docs")
    search_until_measured(other, 2)
    meter.arm()
    assert not opened_of(docs).searcher.tap.armed


def test_closing_ends_a_step_between_two_slices(unmeasured: Any) -> None:
    docs = filled(unmeasured, "docs")
    opened, metering = opened_of(docs), Metering(1.0)
    opened.meter.arm()
    docs.search(vectors(1)[0])
    metering.close()
    metering.run_step(opened.meter)
    assert queries_measured(docs) == 0 and metering.pause_s() == 0


@pytest.mark.parametrize("share", [-0.1, 1.1, True, "much", float("nan")])
def test_a_budget_that_is_no_share_is_refused(tmp_path: Path, share: Any) -> None:
    with pytest.raises(vecdb.InvalidArgumentError, match="option recall_meter") as caught:
        vecdb.open(tmp_path / "data", recall_meter=share)
    assert caught.value.reason == "BAD_OPTION" and not (tmp_path / "data").exists()


def test_a_damaged_graph_does_not_end_the_thread(measured: Any, meter_threads: Threads) -> None:
    docs, other = filled(measured, "docs"), filled(measured, "other")
    search_until_measured(docs, 1)
    (segment,) = opened_of(docs).snapshots.snapshot().segments
    assert segment.segment is not None
    links = segment.segment.folder / "links.npy"
    size = links.stat().st_size
    with links.open("r+b") as file:  # In place: the mapped bytes change.
        file.seek(128)
        file.write(np.random.default_rng(3).bytes(size - 128))
    search_until_measured(docs, 4)
    search_until_measured(other, 1)
    hour = docs.stats().recall_hour
    assert 0 <= hour.low <= hour.measured <= hour.high <= 1
    (thread,) = meter_threads()
    assert thread.is_alive()
