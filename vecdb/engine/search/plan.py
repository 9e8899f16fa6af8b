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
from typing import Final, NamedTuple, Protocol

from vecdb import checks
from vecdb.engine.search.filter_plan import Costs, Scan, UnitShape, WalkShape, cheapest, limits_of
from vecdb.engine.search.filtered import Selected
from vecdb.engine.search.recall.real_curves import RealCurves
from vecdb.engine.search.snapshots.snapshot import SearchUnit, Snapshot
from vecdb.engine.segments.codecs.byte_codes import BYTE_CODES
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.recall_part import EF_CAP, RECALL, RecallCurve
from vecdb.engine.system.mapped_pages import read_at_random
from vecdb.types import RecallInfo

__all__ = [
    "CODED_ROWS_A_HIT",
    "HEAP_FLOATS",
    "Planner",
    "Scan",
    "SearchPlan",
    "UnitPlan",
    "Wish",
    "expect_pages",
    "plan_search",
]

CODED_ROWS_A_HIT: Final = 32
"""Rows for each of k hits from which 8-bit codes pay: of fewer, too many have to be scored to find
the first k."""

HEAP_FLOATS: Final = 8
"""Cost of one heap level, in floats compared: a row may sift through all levels of the heap."""

_SKETCHED_TARGET_MAX: Final = 0.99
"""Greatest target of recall for which rows that match are compared by their sketches."""

_FILTERED_MARGIN: Final = 0.25
"""Part of the misses by which walks beside rows that do not match aim higher: no recall meter
corrects them."""

_EFFORTS_MAX: Final = 1_000
"""Efforts of walks that are kept."""

_PLANS_MAX: Final = 64
"""Plans that are kept for the latest snapshot."""

