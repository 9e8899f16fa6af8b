"""Arguments and options that several commands share, and the headings of the commands in --help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = [
    "COLLECTIONS",
    "FILES",
    "MAINTENANCE",
    "ROWS",
    "SERVING",
    "TRYING",
    "Data",
    "FilterText",
    "Json",
    "Name",
    "NewData",
    "Url",
]

SERVING: Final = "Serving"
COLLECTIONS: Final = "Collections"
ROWS: Final = "Rows"
FILES: Final = "Import and export"
MAINTENANCE: Final = "Maintenance"
TRYING: Final = "Trying and measuring"

Name = Annotated[str, typer.Argument(help="Name of the collection.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="HOST:PORT", help="Address of the server; default 127.0.0.1:7801."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="A folder, opened in this process without a server."
    ),
]
NewData = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="A folder instead of a server; created if it does not exist."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
FilterText = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="JSON",
        help='Only rows that match, as in \'{"year": {"$gte": 2020}}\'; docs/filters.md.',
    ),
]
