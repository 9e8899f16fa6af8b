"""``vecdb backup``, ``restore`` and ``compact``: their reports, as text or as JSON."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.text import Text

from vecdb.types import BackupReport, CompactionReport
from vecdb_cli.commands.answers import bytes_text, print_json

__all__ = ["print_compaction", "print_report"]


def print_report(console: Console, what: str, report: BackupReport, *, as_json: bool) -> None:
    """Print a report as lines or as one JSON document. what: names the folder that was written."""
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    _print_facts(
        console,
        (what, report.path),
        ("collections", f"{report.collections:,}"),
        ("rows", f"{report.rows:,}"),
        ("size", bytes_text(report.bytes)),
        ("took", f"{report.elapsed_s:.1f} s, all on disk and read back"),
    )


def print_compaction(console: Console, report: CompactionReport, *, as_json: bool) -> None:
    """Print the report of ``vecdb compact``."""
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    _print_facts(
        console,
        ("data folder", report.path),
        ("collections", f"{report.collections:,}"),
        ("before", bytes_text(report.bytes_before)),
        ("after", bytes_text(report.bytes_after)),
        ("took", f"{report.elapsed_s:.1f} s"),
    )


def _print_facts(console: Console, *facts: tuple[str, str]) -> None:
    for name, value in facts:
        # Not a table: that would wrap a long path.
        console.print(Text(f"{name:<12} {value}"), soft_wrap=True)
