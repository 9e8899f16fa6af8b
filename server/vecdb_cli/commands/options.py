"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Data", "Json", "Url"]

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="HOST:PORT", help="A server; default 127.0.0.1:7801."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="A folder, opened without a server."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of lines.")]
