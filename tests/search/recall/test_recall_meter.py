"""The recall meter, driven by hand: recall measured with real queries, and curves from them."""

from __future__ import annotations

import gc
import logging
import math
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now, recall
from tests.second_process import SecondProcess
from vecdb.engine.search.recall.real_curves import (
    QUERIES_MANY,
    QUERIES_MAX,
    QUERIES_MIN,
    RealCurves,
)
from vecdb.engine.search.recall.recall_history import DAY_S, HOUR_S, RecallHistory
from vecdb.engine.search.recall.samples import SAMPLES_MAX
from vecdb.engine.segments.calibration import BANDS, efforts_of
from vecdb.engine.segments.recall_part import Effort, RecallCurve
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import kept_queries, measure_recall, opened_of
from vecdb.types import Metric

ROWS = 6_000
NOISE = 0.01
"""Somewhat more than two standard errors of a recall measured with 500 queries."""


def filled(database: Any, name: str, vectors: np.ndarray, metric: str) -> None:
    words = database.create_collection(name, vectors.shape[1], metric)
    words.upsert_many([str(i) for i in range(len(vectors))], vectors)
    flush_now(words)
    index_now(words)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, glove: np.ndarray) -> Path:
    """A folder with a collection of the most frequent words for each metric, named by it, and
    "any" of words of any frequency."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    with vecdb.open(folder, indexer=False, recall_meter=0) as database:
        for metric in Metric:
            filled(database, metric.value, glove[:ROWS], metric.value)
        filled(database, "any", any_words(glove)[:ROWS], "cosine")
    return folder


def any_words(glove: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = glove[np.random.default_rng(1).permutation(60_000)[: ROWS + 150]]
    return chosen


@pytest.fixture
def unmeasured(tmp_path: Path, prepared: Path) -> Iterator[Any]:
    """A copy of the prepared folder whose recall is measured by hand alone."""
    shutil.copytree(prepared, tmp_path / "data")
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as database:
        yield database


@pytest.fixture
def words(unmeasured: Any) -> Any:
    """The most frequent words; ``rare`` ones are queries of another distribution."""
    return unmeasured.collection("cosine")


@pytest.fixture
def rare(glove: np.ndarray) -> np.ndarray:
    return glove[60_000:60_600]


def measured_recall(words: Any, queries: np.ndarray, **search: Any) -> float:
    return recall(words.search(queries, **search), words.search(queries, exact=True))


def test_measured_recall_is_the_recall_of_these_queries(words: Any, rare: np.ndarray) -> None:
    queries = rare[: QUERIES_MIN - 1]
    assert words.stats().recall_hour is None and words.stats().recall_day is None
    measure_recall(words, queries, target_recall=0.9)
    hour = words.stats().recall_hour
    assert hour == words.stats().recall_day and hour.queries == len(queries)
    assert hour.measured == pytest.approx(measured_recall(words, queries, target_recall=0.9))
    assert hour.low < hour.measured < hour.high and hour.promised == pytest.approx(0.9)


def test_queries_like_the_rows_have_the_recall_that_is_expected(
    unmeasured: Any, glove: np.ndarray
) -> None:
    words, queries = unmeasured.collection("any"), any_words(glove)[ROWS:]
    expected = words.search(queries[0], target_recall=0.9).info.recall.expected
    measure_recall(words, queries, target_recall=0.9)
    hour = words.stats().recall_hour
    assert hour.queries == 150 and hour.low - NOISE < expected < hour.high + NOISE
    assert hour.high >= hour.promised


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_queries_unlike_the_rows_reach_the_target_after_the_sample(
    unmeasured: Any,
    rare: np.ndarray,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
) -> None:
    """Without the rule for far queries, which spares these most of the misses."""
    effort_for = RecallCurve.effort_for

    def near_rule_only(curve: RecallCurve, k: int, target: float) -> Effort | None:
        effort = effort_for(curve, k, target)
        return effort and replace(effort, far=math.inf)

    monkeypatch.setattr(RecallCurve, "effort_for", near_rule_only)
    words = unmeasured.collection(metric)
    sample, others = rare[:100], rare[100:]
    before = words.search(others[0], target_recall=0.9).info.recall
    assert measured_recall(words, others, target_recall=0.9) < 0.9 - 4 * NOISE
    with caplog.at_level(logging.INFO, "vecdb.recall"):
        measure_recall(words, sample, target_recall=0.9)
    for target in (0.9, 0.95):
        assert measured_recall(words, others, target_recall=target) >= target - NOISE
    after = words.search(others[0], target_recall=0.9).info.recall
    assert 50 <= after.queries <= len(sample) < before.queries
    assert after.measured_at >= before.measured_at and after.lower >= 0.9 - 1e-9
    (line,) = [r.getMessage() for r in caplog.records if r.name == "vecdb.recall"]
    hour = words.stats().recall_hour
    assert f"collection {metric}" in line and "promised 0.900" in line and "recalibrated" in line
    assert hour.queries == len(sample) and hour.promised == pytest.approx(0.9)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_queries_far_from_all_rows_reach_the_target_at_once(
    unmeasured: Any, rare: np.ndarray, metric: str
) -> None:
    words = unmeasured.collection(metric)
    for target in (0.9, 0.95):
        assert measured_recall(words, rare[100:], target_recall=target) >= target - NOISE


def test_few_queries_change_no_plan(words: Any, rare: np.ndarray) -> None:
    before = words.search(rare[0]).info.recall
    measure_recall(words, rare[: QUERIES_MIN - 1])
    assert words.search(rare[0]).info.recall == before
    measure_recall(words, rare[QUERIES_MIN - 1 : QUERIES_MIN])
    after = words.search(rare[0]).info.recall
    assert after != before and after.queries == QUERIES_MIN


def test_inner_products_are_measured_by_ef(unmeasured: Any, rare: np.ndarray) -> None:
    words = unmeasured.collection("dot")
    measure_recall(words, rare[:60], target_recall=0.9)
    info = words.search(rare[100], target_recall=0.9).info
    assert info.plan == "graph" and QUERIES_MIN <= info.recall.queries <= 60
    assert measured_recall(words, rare[100:], target_recall=0.9) >= 0.9 - NOISE


def test_a_new_graph_is_measured_with_the_queries_that_are_kept(
    words: Any, glove: np.ndarray, rare: np.ndarray
) -> None:
    measure_recall(words, rare[:60], target_recall=0.9)
    words.upsert_many([f"more-{i}" for i in range(1_000)], glove[ROWS : ROWS + 1_000])
    flush_now(words)
    index_now(words)
    assert words.search(rare[0], target_recall=0.9).info.recall.queries > 100
    measure_recall(words, rare[60:61], target_recall=0.9)
    assert words.search(rare[0], target_recall=0.9).info.recall.queries >= 60
    assert words.search(rare[0], target_recall=0.9).info.recall.queries < 100
    assert measured_recall(words, rare[100:], target_recall=0.9) >= 0.9 - NOISE
    assert words.stats().recall_hour.queries == 61


def test_another_process_measures_for_itself(
    tmp_path: Path, unmeasured: Any, words: Any, glove: np.ndarray, rare: np.ndarray
) -> None:
    with SecondProcess() as other:
        other.open(tmp_path / "data")
        other.take("cosine")
        measure_recall(words, rare[:60], target_recall=0.9)
        theirs = other.call("search", rare[0], target_recall=0.9).info.recall
        assert theirs.queries > words.search(rare[0], target_recall=0.9).info.recall.queries
        more = [f"more-{i}" for i in range(1_000)]
        other.call("upsert", more, glove[ROWS : ROWS + 1_000])
        other.flush()
        other.index(1 << 40)
        measure_recall(words, rare[60:61], target_recall=0.9)
        assert 60 <= words.search(rare[0], target_recall=0.9).info.recall.queries < 100
        other.drop("cosine")
        meter = opened_of(words).meter
        with pytest.raises(vecdb.NotFoundError):
            words.search(rare[0])
        assert meter.step(Deadline()) is False
        other.close()


@pytest.mark.parametrize(
    "search", [{"exact": True}, {"ef": 50}, {"target_recall": 1}, {"k": 5_000}]
)
def test_only_searches_with_a_target_are_sampled(
    words: Any, rare: np.ndarray, search: dict[str, Any]
) -> None:
    opened = opened_of(words)
    opened.meter.arm()
    words.search(rare[0], **search)
    assert opened.searcher.tap.armed and not opened.searcher.tap.has_samples()
    words.search(rare[:3], target_recall=0.9)
    assert not opened.searcher.tap.armed
    (sample,) = opened.searcher.tap.drain()
    assert sample.k == 10 and sample.wish.target == 0.9


def test_rows_outside_graphs_are_counted(words: Any, glove: np.ndarray, rare: np.ndarray) -> None:
    words.upsert_many([f"more-{i}" for i in range(500)], glove[ROWS : ROWS + 500])
    flush_now(words)
    words.upsert_many([f"fresh-{i}" for i in range(500)], glove[ROWS + 500 : ROWS + 1_000])
    words.delete([str(i) for i in range(0, ROWS, 7)])
    measure_recall(words, rare[:40], target_recall=0.9)
    found = measured_recall(words, rare[:40], target_recall=0.9)
    assert words.stats().recall_hour.measured == pytest.approx(found)


def test_rows_that_are_read_from_the_store_are_counted(
    tmp_path: Path, prepared: Path, glove: np.ndarray, rare: np.ndarray
) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    options: dict[str, Any] = {"indexer": False, "recall_meter": 0, "fresh_bytes_max": 100_000}
    with vecdb.open(tmp_path / "data", **options) as database:
        words = database.collection("cosine")
        words.upsert_many([f"fresh-{i}" for i in range(2_000)], glove[ROWS : ROWS + 2_000])
        assert not opened_of(words).snapshots.snapshot().holds_all
        measure_recall(words, rare[:40], target_recall=0.9)
        found = measured_recall(words, rare[:40], target_recall=0.9)
        assert words.stats().recall_hour.measured == pytest.approx(found)


def test_a_collection_without_a_graph_is_not_measured(
    unmeasured: Any, glove: np.ndarray, rare: np.ndarray
) -> None:
    words = unmeasured.create_collection("words", 50)
    words.upsert_many([str(i) for i in range(1_000)], glove[:1_000])
    measure_recall(words, rare[:3])
    assert words.stats().recall_hour is None


def test_neither_samples_nor_measurements_hold_a_snapshot(words: Any, rare: np.ndarray) -> None:
    opened = opened_of(words)
    measure_recall(words, rare[:3])
    opened.meter.arm()
    words.search(rare[3])
    assert opened.searcher.tap.has_samples()
    old = weakref.ref(opened.snapshots.snapshot())
    words.upsert(["new"], rare[:1])
    words.search(rare[4])
    gc.collect()
    assert old() is None


def test_memory_is_bounded(words: Any, rare: np.ndarray) -> None:
    opened = opened_of(words)
    for query in rare[:40]:
        opened.searcher.tap.armed = True
        words.search(query)
    opened.meter.arm()
    assert not opened.searcher.tap.armed
    assert len(opened.searcher.tap.drain()) == SAMPLES_MAX
    measure_recall(words, rare[:300])
    assert len(kept_queries(words)) == 256
    last = kept_queries(words)[-1][:50]
    np.testing.assert_allclose(last, rare[299] / np.linalg.norm(rare[299]), atol=1e-5)
    opened.evict()
    assert len(kept_queries(words)) == 0


def test_a_closed_meter_takes_no_samples(words: Any, rare: np.ndarray) -> None:
    opened = opened_of(words)
    opened.meter.close()
    opened.meter.arm()
    words.search(rare[0])
    assert not opened.searcher.tap.armed and opened.meter.step(Deadline()) is False


# --------------------------------------------------------------------------------- history, curves


def test_history_covers_the_last_hour_and_day_and_no_more() -> None:
    history = RecallHistory()
    assert history.over(0, HOUR_S) is None
    for minute in range(3 * DAY_S // 60):
        history.add(60.0 * minute, 0.5 if minute % 2 else 1.0, 10, 0.9)
    now = 60.0 * (3 * DAY_S // 60 - 1)
    hour, day = history.over(now, HOUR_S), history.over(now, DAY_S)
    assert hour is not None and day is not None
    assert (hour.queries, day.queries) == (HOUR_S // 60, DAY_S // 60)
    assert hour.measured == day.measured == 0.75 and day.promised == pytest.approx(0.9)
    assert hour.high - hour.low > day.high - day.low > 0
    assert history.over(now + HOUR_S, HOUR_S) is None
    assert history.over(now + DAY_S, DAY_S) is None


def test_interval_is_wide_for_one_query_and_holds_the_truth() -> None:
    history = RecallHistory()
    history.add(0, 1.0, 10, 0.9)
    one = history.over(0, HOUR_S)
    assert one is not None and one.low < 0.9 and one.high == 1
    missed, chance = 0, np.random.default_rng(5)
    for _ in range(200):
        history = RecallHistory()
        for recall_of_one in chance.binomial(10, 0.93, 100) / 10:
            history.add(0, recall_of_one, 10, 0.9)
        hour = history.over(0, HOUR_S)
        assert hour is not None
        missed += not hour.low <= 0.93 <= hour.high
    assert missed < 20


def real_curves(recalls: float, queries: int) -> tuple[RealCurves, list[int]]:
    published: list[int] = []
    curves = RealCurves(Metric.COSINE, lambda: published.append(1))
    curve = curves.of(3)
    for _ in range(queries):
        curve.add(np.full(curve.efforts.shape, recalls))
        curves.publish()
    return curves, published


def test_a_target_needs_queries_that_can_show_it() -> None:
    curves, _ = real_curves(1.0, 60)
    assert curves.for_target(3, 10, 0.95) is not None
    assert curves.for_target(3, 1, 0.95) is None and curves.for_target(3, 5, 0.95) is None
    assert curves.for_target(4, 10, 0.95) is None and curves.for_target(None, 10, 0.95) is None
    curves, _ = real_curves(1.0, 100)
    assert curves.for_target(3, 1, 0.95) is not None


def test_a_target_that_few_queries_miss_is_left_to_the_stored_curve() -> None:
    assert real_curves(0.8, 100)[0].for_target(3, 10, 0.9) is None
    used = real_curves(0.8, QUERIES_MANY + 150)[0].for_target(3, 10, 0.9)
    assert used is not None and used.effort_for(10, 0.9) is None


def test_curves_follow_the_latest_queries() -> None:
    curves, published = real_curves(0.5, QUERIES_MAX)
    curve = curves.of(3)
    for _ in range(3 * QUERIES_MAX):
        curve.add(np.ones(curve.efforts.shape))
    assert curve.queries <= QUERIES_MAX
    assert curve.curve().values[1, 0, 1] > 0.9
    assert len(published) < 20
    curves.retain([4])
    assert not curves.has(3) and curves.for_target(3, 10, 0.4) is None


def test_efforts_are_those_of_stored_curves() -> None:
    for metric in Metric:
        for k in BANDS:
            efforts = efforts_of(metric, k)
            assert list(efforts) == sorted(set(efforts)) and len(efforts) > 5
