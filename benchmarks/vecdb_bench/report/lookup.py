"""Questions to results that page and table share: which lines, which titles, speed at a recall."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from vecdb_bench.targets.registry import TARGETS

__all__ = ["Lines", "at_recall", "number_of", "of", "title_of"]

Lines = list[dict[str, Any]]


def of(lines: Lines, status: str = "measured", **wanted: Any) -> Lines:
    """Lines whose members, or members of their points, are as wanted."""
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
    """A target's name for people."""
    return TARGETS[target].title if target in TARGETS else target


def number_of(target: str) -> int:
    """A number that gives a target the same look in all plots."""
    names = list(TARGETS)
    return names.index(target) if target in TARGETS else len(names)


def at_recall(
    lines: Iterable[dict[str, Any]], wanted: float, k: int = 10, of_rounds: str = "median"
) -> float | None:
    """Queries a second at a recall, between the two measured efforts around it.

    The logarithm of the speed is interpolated over recall. None if no effort came so far; the speed
    of the least effort if all of them did.

    Args:
        of_rounds: "median", or "min" or "max" of the rounds at each effort.
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
