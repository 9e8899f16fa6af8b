"""Tables of the scenario ``filtered``: speed by the share of rows that pass, beside the others.

A speed counts if its recall reached ``RECALL``; otherwise the cell has a dash and the recall.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vecdb_bench.report.lookup import Lines, of, title_of
from vecdb_bench.scenarios.filtered import NONE, PASSING, RECALL
from vecdb_bench.targets.registry import TARGETS

__all__ = ["Table", "markdown", "tables"]

_OURS = ("vecdb", "vecdb-served")
_WAYS = {
    ("independent", "cold"): "a condition independent of the vectors, new in each query",
    ("independent", "warm"): "a condition independent of the vectors, repeated",
    ("correlated", "cold"): "a region of the space far from the query, new in each query",
    ("correlated", "warm"): "a region of the space far from the query, repeated",
}


class Table(NamedTuple):
    """A table as text: its title, the names of its columns, and its rows."""

    title: str
    head: list[str]
    rows: list[list[str]]


def tables(lines: Lines) -> list[Table]:
    """Return the tables of one data set; none if it has no such results."""
    found = [line for line in of(lines, scenario="filtered") if "way" in line["point"]]
    made = []
    for (condition, way), title in _WAYS.items():
        here = of(found, condition=condition, way=way)
        if here:
            head = ["queries/s at recall 0.95, k 10", "no filter"]
            head += [f"{share:g} % pass" for share in PASSING]
            rows = _speeds(found, here) + _ratios(found, here, condition)
            made.append(Table(title, head, rows))
    return made


def markdown(lines: Lines) -> str:
    """Return the tables of all data sets as Markdown."""
    parts = []
    for dataset in dict.fromkeys(line["dataset"] for line in lines):
        for table in tables([line for line in lines if line["dataset"] == dataset]):
            rows = [table.head, ["---"] * len(table.head), *table.rows]
            parts.append(f"**{dataset}: {table.title}**\n")
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
    return "\n".join(parts)


def _targets(lines: Lines) -> list[str]:
    return [name for name in TARGETS if any(line["target"] == name for line in lines)]


def _speeds(found: Lines, here: Lines) -> list[list[str]]:
    rows = []
    for target in _targets(here):
        cells = [_cell(_one(found, target, NONE, 100.0, "warm"))]
        mine = of(here, target=target)
        cells += [_cell(next(iter(of(mine, passing_percent=share)), None)) for share in PASSING]
        rows.append([title_of(target), *cells])
    return rows


def _ratios(found: Lines, here: Lines, condition: str) -> list[list[str]]:
    """Return the rows that compare vecdb with the best of the others, and with itself."""
    ours = _speed(_one(found, _OURS[0], NONE, 100.0, "warm"))
    rows: dict[str, list[str]] = {
        "vecdb, times the fastest other": [],
        "vecdb, times its speed without a filter": [],
        "vecdb, times its scan of the matches": [],
    }
    beside, plain, scan = rows.values()
    for share in PASSING:
        some = of(here, passing_percent=share)
        mine = _speed(next(iter(of(some, target=_OURS[0])), None))
        others = [_speed(line) for line in some if line["target"] not in _OURS]
        best = max((each for each in others if each is not None), default=None)
        beside.append(_ratio(mine, best))
        plain.append(_ratio(mine, ours))
        scan.append(_ratio(mine, _speed(_one(found, _OURS[0], condition, share, "scan"))))
    return [[name, "", *cells] for name, cells in rows.items() if any(x != "–" for x in cells)]


def _one(lines: Lines, target: str, condition: str, share: float, way: str) -> Any:
    found = of(lines, target=target, condition=condition, passing_percent=share, way=way)
    return found[0] if found else None


def _speed(line: dict[str, Any] | None) -> float | None:
    """Return the median of the rounds, or None if the recall was not reached."""
    if line is None or line["figures"]["recall_10"] < RECALL:
        return None
    return float(line["figures"]["queries_per_s"]["median"])


def _cell(line: dict[str, Any] | None) -> str:
    if line is None:
        return "–"
    speed = _speed(line)
    return f"– ({line['figures']['recall_10']:.2f})" if speed is None else f"{speed:,.0f}"


def _ratio(one: float | None, other: float | None) -> str:
    return "–" if one is None or other is None else f"{one / other:.2f}"
