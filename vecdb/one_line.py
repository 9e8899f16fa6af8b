"""Text that came from somewhere else, as part of one line."""

from __future__ import annotations

import json

__all__ = ["cut", "one_line"]

_LONG = 2_000


def one_line(text: str) -> str:
    """The text, cut if it is long; if some of it is not printed (line ends, control characters,
    what turns the direction of text), all that is not ASCII escaped as in JSON."""
    text = cut(text)
    return text if text.isprintable() else json.dumps(text)[1:-1].replace('\\"', '"')


def cut(text: str) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= _LONG else f"{text[:_LONG]}… ({len(text)} characters)"
