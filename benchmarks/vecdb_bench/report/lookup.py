"""Queries on results, shared by page and table: select lines, name targets, speed at a recall."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from vecdb_bench.targets.registry import TARGETS

__all__ = ["Lines", "at_recall", "number_of", "of", "title_of"]

Lines = list[dict[str, Any]]


def of(lines: Lines, status: str = "measured", **wanted: Any) -> Lines:
    """Return lines with this status whose members, or those of their points, equal ``wanted``."""
    return [
        line
        for line in lines
        if line["status"] == status
        and all(
            line.get(name, line["point"].get(name, _NOTHING)) == value
            for name, value in wanted.items()
        )
    ]


_NOTHING = object()


def title_of(target: str) -> str:
    """Return a target's display name."""
    return TARGETS[target].title if target in TARGETS else target


def number_of(target: str) -> int:
    """Return the number of a target, which determines its colour and marker in all plots."""
    names = list(TARGETS)
    return names.index(target) if target in TARGETS else len(names)


def at_recall(
    lines: Iterable[dict[str, Any]], wanted: float, k: int = 10, of_rounds: str = "median"
) -> float | None:
    """Return the queries per second at a recall, interpolated between the two nearest efforts.

    The logarithm of the speed is interpolated linearly over recall. Returns None if no effort
    reaches the recall, and the greatest measured speed if all efforts reach it.

    Args:
        lines: measured points of one target's sweep.
        wanted: the recall, 0 to 1.
        of_rounds: "median", "min" or "max" of the rounds at each effort.
    """
    points = sorted(
        (line["figures"][f"recall_{k}"], line["figures"]["queries_per_s"][of_rounds])
        for line in lines
        if f"recall_{k}" in line["figures"]
    )
    reached = [speed for recall, speed in points if recall >= wanted]
    if not reached:
        return None
    below = [point for point in points if point[0] < wanted]
    if not below:
        return float(max(reached))
    low = below[-1]
    high = next(point for point in points if point[0] >= wanted)
    share = (wanted - low[0]) / (high[0] - low[0])
    return float(math.exp((1 - share) * math.log(low[1]) + share * math.log(high[1])))
