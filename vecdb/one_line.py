"""Escaping of foreign text for use within one line of a message or a log."""

from __future__ import annotations

import json

__all__ = ["cut", "one_line"]

_LONG = 2_000


def one_line(text: str) -> str:
    """Return the text, truncated if it is long. If any character is not printable (line ends,
    control characters, changes of text direction), escape all that is not ASCII as in JSON."""
    text = cut(text)
    return text if text.isprintable() else json.dumps(text)[1:-1].replace('\\"', '"')


def cut(text: str) -> str:
    """Return the text; if it is long, only its beginning followed by its length."""
    return text if len(text) <= _LONG else f"{text[:_LONG]}… ({len(text)} characters)"
