"""The console for results: stdout, as wide as the terminal; elsewhere lines are not wrapped."""

from __future__ import annotations

from rich.console import Console

__all__ = ["output"]

_WIDE = 2**24


def output(*, highlight: bool = True) -> Console:
    """Return a console on stdout. For a pipe or a file, lines are neither wrapped nor cut, so that
    programs can read them."""
    console = Console(highlight=highlight)
    return console if console.is_terminal else Console(highlight=highlight, width=_WIDE)
