"""``vecdb count``, ``delete``, ``facet`` and ``fields``: rows by what their metadata say.

Each command imports what is heavy when it runs.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb_cli.commands.options import ROWS, Data, FilterText, Json, Name, Url

__all__ = ["app"]

app = typer.Typer()


@app.command(rich_help_panel=ROWS)
def count(
    collection: Name,
    url: Url = None,
    data: Data = None,
    filter: FilterText = None,
    as_json: Json = False,
) -> None:
    """Count the rows of a collection, or those that match a filter."""
    from vecdb_cli.commands.answers import print_json
    from vecdb_cli.commands.filters import read_filter
    from vecdb_cli.commands.target import open_target

    condition = read_filter(filter)
    with open_target(url, data) as target:
        found = target.collection(collection).count(condition)
    if as_json:
        print_json({"collection": collection, "count": found})
    else:
        typer.echo(f"{found:,}")


@app.command(rich_help_panel=ROWS)
def delete(
    collection: Name,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids, instead of a filter.")] = None,
    url: Url = None,
    data: Data = None,
    filter: FilterText = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="With a filter: delete at most so many rows.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many rows would be deleted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete rows by id, or all that match a filter, as one batch."""
    from vecdb_cli.commands.answers import counted, print_json
    from vecdb_cli.commands.filters import read_filter
    from vecdb_cli.commands.target import open_target

    condition = read_filter(filter)
    if (condition is None) == (not ids):
        raise InvalidArgumentError("give either ids or --filter", Reason.BAD_TARGET)
    with open_target(url, data) as target:
        receipt = target.collection(collection).delete(
            ids or None, filter=condition, limit=limit, dry_run=dry_run
        )
    if as_json:
        print_json({"collection": collection, "count": receipt.count, "seq": receipt.seq})
    elif dry_run:
        typer.echo(f"{counted(receipt.count, 'row')} would be deleted")
    else:
        typer.echo(f"{counted(receipt.count, 'row')} deleted, seq {receipt.seq}")


@app.command(rich_help_panel=ROWS)
def facet(
    collection: Name,
    field: Annotated[str, typer.Argument(help="A field of the metadata, such as author.name.")],
    url: Url = None,
    data: Data = None,
    filter: FilterText = None,
    limit: Annotated[int, typer.Option("--limit", help="Most values to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the values of a field, and how many rows have each."""
    from rich.table import Table
    from rich.text import Text

    from vecdb_cli.commands.answers import counted, print_json
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.filters import read_filter
    from vecdb_cli.commands.target import open_target

    condition = read_filter(filter)
    with open_target(url, data) as target:
        found = target.collection(collection).facet(field, condition, limit=limit)
    if as_json:
        values = [each._asdict() for each in found.values]
        print_json({"collection": collection, "field": field, **found._asdict(), "values": values})
        return
    table = Table("value", box=None, pad_edge=False)
    table.add_column("rows", justify="right")
    for value, rows in found.values:
        table.add_row(Text(json.dumps(value, ensure_ascii=False)), f"{rows:,}")
    output().print(table)
    typer.echo(f"{counted(found.distinct, 'value')} in {counted(found.rows, 'row')}")


@app.command(rich_help_panel=ROWS)
def fields(collection: Name, url: Url = None, data: Data = None, as_json: Json = False) -> None:
    """Show which fields the metadata of a collection have, and of which types."""
    from rich.table import Table
    from rich.text import Text

    from vecdb_cli.commands.answers import print_json
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target:
        found = target.collection(collection).fields()
    if as_json:
        print_json({"collection": collection, "fields": [each._asdict() for each in found]})
        return
    table = Table("field", box=None, pad_edge=False)
    table.add_column("rows", justify="right")
    table.add_column("different values", justify="right")
    table.add_column("types")
    for each in found:
        types = ", ".join(f"{name} {number:,}" for name, number in each.types.items())
        distinct = "many" if each.distinct is None else f"{each.distinct:,}"
        table.add_row(Text(each.name), f"{each.rows:,}", distinct, types)
    output().print(table)
