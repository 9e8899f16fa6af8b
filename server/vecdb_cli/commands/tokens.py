"""``vecdb tokens``: the file of access tokens of a server.

    vecdb tokens create     a token; its text is printed once
    vecdb tokens list       names, roles and scopes
    vecdb tokens rotate     a new text; the last one stays valid
    vecdb tokens retire     the last text of a rotated token is no longer valid
    vecdb tokens remove     a token

A running server reads the file again after SIGHUP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason

__all__ = ["app"]

app = typer.Typer(
    name="tokens", help="Make and remove the access tokens of a server.", no_args_is_help=True
)

File = Annotated[
    Path, typer.Option("--file", metavar="FILE", help="The file given to `vecdb serve --tokens`.")
]
TokenName = Annotated[str, typer.Argument(help="Name of the token.", metavar="NAME")]
_RELOAD = "a running server reads the file again after SIGHUP (kill -HUP PID)"


@app.command()
def create(
    name: TokenName,
    file: File,
    role: Annotated[str, typer.Option(help="reader, writer or admin.")],
    collections: Annotated[
        str,
        typer.Option(metavar="PREFIX", help="Permit only collections whose names begin with this."),
    ] = "",
) -> None:
    """Add a token to the file, which is created if it does not exist, and print its text."""
    from vecdb_server.access.roles import Role
    from vecdb_server.access.tokens import Tokens

    if role not in [each.title for each in Role]:
        raise InvalidArgumentError(
            f"--role must be reader, writer or admin, got {role!r}", Reason.BAD_OPTION
        )
    with Tokens.changing(file):
        before = Tokens.read(file) if file.exists() else Tokens()
        after, text = before.create(name, Role[role.upper()], collections)
        after.write(file)
    _print_text(text)


@app.command(name="list")
def list_(file: File) -> None:
    """Print the names, roles and scopes of the tokens, and how many texts of each are valid."""
    from rich.table import Table

    from vecdb_cli.commands.console import output
    from vecdb_server.access.tokens import Tokens

    table = Table("name", "role", "collections", "valid texts", box=None)
    for each in Tokens.read(file).tokens:
        scope = f"{each.collections}…" if each.collections else "all"
        table.add_row(each.name, each.role.title, scope, str(len(each.hashes)))
    output().print(table)


@app.command()
def rotate(name: TokenName, file: File) -> None:
    """Print a new text for a token. The last one stays valid too, until `retire` or the next
    rotation."""
    from vecdb_server.access.tokens import Tokens

    with Tokens.changing(file):
        after, text = Tokens.read(file).rotate(name)
        after.write(file)
    _print_text(text)


@app.command()
def retire(name: TokenName, file: File) -> None:
    """End a rotation: only the newest text of a token stays valid."""
    from vecdb_server.access.tokens import Tokens

    with Tokens.changing(file):
        Tokens.read(file).retire(name).write(file)
    typer.echo(_RELOAD, err=True)


@app.command()
def remove(name: TokenName, file: File) -> None:
    """Remove a token."""
    from vecdb_server.access.tokens import Tokens

    with Tokens.changing(file):
        Tokens.read(file).remove(name).write(file)
    typer.echo(_RELOAD, err=True)


def _print_text(text: str) -> None:
    typer.echo(text)
    typer.echo(f"this text is not stored; {_RELOAD}", err=True)
