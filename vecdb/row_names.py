"""Names of rows, and representations of arbitrary values, in error messages.

The rows of a batch that was cut from a larger input are named by their position in that input:
``RowNames(2000, ids)`` names the row at position 500 of the batch ``row 2500 (id 'x')``.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["UNNAMED", "RowNames", "shown"]

_SHOWN_MAX: Final = 80
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN_MAX


class RowNames(NamedTuple):
    """Names of the rows of a batch.

    Attributes:
        first: position of the batch's first row in the whole input.
        ids: ids of the rows; empty if they have none or they are not known.
    """

    first: int = 0
    ids: Sequence[str] = ()

    def of(self, row: int) -> str:
        """Return the name of the row at a position in the batch."""
        suffix = f" (id {shown(self.ids[row])})" if row < len(self.ids) else ""
        return f"row {self.first + row}{suffix}"


UNNAMED: Final = RowNames()


def shown(value: object) -> str:
    """Return a short, one-line representation of any value, even if its ``repr`` fails."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # A caller's object, or an int with more digits than Python converts.
        if isinstance(value, int):
            return f"an integer of about {round(value.bit_length() * math.log10(2))} digits"
        return f"a value of type {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."
