"""``vecdb list``, ``set`` and ``metadata``: ids, and changes of metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vecdb import json_objects
from vecdb.errors import InvalidArgumentError
from vecdb.json_objects import NotJsonError
from vecdb.reasons import Reason
from vecdb_cli.commands.options import COLLECTIONS, ROWS, Data, FilterText, Json, Name, Url

if TYPE_CHECKING:
    from vecdb.types import Receipt

__all__ = ["app"]

app = typer.Typer()

Ids = Annotated[list[str] | None, typer.Argument(help="Ids; or none, with --filter.")]
Limit = Annotated[
    int | None, typer.Option("--limit", help="With --filter: change at most so many rows.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; say how many rows would change.")
]


@app.command("list", rich_help_panel=ROWS)
def list_ids(
    collection: Name,
    prefix: Annotated[str, typer.Option("--prefix", help="Only ids that begin with it.")] = "",
    filter: FilterText = None,
    limit: Annotated[int, typer.Option("--limit", help="Most ids, 1 to 10,000.")] = 1000,
    after: Annotated[
        str | None, typer.Option("--after", help="Only ids after this one, in order.")
    ] = None,
    url: Url = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Print ids in order, one a line."""
    from vecdb_cli.commands.answers import print_json
    from vecdb_cli.commands.filters import read_filter
    from vecdb_cli.commands.target import open_target

    wanted = read_filter(filter)
    with open_target(url, data) as target:
        ids = target.collection(collection).list_ids(
            prefix, filter=wanted, limit=limit, after=after
        )
    if as_json:
        print_json({"collection": collection, "ids": ids})
    else:
        for each in ids:
            typer.echo(each)


@app.command("set", rich_help_panel=ROWS)
def set_metadata(
    collection: Name,
    ids: Ids = None,
    patch: Annotated[
        str, typer.Option("--patch", metavar="JSON", help="What changes, as --mode says.")
    ] = "",
    mode: Annotated[
        str, typer.Option("--mode", help="merge, replace, or delete_keys (a list of fields).")
    ] = "merge",
    filter: FilterText = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    url: Url = None,
    data: Data = None,
) -> None:
    """Change the metadata of rows by id, or of those that match a filter."""
    from vecdb_cli.commands.filters import read_filter
    from vecdb_cli.commands.target import open_target

    given, wanted = _read_json("--patch", patch), read_filter(filter)
    with open_target(url, data) as target:
        receipt = target.collection(collection).set_metadata(
            ids or None, given, mode, filter=wanted, limit=limit, dry_run=dry_run
        )
    _report(receipt, dry_run)


@app.command(rich_help_panel=COLLECTIONS)
def metadata(
    collection: Name,
    new: Annotated[
        str | None, typer.Option("--set", metavar="JSON", help="Replace it by this object.")
    ] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Print the metadata of a collection itself as JSON, or replace it."""
    from vecdb_cli.commands.target import open_target

    given: Any = None if new is None else _read_json("--set", new)
    with open_target(url, data) as target:
        found = target.collection(collection)
        if new is not None:
            found.set_collection_metadata(given)
        typer.echo(json.dumps(found.metadata, ensure_ascii=False))


def _read_json(option: str, text: str) -> Any:
    try:
        return json_objects.decode(text.encode("utf-8", "surrogateescape"))
    except (NotJsonError, RecursionError) as error:
        what = "nests too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgumentError(
            f"{option} is not JSON: {what}; write it in single quotes", Reason.BAD_PATCH
        ) from None


def _report(receipt: Receipt, dry_run: bool) -> None:
    from vecdb_cli.commands.answers import counted

    done = "would be changed" if dry_run else "changed"
    typer.echo(f"{counted(receipt.count, 'row')} {done}")
    for each in receipt.skipped:
        typer.echo(f"vecdb: there is no row {each!r}", err=True)
