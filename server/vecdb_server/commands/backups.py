"""``vecdb backup`` and ``vecdb restore``: what was put where, for people or as JSON."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.text import Text

from vecdb.types import BackupReport
from vecdb_server.commands.answers import bytes_text, print_json

__all__ = ["print_report"]


def print_report(console: Console, what: str, report: BackupReport, *, as_json: bool) -> None:
    """Facts, a line each, or one JSON document. what: the folder that was made is one."""
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    for name, value in (
        (what, report.path),
        ("collections", f"{report.collections:,}"),
        ("rows", f"{report.rows:,}"),
        ("size", bytes_text(report.bytes)),
        ("took", f"{report.elapsed_s:.1f} s, all on disk and read back"),
    ):
        # No table, which would break a long path.
        console.print(Text(f"{name:<12} {value}"), soft_wrap=True)
