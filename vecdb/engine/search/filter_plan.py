"""The cheapest way to search one unit with a filter, from numbers of rows alone.

How many rows match is known before the search. There are four ways:

    walk      the graph is walked through nodes that do not match (``best_first``)
    sketches  the matching rows are ordered by their sketches, the best scored again in float32
    matches   the matching rows are scored in float32
    rows      all rows are compared by their 8-bit codes, or in float32; blocks without a match are
              left out

The last two are exact, and so is a search that asks for an exact answer. The others cost less and
lose next to nothing. Each is estimated in nanoseconds, and the cheapest is taken.

**The effort of a walk.** If a share p of the rows matches, whatever the vectors are, the k nearest
that match are a sample of the k / p nearest of all. So the gamma with which a walk finds those
k / p with the recall asked for finds the k, too: beyond gamma times the distance of the k-th
*match* there is little left to find. Where ef ends walks, p times as many candidates stand for as
many of all.

**Giving up.** If the rows around a query match less often than elsewhere, a walk would have to
visit many. It gives up when it has met much fewer matches than it should have, after a part of what
a scan costs; and in any case somewhat beyond the cost of a scan: of the walks that have got as far
and have met their matches, most are nearly done. Then the unit is scanned for that query.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

__all__ = [
    "Costs",
    "FilteredWay",
    "UnitShape",
    "WalkShape",
    "cheapest",
    "expected_blocks",
    "limits_of",
    "rounded_down",
]

Scan = Literal["sketches", "matches", "rows"]

_NEVER: Final = math.inf

_PROBE_PART: Final = 0.2
"""Part of the cost of a scan after which a walk must have met matches."""

_SHARE_MIN: Final = 0.5
"""Part of the matches to be expected among the candidates that it must have met."""

_SURE_OF_WALK: Final = 0.9
"""A walk is taken if it costs less than this part of a scan: it may have to give up."""

_BEYOND_SCAN: Final = 1.5
"""Cost of a scan, or of the walk as estimated, times this: where a walk gives up in any case."""

_BLOCK_ROWS: Final = 16
_PLANNED_BITS: Final = 5

_MEASURED_TO: Final = 10.0
_BEYOND: Final = 0.85
"""Visited nodes grow at least with this power of 1 / p beyond what was measured, since there gamma
does not fall further."""


class UnitShape(NamedTuple):
    """What the costs of scans depend on.

    Attributes:
        rows: nodes, deleted ones included.
        matching: live nodes that match.
        blocks: blocks of 16 rows with a match.
        width: floats of a row.
        lines: cache lines of a sketch, 0 without sketches.
        coded: whether there are 8-bit codes.
    """

    rows: int
    matching: int
    blocks: int
    width: int
    lines: int
    coded: bool


class WalkShape(NamedTuple):
    """Nodes that walks visit.

    Attributes:
        visited: by a search without filter.
        visited_tenth: by one for ten times as many rows, as if one in ten matched.
    """

    visited: float
    visited_tenth: float

    def at(self, share: float) -> float:
        """Return how many nodes a walk visits if this share of the rows matches."""
        inverse = 1 / max(share, 1e-9)
        power = max(0.0, math.log10(max(self.visited_tenth, 1) / max(self.visited, 1)))
        if inverse <= _MEASURED_TO:
            return self.visited * math.pow(inverse, power)
        return self.visited_tenth * math.pow(inverse / _MEASURED_TO, max(power, _BEYOND))


class Costs(NamedTuple):
    """Estimated costs of the ways in nanoseconds; infinite for those that are not possible."""

    walk: float
    sketches: float
    matches: float
    rows: float

    @property
    def scan(self) -> float:
        """Return the cost of the cheapest scan."""
        return min(self.sketches, self.matches, self.rows)

    def in_microseconds(self) -> dict[str, float]:
        """Return the costs of those that are possible, by name."""
        named = zip(("graph", "sketches", "matches", "rows"), self, strict=True)
        return {name: cost / 1000 for name, cost in named if cost < _NEVER}


class FilteredWay(NamedTuple):
    """The way that is taken: ``then`` is the scan for queries whose walk gives up."""

    way: Literal["walk"] | Scan
    then: Scan
    costs: Costs


def cheapest(shape: UnitShape, walk: WalkShape | None, *, sketched: bool) -> FilteredWay:
    """Return the way with the least cost.

    Args:
        walk: None if the graph can't be walked, or there is none.
        sketched: whether a scan may go by sketches.
    """
    share = shape.matching / max(1, shape.rows)
    costs = Costs(
        _NEVER if walk is None else walk.at(share) * visit_ns(shape),
        _NEVER if not (sketched and shape.lines) else shape.matching * (6 + 4 * shape.lines),
        shape.matching * _row_ns(shape),
        _all_rows_ns(shape),
    )
    scans: dict[Scan, float] = {
        "sketches": costs.sketches, "matches": costs.matches, "rows": costs.rows
    }  # fmt: skip
    then = min(scans, key=lambda way: scans[way])
    if costs.walk < _SURE_OF_WALK * costs.scan:
        return FilteredWay("walk", then, costs)
    return FilteredWay(then, then, costs)


def limits_of(shape: UnitShape, costs: Costs) -> tuple[int, float, int]:
    """Return when a walk gives up: probe, share and end_max of ``walk_graph``."""
    share = _SHARE_MIN * shape.matching / max(1, shape.rows)
    most = costs.scan / visit_ns(shape)
    most_visited = max(most, costs.walk / visit_ns(shape))
    return int(_PROBE_PART * most), share / (1 - share), int(_BEYOND_SCAN * most_visited)


def expected_blocks(rows: int, matching: int) -> int:
    """Return how many blocks of 16 rows have a match if so many match, whatever their place."""
    share = min(1.0, matching / max(1, rows))
    return math.ceil(rows / _BLOCK_ROWS * (1 - (1 - share) ** _BLOCK_ROWS))


def rounded_down(matching: int) -> int:
    """Return a number of matches at most a sixteenth less, so that few have to be planned."""
    step = max(0, matching.bit_length() - _PLANNED_BITS)
    return matching >> step << step


def visit_ns(shape: UnitShape) -> float:
    """Return the cost of a node that a walk visits."""
    if shape.lines:
        return 24 + 8 * shape.lines
    return 40 + 0.25 * shape.width


def _row_ns(shape: UnitShape) -> float:
    """Return the cost of a row somewhere in memory; more of those that no cache holds."""
    far = 1 if shape.matching * shape.width * 4 > 8 * 2**20 else 0
    return (10 + 0.22 * shape.width) * (1 + far)


def _all_rows_ns(shape: UnitShape) -> float:
    """Return the cost of comparing all rows of blocks with a match, one after the other."""
    if not shape.coded:
        return shape.rows * (2 + 0.11 * shape.width)
    return shape.rows * 0.1 + shape.blocks * (16 + 0.6 * shape.width)
