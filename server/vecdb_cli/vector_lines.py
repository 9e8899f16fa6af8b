"""Lines of word vectors: a word and dim numbers, separated by spaces or tabs.

A word may contain spaces, also U+00A0 (in GloVe): the last dim fields of a line are the vector, the
text before them is the word. A number has ASCII digits, in the syntax of JSON, C or Python's repr,
or is nan or inf; "1_000" and "0x1p3" are not numbers.

Blocks of lines are parsed at once. If that fails, the lines are parsed one by one, and each bad
line gets an error that names it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb_cli.sidecars import decoded, wrong

__all__ = ["dimension_of", "header_of", "is_number", "parse_lines", "stripped"]

Rows = npt.NDArray[np.float64]

_FIELD = re.compile(rb"[^ \t]+")
_NUMBER = re.compile(
    rb"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?)", re.IGNORECASE
)
_ALLOWED_BY_FLOAT = (b"_", b"\v", b"\f")
"""Bytes that Python's float accepts in or around a number, and we don't."""


def is_number(text: str) -> bool:
    """Return whether a text is a number in the syntax of files."""
    return _NUMBER.fullmatch(text.encode("utf-8", "replace")) is not None


def header_of(line: bytes) -> tuple[int, int] | None:
    """Return rows and dimension from a first line of exactly two integers, else None."""
    fields = line.split()
    if (
        line.endswith(b"\n")
        and len(fields) == 2
        and all(f.isdigit() and len(f) < 19 for f in fields)
    ):
        return int(fields[0]), int(fields[1])
    return None


def stripped(line: bytes) -> bytes:
    """Return a line without its end, and without the space that word2vec and fastText put there."""
    return line.rstrip(b"\r\n").rstrip(b" \t")


def dimension_of(lines: Sequence[bytes]) -> int:
    """Return the most frequent dimension of the first lines of a file without a header.

    Each line votes for two: the count of numbers at its end, and the count of fields after the
    first. They differ if the word contains spaces or a field is not a number. The larger one wins a
    tie, so that the shorter line is reported as bad.
    """
    votes: Counter[int] = Counter()
    for line in lines:
        if fields := _FIELD.findall(stripped(line)):
            numbers = 0
            for field in reversed(fields[1:]):
                if not _NUMBER.fullmatch(field):
                    break
                numbers += 1
            votes.update((numbers, len(fields) - 1))
    return max(votes, key=lambda dim: (votes[dim], dim), default=0)


def parse_lines(
    path: Path, lines: Sequence[bytes], first_line: int, dim: int
) -> tuple[list[Any], Rows]:
    """Return words and vectors, float64 of shape (len(lines), dim); an error replaces the word of a
    bad line."""
    lines = [stripped(line) for line in lines]
    split = [line.rsplit(b" ", dim) for line in lines]
    parsed = _parsed_at_once(split, dim)
    if parsed is None:
        # Other separators. Then a word can't contain any, as its end would be ambiguous.
        split = [[f for f in line.replace(b"\t", b" ").split(b" ") if f] for line in lines]
        parsed = _parsed_at_once(split, dim)
    if parsed is not None:
        return parsed
    words, rows = [], np.zeros((len(lines), dim), np.float64)
    for row, line in enumerate(lines):
        word, numbers = _parsed(path, f"line {first_line + row}", line, dim)
        words.append(word)
        if numbers is not None:
            rows[row] = numbers
    return words, rows


def _parsed_at_once(split: list[list[bytes]], dim: int) -> tuple[list[Any], Rows] | None:
    """Parse all lines at once; None if a word contains a separator, or a line is bad."""
    try:
        for fields in split:
            if len(fields) != dim + 1 or not fields[0] or b" " in fields[0] or b"\t" in fields[0]:
                return None
        numbers = list(chain.from_iterable(fields[1:] for fields in split))
        together = b" ".join(numbers)
        if any(each in together for each in _ALLOWED_BY_FLOAT):
            return None
        flat = np.fromiter(map(float, numbers), dtype=np.float64, count=len(numbers))
        return [fields[0].decode() for fields in split], flat.reshape(-1, dim)
    except ValueError:
        return None


def _parsed(path: Path, place: str, line: bytes, dim: int) -> tuple[Any, list[float] | None]:
    """Parse one line: return its word and numbers, or an error and None."""
    spans = [found.span() for found in _FIELD.finditer(line)]
    if len(spans) <= dim:
        if len(spans) == dim and line[:1] in (b" ", b"\t"):
            return wrong(path, f"{place}: the id is empty"), None
        what = f"expected a word and {dim} numbers, got {len(spans)} fields"
        return wrong(path, f"{place}: {what}"), None
    fields = [line[first:end] for first, end in spans[-dim:]]
    word = line[spans[0][0] : spans[-dim - 1][1]]
    # A word may contain spaces; if it ends with a number, the line has too many numbers.
    if len(spans) > dim + 1 and _NUMBER.fullmatch(line[slice(*spans[-dim - 1])]):
        what = f"expected a word and {dim} numbers, got more numbers"
        return wrong(path, f"{place}: {what}"), None
    bad = next((field for field in fields if not _NUMBER.fullmatch(field)), None)
    if bad is not None:
        return wrong(path, f"{place}: {bad[:40]!r} is not a number"), None
    text = decoded(path, place, word)
    return text, None if isinstance(text, Exception) else [float(field) for field in fields]
