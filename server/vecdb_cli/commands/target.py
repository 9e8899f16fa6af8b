"""The database that a command works on: a server (``--url``) or a folder (``--data``)."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import typer

import vecdb
from vecdb.errors import InvalidArgumentError, NotFoundError
from vecdb.reasons import Reason

if TYPE_CHECKING:
    from vecdb.engine.api.database import Database
    from vecdb_client import Client

    Target: TypeAlias = Database | Client

__all__ = ["DEFAULT_URL", "connect_options", "open_target", "place_of", "set_connect_options"]

DEFAULT_URL = "127.0.0.1:7801"

connect_options: dict[str, Any] = {}
"""Options of ``vecdb.connect``, from the options before the command."""

_TOKEN_VARIABLE: Final = "VECDB_TOKEN"


def open_target(
    url: str | None, data: Path | None, *, create: bool = False, **options: object
) -> Target:
    """Open a server or a folder; the default server if neither is given.

    Args:
        create: create a missing folder.
        options: passed to ``vecdb.open``, for a folder.

    Raises:
        InvalidArgumentError: both are given.
        NotFoundError: the folder holds no database.
    """
    if url is not None and data is not None:
        raise InvalidArgumentError("give --url or --data, not both")
    if data is None:
        return vecdb.connect(DEFAULT_URL if url is None else url, **connect_options)
    if not create and not (data / "FORMAT").exists():
        raise NotFoundError(f"there is no database in {data}", Reason.NO_DATABASE)
    return vecdb.open(data, **options)


def place_of(url: str | None, data: Path | None) -> str:
    """Return the option that names the database, to append to a suggested command."""
    if data is not None:
        return f" --data {shlex.quote(str(data))}"
    return "" if url in (None, DEFAULT_URL) else f" --url {url}"


def set_connect_options(context: typer.Context, token_file: Path | None, **options: object) -> None:
    """Keep the options before a command for ``open_target``.

    Raises:
        InvalidArgumentError: BAD_OPTION: the command calls no server, but is one.
    """
    if context.invoked_subcommand in ("serve", "tokens"):
        for name in ("token_file", *options):
            if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
                option = f"--{name.replace('_', '-')}"
                raise InvalidArgumentError(
                    f"{option} before the command is for commands that call a server; "
                    f"{context.invoked_subcommand} has options of its own, after its name",
                    Reason.BAD_OPTION,
                )
    connect_options.clear()
    connect_options.update(token=_token_of(token_file), **options)


def _token_of(file: Path | None) -> str | None:
    """Return the access token of a file, or of the environment; None without either. It is no
    option itself, since other users of the machine see a process's arguments."""
    if file is None:
        return os.environ.get(_TOKEN_VARIABLE) or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"{file} is not a text file", Reason.BAD_OPTION) from None
