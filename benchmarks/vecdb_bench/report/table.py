"""The Markdown tables of docs/benchmarks.md: all targets at recall@10 of 0.95 and 0.99, and their
searches with a filter.

``write_tables`` inserts them between the lines of a file that mark their places, so that no figure
is copied by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vecdb.errors import FailedPreconditionError
from vecdb_bench.report import filtered
from vecdb_bench.report.lookup import Lines, at_recall, of, title_of
from vecdb_bench.targets.registry import BASELINES, TARGETS

__all__ = ["BEGIN", "END", "FILTERED", "markdown", "replace_between_markers", "write_tables"]

BEGIN = "<!-- vecdb bench: begin -->"
END = "<!-- vecdb bench: end -->"
FILTERED = "<!-- vecdb bench filtered: begin -->", "<!-- vecdb bench filtered: end -->"
"""The markers of the tables of searches with a filter."""

_TABULATED = {"search", "latency", "ingest", "recovery"}
_MODE = "one query, one caller"
_HEAD = (
    "| target | queries/s at 0.95 | at 0.99 | p50 / p99 ms (recall) | rows/s acknowledged "
    "| indexed s | restart s | ready after kill -9, s | memory MB | disk MB |"
)
_RULE = "|---" * (_HEAD.count("|") - 1) + "|"


def markdown(lines: Lines) -> str:
    """Return one table per data set; "failed" marks failures, "–" what was not measured."""
    parts = []
    for dataset in dict.fromkeys(line["dataset"] for line in lines):
        here = [line for line in lines if line["dataset"] == dataset]
        targets = [name for name in TARGETS if any(line["target"] == name for line in here)]
        rows = [_row(here, name) for name in targets if name not in BASELINES]
        parts.append("\n".join([f"**{dataset}**", "", _HEAD, _RULE, *rows]))
    return "\n\n".join(parts) + "\n"


def _row(lines: Lines, target: str) -> str:
    mine = [line for line in lines if line["target"] == target]
    sweep = of(mine, scenario="search", mode=_MODE)
    latency = of(mine, scenario="latency", clients=1, loop="closed")
    written = max(
        of(mine, scenario="ingest", ids="integer"),
        key=lambda line: line["point"]["batch"],
        default=None,
    )
    killed = of(mine, scenario="recovery")
    load = of(mine, scenario="search", what="load")
    missing = {
        scenario: "failed" if of(mine, "failed", scenario=scenario) else "–"
        for scenario in ("search", "latency", "ingest", "recovery")
    }
    cells = [_speed(sweep, wanted) or missing["search"] for wanted in (0.95, 0.99)]
    cells.append(_latency(latency[0]["figures"]) if latency else missing["latency"])
    for what, form in (("rows_per_s", ",.0f"), ("indexed_s", ".1f")):
        cells.append(_median(written, what, form) or missing["ingest"])
    for what in ("restart_s", "ready_s"):
        cells.append(_median(killed[0] if killed else None, what, ".2f") or missing["recovery"])
    for what in ("private_bytes", "disk_bytes"):
        cells.append(f"{load[0]['figures'][what] / 1e6:,.0f}" if load else missing["search"])
    return "| " + " | ".join([title_of(target), *cells]) + " |"


def _speed(sweep: Lines, wanted: float) -> str:
    """Format the median, the minimum and the maximum of the rounds."""
    median, least, greatest = (
        at_recall(sweep, wanted, of_rounds=which) for which in ("median", "min", "max")
    )
    return "" if median is None else f"{median:,.0f} ({least:,.0f} to {greatest:,.0f})"


def _latency(figures: dict[str, Any]) -> str:
    recall = figures["recall_10"]
    return f"{figures['p50_ms']:.2f} / {figures['p99_ms']:.2f} ({recall:.3f})"


def _median(line: dict[str, Any] | None, what: str, form: str) -> str:
    # Results of earlier versions lack some figures.
    return format(line["figures"][what]["median"], form) if line and what in line["figures"] else ""


def write_tables(path: Path, lines: Lines) -> None:
    """Put each table that there are results for between its markers in a file. Those of searches
    with a filter are left out if the file does not have their markers.

    Raises:
        FailedPreconditionError: the file has no markers.
    """
    of_filters = filtered.markdown(lines)
    has_markers = FILTERED[0] in path.read_text(encoding="utf-8")
    if of_filters and has_markers:
        replace_between_markers(path, of_filters, *FILTERED)
    if any(line["scenario"] in _TABULATED for line in lines) or not (of_filters and has_markers):
        replace_between_markers(path, markdown(lines))


def replace_between_markers(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace the text between two markers of a file.

    Raises:
        FailedPreconditionError: the file does not have both markers, in this order.
    """
    content = path.read_text(encoding="utf-8")
    before, has_begin, rest = content.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise FailedPreconditionError(
            f"{path} has no lines {begin!r} and {end!r} in this order; add them where the table "
            "belongs",
            "NO_MARKERS",
        )
    path.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")
