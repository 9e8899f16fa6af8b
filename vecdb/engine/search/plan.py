"""Which way a search takes through each unit of a snapshot, and the recall to expect of it.

A search says how good its answer has to be (``Wish``): exact, a target of recall, or an ef. A unit
without a graph is scanned. A graph is walked with the least effort that reaches the target by the
curve that was measured for it (``segments/recall_part.py``), and scanned if no effort does. If
the recall meter has measured with enough real queries, their curve is used in place of the stored
one. Where no curve was measured, as in small graphs and those of an earlier version, the default ef
is used and the recall is unknown.

Since each unit reaches the target for its own nearest rows, so do all of them together.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Final, NamedTuple

from vecdb import checks
from vecdb.engine.search.filtered import Selected
from vecdb.engine.search.real_curves import RealCurves
from vecdb.engine.search.snapshot import SearchUnit, Snapshot
from vecdb.engine.segments.codecs.sketch import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.recall_part import RECALL, RecallCurve
from vecdb.types import RecallInfo

__all__ = ["Planner", "SearchPlan", "UnitPlan", "Wish", "plan_filtered", "plan_search"]

_PLANS_MAX: Final = 64
"""Plans that are kept for the latest snapshot."""

_DELETED_WIDENING: Final = 0.5
"""Part of the misses by which deleted rows lower the bound: half as many more misses if all rows
were deleted."""


class Wish(NamedTuple):
    """How good an answer has to be.

    Attributes:
        ef: candidates that walks keep; None: by ``target``.
        target: recall@k to reach, above 0 and below 1, or 1 as ``exact``.
        exact: compare all rows.
    """

    ef: int | None
    target: float
    exact: bool


class UnitPlan(NamedTuple):
    """The way through one unit.

    Attributes:
        walks: whether its graph is walked; else all its rows are compared.
        ef, gamma: effort of the walk; gamma None if ef alone ends it.
        far, ef_far: if its k-th hit is farther than far, a squared distance, a query is unlike
            those that the effort was measured with: the walk keeps at least ef_far candidates.
    """

    walks: bool
    ef: int = 0
    gamma: float | None = None
    far: float = math.inf
    ef_far: int = 0


class SearchPlan(NamedTuple):
    """How a search is executed.

    Attributes:
        units: the ways through all units, in their order.
        recall: what recall to expect; None if it is unknown.
        curves: graphs whose effort the curve of their recall decides, those included that are
            scanned since no effort is enough.
    """

    units: tuple[UnitPlan, ...]
    recall: RecallInfo | None
    curves: int


_SCAN: Final = UnitPlan(walks=False)


class Planner:
    """Makes the plan of a search, once for equal wishes on one snapshot. Thread-safe.

    Args:
        real_curves, codes: as for ``plan_search``.
    """

    def __init__(self, real_curves: RealCurves, *, codes: bool) -> None:
        self._real_curves, self._codes = real_curves, codes
        self._made: tuple[weakref.ref[Snapshot] | None, dict[tuple[int, Wish], SearchPlan]]
        self._made = None, {}

    def plan(self, snapshot: Snapshot, k: int, wish: Wish) -> SearchPlan:
        """Return the plan of a search on a snapshot."""
        known, plans = self._made
        if known is None or known() is not snapshot:
            plans = {}
            self._made = weakref.ref(snapshot), plans
        plan = plans.get((k, wish))
        if plan is None:
            units = snapshot.units
            outside = snapshot.live_count - sum(unit.live_count for unit in units)
            plan = plan_search(units, outside, k, wish, self._real_curves, codes=self._codes)
            if len(plans) < _PLANS_MAX:
                plans[k, wish] = plan
        return plan

    def forget(self) -> None:
        """Forget the plans, when curves were published."""
        self._made = None, {}


def plan_search(
    units: Sequence[SearchUnit],
    other_rows: int,
    k: int,
    wish: Wish,
    real_curves: RealCurves | None = None,
    *,
    codes: bool = True,
) -> SearchPlan:
    """Return the plan of a search.

    Args:
        other_rows: live rows outside the units, which are compared exactly.
        real_curves: curves that were measured with real queries.
        codes: whether walks may use the codes of segments that have some.
    """
    ways, expected, lower = [], float(other_rows), float(other_rows)
    queries, oldest, live, known, curves = 0, None, other_rows, True, 0
    for unit in units:
        way, recalls = _SCAN, (1.0, 1.0)
        if unit.parts.has(GRAPH) and not (wish.exact or wish.target >= 1):
            curve = _curve_of(unit, k, wish, real_curves, codes=codes)
            curves += wish.ef is None and curve is not None
            if wish.ef is not None or curve is None:
                way = UnitPlan(True, checks.check_ef(wish.ef, k))
                known = False
            elif (effort := curve.effort_for(k, wish.target)) is not None:
                way = UnitPlan(True, effort.ef, effort.gamma, effort.far, checks.check_ef(None, k))
                deleted = 1 - unit.live_count / max(1, unit.count)
                widened = (1 - effort.lower) * (1 + _DELETED_WIDENING * deleted)
                recalls = (effort.expected, 1 - widened)
                queries = min(queries or curve.queries, curve.queries)
                oldest = min(oldest or curve.measured_at, curve.measured_at)
        ways.append(way)
        expected += unit.live_count * recalls[0]
        lower += unit.live_count * recalls[1]
        live += unit.live_count
    if not known:
        return SearchPlan(tuple(ways), None, curves)
    rows = max(1, live)
    if live == 0:
        expected = lower = 1.0
    recall = RecallInfo(expected / rows, lower / rows, wish.target, live, queries, oldest)
    return SearchPlan(tuple(ways), recall, curves)


def plan_filtered(units: Sequence[Selected], k: int, wish: Wish) -> SearchPlan:
    """Return the plan of a search with a filter."""
    is_exact = wish.exact or wish.target >= 1
    ways = [
        _SCAN
        if is_exact or not one.unit.parts.has(GRAPH)
        else UnitPlan(True, checks.check_ef(wish.ef, k))
        for one in units
    ]
    recall = None
    if not any(way.walks for way in ways):
        rows = sum(one.unit.live_count for one in units)
        recall = RecallInfo(1.0, 1.0, wish.target, rows, 0, None)
    return SearchPlan(tuple(ways), recall, 0)


def _curve_of(
    unit: SearchUnit, k: int, wish: Wish, real_curves: RealCurves | None, *, codes: bool
) -> RecallCurve | None:
    """Return the curve to use for a graph."""
    stored = unit.parts.get(RECALL)
    if stored is not None and stored.sketched and not (codes and unit.parts.has(SKETCH)):
        return None  # Without the sketches, at the same effort, recall may be lower.
    if stored is None or real_curves is None:
        return stored
    return real_curves.for_target(unit.number, k, wish.target) or stored
