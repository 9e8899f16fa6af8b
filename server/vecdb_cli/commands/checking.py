"""``vecdb check``: the problems found, one per line or as one JSON document."""

from __future__ import annotations

import dataclasses
from typing import Final

from rich.console import Console
from rich.text import Text

from vecdb.checking import CheckReport, Problem
from vecdb_cli.commands.answers import counted, print_json

__all__ = ["NOT_CHECKED", "exit_status", "print_report"]

NOT_CHECKED: Final = 2
_STYLES: Final = {"error": "red", "warning": "yellow", "note": "dim"}


def exit_status(report: CheckReport) -> int:
    """Return 0 without problems, 1 if problems are left, 2 if the check is incomplete."""
    return NOT_CHECKED if not report.complete else int(not report.content)


def print_report(console: Console, report: CheckReport, *, as_json: bool) -> None:
    """Print collections, problems and the verdict; or one JSON document."""
    if as_json:
        verdict = {"content": report.content, "complete": report.complete}
        print_json({**dataclasses.asdict(report), **verdict})
        return
    for checked in report.collections:
        found = "" if checked.findable is None else f", self-recall {checked.findable:.2%}"
        _print(
            console,
            f"{checked.name:<12} {counted(checked.live_count, 'row')} at seq {checked.seq}, "
            f"{counted(checked.segments, 'segment')}{found}",
        )
    for problem in report.problems:
        _print(console, _line(problem), "green" if problem.repaired else _STYLES[problem.severity])
    _print(console, f"{_verdict(report)} ({report.elapsed_s:.1f} s)")


def _line(problem: Problem) -> str:
    what = "repaired" if problem.repaired else problem.severity
    where = f"{problem.collection}: " if problem.collection else ""
    return f"{what:<9} {problem.kind:<18} {where}{problem.detail}"


def _verdict(report: CheckReport) -> str:
    left = [p for p in report.problems if not p.repaired and p.severity != "note"]
    if not report.complete:
        return "not everything could be checked"
    if left:
        return counted(len(left), "problem")
    return "no problems" + (" left" if any(p.repaired for p in report.problems) else "")


def _print(console: Console, text: str, style: str = "") -> None:
    # Not a table: that would wrap a long path.
    console.print(Text(text, style=style), soft_wrap=True)
