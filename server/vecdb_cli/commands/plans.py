"""How a search went through the segments, as a table for ``vecdb search --explain``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from vecdb.types import SegmentPlan

__all__ = ["plans_table"]

_WAYS = {
    "graph": "walk the graph",
    "sketches": "compare the sketches of the matching rows",
    "matches": "compare the matching rows",
    "rows": "compare all rows",
    "none": "nothing matches",
}


def plans_table(plans: Sequence[SegmentPlan]) -> Table:
    """Return a row for each segment, with the costs of the ways that it could have been searched.

    The cost of the way that was taken comes first.
    """
    table = Table("segment", "way", box=None, pad_edge=False)
    for heading in ("rows", "matches"):
        table.add_column(heading, justify="right")
    table.add_column("estimated cost of a query", overflow="fold")
    for plan in plans:
        taken = [(plan.way, cost) for way, cost in plan.costs_us.items() if way == plan.way]
        others = sorted((cost, way) for way, cost in plan.costs_us.items() if way != plan.way)
        costs = [*taken, *((way, cost) for cost, way in others)]
        table.add_row(
            "in none" if plan.segment is None else str(plan.segment),
            _WAYS.get(plan.way, plan.way),
            f"{plan.rows:,}",
            f"{plan.matches:,}",
            ", ".join(f"{way} {_microseconds(cost)}" for way, cost in costs),
        )
    return table


def _microseconds(cost: float) -> str:
    return f"{cost:,.0f} µs" if cost >= 10 else f"{cost:.1f} µs"
