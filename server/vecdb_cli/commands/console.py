"""Where a command's output goes: stdout, as wide as the terminal, and without end elsewhere."""

from __future__ import annotations

from rich.console import Console

__all__ = ["output"]

_WIDE = 2**24


def output(*, highlight: bool = True) -> Console:
    """A console on stdout. What a pipe or a file gets is neither wrapped nor cut: a line that is
    longer than a terminal is a line all the same to who reads it there."""
    console = Console(highlight=highlight)
    return console if console.is_terminal else Console(highlight=highlight, width=_WIDE)