_DELETED_WIDENING: Final = 0.5
"""Part of the misses by which deleted rows lower the bound: half as many more misses if all rows
were deleted. A walk aims as much higher, so that the bound keeps the target."""


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
        scan: how it is scanned, if it is not walked or the walk gives up (``filter_plan``).
        limits: when a walk beside rows that do not match gives up; see ``walk_graph``.
        costs: of all ways, with a filter.
    """

    walks: bool
    ef: int = 0
    gamma: float | None = None
    far: float = math.inf
    ef_far: int = 0
    scan: Scan = "rows"
    limits: tuple[int, float, int] = (-1, 0.0, -1)
    costs: Costs | None = None


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


class Shapes(Protocol):
    """Tells how many nodes walks visit; implemented by ``WalkShapes``."""

    def of(self, unit: SearchUnit, k: int, way: UnitPlan, more: UnitPlan) -> WalkShape:
        """Return the visited nodes of a graph.

        way, more: how k rows, and ten times as many, are searched for; if both are the same but
            for k, as many candidates are kept for each of them.
        """


class Planner:
    """Makes the plan of a search, once for equal wishes on one snapshot. Thread-safe.

    Args:
        real_curves, codes: as for ``plan_search``.
    """

    def __init__(self, real_curves: RealCurves, *, codes: bool) -> None:
        self._real_curves, self._codes = real_curves, codes
        self._efforts: dict[tuple[int | None, int, Wish, int], UnitPlan | None] = {}
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
            expect_pages(units, plan.units)
            if len(plans) < _PLANS_MAX:
                plans[k, wish] = plan
        return plan

    def plan_filtered(
        self, units: Sequence[Selected], k: int, wish: Wish, shapes: Shapes
    ) -> SearchPlan:
        """Return the plan of a search with a filter, for units of which some rows match."""
        ways = [self._filtered_way(one, k, wish, shapes) for one in units]
        recall = None
        if all(not way.walks and way.scan != "sketches" for way in ways):
            rows = sum(one.selection.count for one in units)
            recall = RecallInfo(1.0, 1.0, wish.target, rows, 0, None)
        return SearchPlan(tuple(ways), recall, 0)

    def _filtered_way(self, one: Selected, k: int, wish: Wish, shapes: Shapes) -> UnitPlan:
        ways, key = one.selection.ways, (k, wish, self._real_curves.edition)
        way = ways.get(key)
        if way is None:
            way = ways[key] = self._new_filtered_way(one, k, wish, shapes)
        return way

    def _new_filtered_way(self, one: Selected, k: int, wish: Wish, shapes: Shapes) -> UnitPlan:
        unit, selection = one
        return self.filtered_way(unit, selection.count, selection.blocks, k, wish, shapes)

    def filtered_way(
        self, unit: SearchUnit, matching: int, blocks: int, k: int, wish: Wish, shapes: Shapes
    ) -> UnitPlan:
        """Return the way through a unit of which so many live rows match, in so many blocks of
        16."""
        sketch = unit.parts.get(SKETCH) if self._codes else None
        shape = UnitShape(
            unit.count,
            matching,
            blocks,
            unit.vectors.shape[1],
            0 if sketch is None else sketch.lines,
            self._codes and unit.parts.has(BYTE_CODES) and k * CODED_ROWS_A_HIT <= unit.count,
        )
        walk = walked = None
        if unit.parts.has(GRAPH) and not (wish.exact or wish.target >= 1):
            walk = self._effort(unit, k, wish, matching / unit.count)
            full, more = self._effort(unit, k, wish, 1.0), self._effort(unit, 10 * k, wish, 1.0)
            if walk is not None and full is not None and more is not None:
                walked = shapes.of(unit, k, full, more)
        sketched = not (wish.exact or wish.target > _SKETCHED_TARGET_MAX)
        way = cheapest(shape, walked, sketched=sketched)
        if way.way != "walk" or walk is None:
            return UnitPlan(False, scan=way.then, costs=way.costs)
        return walk._replace(scan=way.then, limits=limits_of(shape, way.costs), costs=way.costs)

    def _effort(self, unit: SearchUnit, k: int, wish: Wish, share: float) -> UnitPlan | None:
        """Return ``effort_of``, for at most a fifth more rows than necessary, and keep it."""
        step = math.ceil(-4 * math.log2(share) - 1e-9)
        key = unit.number, k, wish, step
        efforts = self._efforts  # Another thread may replace them.
        if key not in efforts:
            if len(efforts) >= _EFFORTS_MAX:
                self._efforts = efforts = {}
            efforts[key] = effort_of(
                unit, k, wish, 2 ** (-step / 4), self._real_curves, codes=self._codes
            )
        return efforts[key]

    def forget(self) -> None:
        """Forget the plans, when curves were published."""
        self._made, self._efforts = (None, {}), {}


def expect_pages(units: Sequence[SearchUnit], ways: Sequence[UnitPlan]) -> None:
    """Let the rows of graphs that are walked be read from the disk without those around them."""
    for unit, way in zip(units, ways, strict=True):
        if way.walks:
            read_at_random(unit.vectors)


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
        widened = 1 + _DELETED_WIDENING * (1 - unit.live_count / max(1, unit.count))
        if unit.parts.has(GRAPH) and not (wish.exact or wish.target >= 1):
            aim = wish._replace(target=1 - (1 - wish.target) / widened)
            curve = _curve_of(unit, k, aim, real_curves, codes=codes)
            curves += wish.ef is None and curve is not None
            if wish.ef is not None or curve is None:
                way = UnitPlan(True, checks.check_ef(wish.ef, k))
                known = False
            elif (effort := curve.effort_for(k, aim.target)) is not None:
                way = UnitPlan(True, effort.ef, effort.gamma, effort.far, checks.check_ef(None, k))
                recalls = (effort.expected, 1 - (1 - effort.lower) * widened)
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


def effort_of(
    unit: SearchUnit, k: int, wish: Wish, share: float, real_curves: RealCurves, *, codes: bool
) -> UnitPlan | None:
    """Return how a graph is walked for the k nearest of a share of its rows; None if no effort is
    enough. ``filter_plan`` says why."""
    more = math.ceil(k / share)
    curve = None if wish.ef is not None else _curve_of(unit, more, wish, real_curves, codes=codes)
    if curve is None:
        return UnitPlan(True, checks.check_ef(wish.ef, k))
    effort = curve.effort_for(more, wish.target + _FILTERED_MARGIN * (1 - wish.target))
    if effort is None:
        return None
    far = max(k, math.ceil(share * checks.check_ef(None, more)))
    if effort.gamma is None:
        return UnitPlan(True, max(far, math.ceil(share * effort.ef)))
    return UnitPlan(True, max(EF_CAP, 4 * k), effort.gamma, effort.far, far)


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
