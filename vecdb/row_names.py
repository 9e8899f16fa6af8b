"""How error messages call the rows of an input, and show values that may be anything.

A batch that was cut from a larger input is called by the rows of that input: ``RowNames(2000,
ids)`` names the row at position 500 of the batch ``row 2500 (id 'x')``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

__all__ = ["UNNAMED", "RowNames", "shown"]

_SHOWN_MAX: Final = 80
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN_MAX


class RowNames(NamedTuple):
    """Names of the rows of a batch.

    Attributes:
        first: position of its first row in the whole input.
        ids: of its rows; none if they have none or they are not known.
    """

    first: int = 0
    ids: Sequence[str] = ()

    def of(self, row: int) -> str:
        """The name of a row, by its position in the batch."""
        suffix = f" (id {shown(self.ids[row])})" if row < len(self.ids) else ""
        return f"row {self.first + row}{suffix}"


UNNAMED: Final = RowNames()


def shown(value: Any) -> str:
    """A value for a message: short, in one line, whatever its ``repr`` does."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # It is a caller's object, or an int with more digits than Python writes.
        if isinstance(value, int):
            return f"an integer of about {round(value.bit_length() * math.log10(2))} digits"
        return f"a value of type {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."
