"""``vecdb create``, ``drop``, ``get`` and ``optimize``: collections by name, rows by id."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vecdb.errors import AlreadyExistsError, InvalidArgumentError
from vecdb_cli.commands.options import (
    COLLECTIONS,
    ROWS,
    Data,
    IndexField,
    Json,
    Name,
    NewData,
    NoIndexFields,
    Url,
    index_fields_of,
)

if TYPE_CHECKING:
    from rich.table import Table

    from vecdb.types import Records

__all__ = ["INTERRUPTED", "app"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""

app = typer.Typer()


@app.command(rich_help_panel=COLLECTIONS)
def create(
    collection: Annotated[str, typer.Argument(help="An unused name.")],
    dim: Annotated[int, typer.Option("--dim", help="Components of each vector.")],
    url: Url = None,
    data: NewData = None,
    metric: Annotated[str, typer.Option(help="cosine, euclidean or dot.")] = "cosine",
    M: Annotated[int, typer.Option("--M", help="Links per graph node.")] = 16,
    ef_construction: Annotated[
        int, typer.Option("--ef-construction", help="Candidates while a node is linked.")
    ] = 128,
    index_field: IndexField = None,
    no_index_fields: NoIndexFields = False,
    target_recall: Annotated[
        float, typer.Option("--target-recall", help="Recall of searches that ask for none.")
    ] = 0.95,
) -> None:
    """Create an empty collection."""
    from vecdb_cli.commands.target import open_target

    fields = index_fields_of(index_field, no_index_fields)
    with open_target(url, data, create=True) as target:
        try:
            made = target.create_collection(
                *(collection, dim, metric),
                M=M,
                ef_construction=ef_construction,
                index_fields=fields,
                target_recall=target_recall,
            )
        except AlreadyExistsError as error:
            there = target.collection(collection).config
            raise AlreadyExistsError(
                f"collection {collection!r} already exists, with dim {there.dim}, {there.metric}, "
                f"M {there.M}, ef_construction {there.ef_construction}, target_recall "
                f"{there.target_recall:g}; asked for dim {dim}, {metric}, M {M}, "
                f"ef_construction {ef_construction}, target_recall {target_recall:g}",
                error.reason,
            ) from None
    typer.echo(f"created collection {collection}: dim {made.dim}, {made.metric}")


@app.command(rich_help_panel=COLLECTIONS)
def drop(
    collections: Annotated[list[str], typer.Argument(help="Collections to drop with all rows.")],
    url: Url = None,
    data: Data = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Drop collections with all rows, for all processes; there is no undo."""
    from vecdb_cli.commands.answers import counted
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target:
        # Look up all names first, so that a wrong one drops nothing.
        rows = {name: target.collection(name).count() for name in collections}
        if not yes:
            shown = ", ".join(f"{name} ({counted(count, 'row')})" for name, count in rows.items())
            if not sys.stdin.isatty():
                raise InvalidArgumentError(f"nothing was dropped; to drop {shown}, add --yes")
            typer.confirm(f"Drop {shown}?", abort=True, err=True)
        for name, count in rows.items():
            target.drop_collection(name)
            typer.echo(f"dropped collection {name} with {counted(count, 'row')}")


@app.command(rich_help_panel=ROWS)
def get(
    collection: Name,
    ids: Annotated[list[str], typer.Argument(help="One or more ids.")],
    url: Url = None,
    data: Data = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="Show the vectors, too.")] = False,
    as_json: Json = False,
) -> None:
    """Show rows by id; the exit status is 1 if an id does not exist."""
    from vecdb_cli.commands.answers import print_json
    from vecdb_cli.commands.console import output
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target:
        found = target.collection(collection).get(ids)
    if as_json:
        print_json(_document(collection, found, vectors))
    elif found.ids:
        output().print(_table(found, vectors))
    if found.missing:
        if not as_json:
            missing = ", ".join(map(repr, found.missing))
            typer.echo(f"vecdb: collection {collection!r} holds no id {missing}", err=True)
        raise typer.Exit(1)


def _document(collection: str, found: Records, vectors: bool) -> dict[str, object]:
    rows = [
        {
            "id": name,
            "metadata": found.metadata[row],
            **({"vector": found.vectors[row].tolist()} if vectors else {}),
        }
        for row, name in enumerate(found.ids)
    ]
    return {"collection": collection, "rows": rows, "missing": found.missing, "seq": found.seq}


def _table(found: Records, vectors: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "metadata", box=None, pad_edge=False)
    if vectors:
        table.add_column("vector", overflow="fold")
    for row, name in enumerate(found.ids):
        # str of a float32 is the shortest text that parses to the same float32.
        numbers = [Text(",".join(map(str, found.vectors[row])))] if vectors else []
        entry = found.metadata[row]
        shown = json.dumps(entry, ensure_ascii=False) if entry else ""
        table.add_row(Text(name), Text(shown), *numbers)
    return table


@app.command(rich_help_panel=COLLECTIONS)
def optimize(
    collections: Annotated[
        list[str] | None, typer.Argument(help="Collections; default: all.")
    ] = None,
    url: Url = None,
    data: Data = None,
) -> None:
    """Wait until all rows are in graphs; writes and searches continue."""
    from rich.console import Console

    from vecdb_cli.commands.optimizing import wait_for_graphs
    from vecdb_cli.commands.progress import Status
    from vecdb_cli.commands.target import open_target

    with open_target(url, data) as target:
        names = collections or [each.name for each in target.list_collections()]
        found = [target.collection(name) for name in names]
        for name, collection in zip(names, found, strict=True):
            try:
                with Status(Console(stderr=True)) as status:
                    sentence = wait_for_graphs(status, collection, name)
            except KeyboardInterrupt:  # The message has been printed.
                raise typer.Exit(INTERRUPTED) from None
            typer.echo(sentence)
