"""Arguments and options that several commands share, and the headings of the commands in --help."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Final

import typer
from typer.core import TyperGroup

from vecdb.errors import InvalidArgumentError

__all__ = [
    "COLLECTIONS",
    "FILES",
    "MAINTENANCE",
    "ROWS",
    "SERVING",
    "TRYING",
    "BadRows",
    "Data",
    "FilterText",
    "IndexField",
    "Json",
    "Name",
    "NewData",
    "NewEfConstruction",
    "NewM",
    "NewTargetRecall",
    "NoIndexFields",
    "OrderedByHeading",
    "Url",
    "index_fields_of",
]

SERVING: Final = "Serving"
COLLECTIONS: Final = "Collections"
ROWS: Final = "Rows"
FILES: Final = "Import and export"
MAINTENANCE: Final = "Maintenance"
TRYING: Final = "Trying and measuring"

_HEADINGS: Final = (SERVING, COLLECTIONS, ROWS, FILES, MAINTENANCE, TRYING)


class BadRows(str, enum.Enum):
    """How a load treats a row that can't be stored."""

    REFUSE = "refuse"
    SKIP = "skip"


class OrderedByHeading(TyperGroup):
    """Lists commands in --help in the order of the headings, whichever module adds them first."""

    def list_commands(self, ctx: object) -> list[str]:
        """Return the names of all commands."""
        headings = {
            name: _HEADINGS.index(getattr(command, "rich_help_panel", ""))
            for name, command in self.commands.items()
        }
        return sorted(headings, key=headings.__getitem__)


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
NewM = Annotated[
    int | None,
    typer.Option("--M", help="Links per graph node of a new collection (default 16)."),
]
NewEfConstruction = Annotated[
    int | None,
    typer.Option("--ef-construction", help="Candidates while a node is linked (default 128)."),
]
NewTargetRecall = Annotated[
    float | None,
    typer.Option("--target-recall", help="Recall of searches that ask for none (default 0.95)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
IndexField = Annotated[
    list[str] | None,
    typer.Option(help="A field of the metadata to index; repeat it. Default: all."),
]
NoIndexFields = Annotated[
    bool, typer.Option("--no-index-fields", help="Index no field of the metadata.")
]
FilterText = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="JSON",
        help='Only rows that match, as in \'{"year": {"$gte": 2020}}\'; docs/filters.md.',
    ),
]


def index_fields_of(fields: list[str] | None, none: bool) -> list[str] | None:
    """Return what ``--index-field`` and ``--no-index-fields`` say; None for neither."""
    if fields and none:
        raise InvalidArgumentError("give --index-field or --no-index-fields, not both")
    return [] if none else fields or None
