"""The plan of a search: pure functions of curves and units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vecdb.engine.search.plan import UnitPlan, Wish, plan_search
from vecdb.engine.search.snapshots.snapshot import NOTHING_DELETED, SearchUnit
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_kind import Parts
from vecdb.engine.segments.recall_part import EF_CAP, RECALL, RecallCurve

EFFORTS = (1.0, 1.1, 1.2, 1.5)
BANDS = ((0.5, 0.8, 0.92, 0.99), (0.7, 0.9, 0.96, 0.998), (0.9, 0.95, 0.99, 0.999))


def curve(error: float = 0.005, by: Any = "gamma", *, sketched: bool = False) -> RecallCurve:
    efforts = EFFORTS if by == "gamma" else (10.0, 20.0, 40.0, 80.0)
    values = [
        [(effort, mean, error) for effort, mean in zip(efforts, band, strict=True)]
        for band in BANDS
    ]
    return RecallCurve(np.array(values, np.float32), by, 400, (1.0, 2.0, 3.0), sketched, 50.0)


def unit(
    live: int = 1_000, count: int | None = None, *, graph: bool = True,
    measured: RecallCurve | None = None,
) -> SearchUnit:  # fmt: skip
    parts = Parts()
    if graph:
        parts.put(GRAPH, object())  # type: ignore[arg-type]
    if measured is not None:
        parts.put(RECALL, measured)
    rows = np.arange(count or live)
    return SearchUnit(
        np.zeros((len(rows), 16), np.float32), len(rows), NOTHING_DELETED, live, rows,
        None, parts,
    )  # fmt: skip


def wish(target: float = 0.95, ef: int | None = None, *, exact: bool = False) -> Wish:
    return Wish(ef, target, exact)


@pytest.mark.parametrize("k", [1, 2, 5, 10, 30, 100, 1_000])
def test_a_higher_target_takes_more_effort(k: int) -> None:
    measured = curve()
    efforts = [measured.effort_for(k, target) for target in (0.5, 0.8, 0.9, 0.95, 0.97)]
    gammas = [each.gamma for each in efforts if each is not None]
    assert len(gammas) == 5 and gammas == sorted(gammas) and len(set(gammas)) > 2
    for target, effort in zip((0.5, 0.8, 0.9, 0.95, 0.97), efforts, strict=True):
        assert effort is not None
        assert effort.lower >= target - 1e-9 and effort.expected >= effort.lower


def test_the_effort_lies_between_those_of_the_neighbouring_bands() -> None:
    measured = curve()
    one, five, ten = (measured.effort_for(k, 0.9) for k in (1, 5, 10))
    assert one is not None and five is not None and ten is not None
    assert one.gamma is not None and five.gamma is not None and ten.gamma is not None
    assert ten.gamma < five.gamma < one.gamma
    assert one.ef == five.ef == EF_CAP


def test_uncertainty_takes_more_effort() -> None:
    sure, unsure = curve(0.001).effort_for(10, 0.9), curve(0.02).effort_for(10, 0.9)
    assert sure is not None and unsure is not None
    assert sure.gamma is not None and unsure.gamma is not None and sure.gamma < unsure.gamma


def test_a_target_that_no_effort_reaches_is_scanned() -> None:
    assert curve().effort_for(10, 0.9999) is None
    plan = plan_search([unit(measured=curve())], 0, 10, wish(0.9999))
    assert plan.units == (UnitPlan(walks=False),)
    assert plan.recall is not None and plan.recall.expected == plan.recall.lower == 1


def test_inner_products_are_walked_by_ef() -> None:
    effort = curve(by="ef").effort_for(100, 0.95)
    larger = curve(by="ef").effort_for(1_000, 0.95)
    assert effort is not None and larger is not None
    assert effort.gamma is None and larger.gamma is None
    assert effort.ef == 200 and larger.ef == 2_000  # The default is more than was measured.


def test_exact_and_a_target_of_one_scan_everything() -> None:
    units = [unit(measured=curve()), unit(graph=False)]
    for asked in (wish(exact=True), wish(1.0)):
        plan = plan_search(units, 5, 10, asked)
        assert [way.walks for way in plan.units] == [False, False]
        assert plan.recall is not None and plan.recall.expected == 1 and plan.recall.queries == 0


def test_an_ef_overrules_the_target_and_promises_nothing() -> None:
    plan = plan_search([unit(measured=curve())], 0, 10, wish(ef=77))
    assert plan.units == (UnitPlan(True, 77, None),) and plan.recall is None


def test_a_graph_that_was_not_measured_is_walked_with_the_default_ef() -> None:
    plan = plan_search([unit(), unit(measured=curve())], 0, 100, wish())
    assert plan.units[0] == UnitPlan(True, 200, None) and plan.units[1].gamma is not None
    assert plan.recall is None


def test_a_curve_measured_with_sketches_is_not_used_without_them() -> None:
    for codes, sketch in ((True, True), (True, False), (False, True)):
        one = unit(measured=curve(sketched=True))
        if sketch:
            one.parts.put(SKETCH, object())  # type: ignore[arg-type]
        plan = plan_search([one], 0, 10, wish(), codes=codes)
        assert (plan.units[0].gamma is not None) == (plan.recall is not None) == (codes and sketch)


def test_a_damaged_curve_is_not_followed() -> None:
    damaged = curve()
    damaged.values[1, 2, 0] = np.nan
    assert damaged.effort_for(10, 0.9) is None


def test_recall_is_the_average_over_live_rows() -> None:
    scanned, walked = unit(3_000, graph=False), unit(1_000, measured=curve())
    plan = plan_search([scanned, walked], 0, 10, wish(0.9))
    effort = curve().effort_for(10, 0.9)
    assert plan.recall is not None and effort is not None
    assert plan.recall.expected == pytest.approx((3 + effort.expected) / 4)
    assert plan.recall.lower == pytest.approx((3 + effort.lower) / 4)
    assert (plan.recall.rows, plan.recall.queries) == (4_000, 400)
    assert plan.recall.measured_at == 50 and plan.recall.target == 0.9
    outside = plan_search([walked], 3_000, 10, wish(0.9))
    assert outside.recall is not None
    assert outside.recall.expected == pytest.approx(plan.recall.expected)


def test_deleted_rows_lower_the_bound_and_walks_aim_higher() -> None:
    whole = plan_search([unit(1_000, measured=curve())], 0, 10, wish(0.9))
    fewer = plan_search([unit(800, 1_000, measured=curve())], 0, 10, wish(0.9))
    assert whole.recall is not None and fewer.recall is not None
    assert fewer.recall.expected > whole.recall.expected
    assert fewer.recall.lower == pytest.approx(0.9) == whole.recall.lower
    higher = plan_search([unit(1_000, measured=curve())], 0, 10, wish(1 - 0.1 / 1.1))
    gammas = [plan.units[0].gamma for plan in (whole, fewer, higher)]
    assert gammas[1] == pytest.approx(gammas[2]) and gammas[1] > gammas[0]


def test_nothing_to_search_is_found_completely() -> None:
    plan = plan_search([], 0, 10, wish())
    assert plan.units == () and plan.recall is not None and plan.recall.expected == 1
