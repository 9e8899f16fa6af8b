"""Access for tests to the internals of the command line; see ``vecdb.engine.testing``."""

from __future__ import annotations

from typing import Final

from vecdb_cli.commands.progress import Status

PLACES: Final = {
    "demo_how_found": "vecdb_cli.demo:_how_found",
    "progress_bar": "vecdb_cli.commands.progress:_bar",
}


def redraw(status: Status) -> None:
    """Draw the line of progress now instead of at its next time."""
    assert status._live is not None
    status._live.refresh()
