"""Options that several commands have alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Data", "Json", "Url"]

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="HOST:PORT", help="A server; 127.0.0.1:7801 if not given."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="A folder, opened in this process, no server."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of lines.")]
