"""The table for the README: ours and each peer at recall@10 of 0.95 and 0.99, in Markdown.

``replace_between_markers`` puts it into a file between two lines, so that no figure is copied by
hand.
"""

from __future__ import annotations

from pathlib import Path

from vecdb.errors import FailedPreconditionError
from vecdb_bench.report.lookup import Lines, at_recall, of, title_of
from vecdb_bench.targets.registry import TARGETS

__all__ = ["BEGIN", "END", "markdown", "replace_between_markers"]

BEGIN = "<!-- vecdb bench: begin -->"
END = "<!-- vecdb bench: end -->"
_MODE = "one query, one caller"
_HEAD = (
    "| target | queries/s at 0.95 | at 0.99 | p50 / p99 ms | rows/s acknowledged | indexed s "
    "| restart s | ready after kill -9, s | memory MB | disk MB |"
)
_RULE = "|---" * (_HEAD.count("|") - 1) + "|"


def markdown(lines: Lines) -> str:
    """A table a data set; "failed" where a target failed, "–" where it has no such thing."""
    parts = []
    for dataset in dict.fromkeys(line["dataset"] for line in lines):
        here = [line for line in lines if line["dataset"] == dataset]
        targets = [name for name in TARGETS if any(line["target"] == name for line in here)]
        rows = [_row(here, name) for name in targets if name != "echo"]
        parts.append("\n".join([f"**{dataset}**", "", _HEAD, _RULE, *rows]))
    return "\n\n".join(parts) + "\n"


def _row(lines: Lines, target: str) -> str:
    mine = [line for line in lines if line["target"] == target]
    sweep = of(mine, scenario="search", mode=_MODE)
    speeds = [at_recall(sweep, wanted) for wanted in (0.95, 0.99)]
    latency = of(mine, scenario="latency", clients=1, loop="closed")
    ingest = max(
        of(mine, scenario="ingest", ids="integer"),
        key=lambda line: line["point"]["batch"],
        default=None,
    )
    killed = of(mine, scenario="recovery")
    load = of(mine, scenario="search", what="load")
    cells = [title_of(target), *(_cell(speed, ",.0f") for speed in speeds)]
    if latency:
        figures = latency[0]["figures"]
        cells.append(f"{figures['p50_ms']:.2f} / {figures['p99_ms']:.2f}")
    else:
        cells.append("–")
    cells.append(_cell(ingest["figures"]["rows_per_s"]["median"] if ingest else None, ",.0f"))
    cells.append(_cell(load[0]["figures"]["indexed_s"] if load else None, ".1f"))
    for what in ("restart_s", "ready_s"):
        measured = killed[0]["figures"].get(what) if killed else None
        cells.append(_cell(measured["median"] if measured else None, ".2f"))
    for what in ("private_bytes", "disk_bytes"):
        cells.append(_cell(load[0]["figures"][what] / 1e6 if load else None, ",.0f"))
    if not load and of(mine, "failed"):
        cells[1] = "failed"
    return "| " + " | ".join(cells) + " |"


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def replace_between_markers(path: Path, text: str) -> None:
    """Put the text between the two markers of a file.

    Raises:
        FailedPreconditionError: the file has not both of them, in this order.
    """
    content = path.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise FailedPreconditionError(
            f"{path} has no lines {BEGIN!r} and {END!r} to put the table between", "NO_MARKERS"
        )
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
