"""One exact order of integers of 64 bits and doubles: by whole part, then by fraction.

    value     whole (int64)           fraction (float64)
    -2.5      -2                      -0.5
    -2        -2                      0
    0.25      0                       0.25
    2**60     2**60                   0
    1e300     2**63 - 1               1e300      above every integer
    -1e300    -2**63                  -1e300     below every integer

Both parts are exact: a double with a fraction is below 2**52 in size, and truncation towards zero
loses no bit of either part. So numbers compare as they are, where rounding to double would make
2**53 and 2**53 + 1 equal. A double without a fraction that fits 64 bits is that integer.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["INT64_MAX", "INT64_MIN", "number_at", "position_of", "split", "split_one"]

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

Whole = npt.NDArray[np.int64]
Fraction = npt.NDArray[np.float64]


def split_one(value: int | float) -> tuple[int, float]:
    """Return whole part and fraction of an integer of 64 bits or a finite double."""
    if isinstance(value, int):
        return value, 0.0
    if value >= 2.0**63:
        return INT64_MAX, value
    if value < -(2.0**63):
        return INT64_MIN, value
    whole = int(value)
    return whole, value - whole if value != whole else 0.0


def split(doubles: Fraction) -> tuple[Whole, Fraction]:
    """Return whole parts and fractions of finite doubles."""
    above, below = doubles >= 2.0**63, doubles < -(2.0**63)
    large = above | below
    truncated = np.trunc(np.where(large, 0.0, doubles))
    whole = truncated.astype(np.int64)
    whole[above], whole[below] = INT64_MAX, INT64_MIN
    # Adding 0 makes -0.0 the zero of integers.
    fraction = np.where(large, doubles, doubles - truncated) + 0.0
    return whole, fraction


def number_at(whole: Whole, fraction: Fraction | None, at: int) -> int | float:
    """Return the number at a position; an int unless it has a fraction or exceeds 64 bits."""
    part = 0.0 if fraction is None else float(fraction[at])
    if part == 0.0:
        return int(whole[at])
    return part if abs(part) >= 1 else float(whole[at]) + part


def position_of(whole: Whole, fraction: Fraction | None, value: int | float, *, after: bool) -> int:
    """Return how many of the numbers are less than ``value``; with ``after``, or equal to it.

    Args:
        whole, fraction: of numbers in their order; None if no fraction differs from 0.
    """
    wanted, part = split_one(value)
    if fraction is None:  # All are integers.
        is_after = part > 0 or (part == 0 and after)
        return int(whole.searchsorted(wanted, "right" if is_after else "left"))
    low = int(whole.searchsorted(wanted, "left"))
    high = int(whole.searchsorted(wanted, "right"))
    inside = fraction[low:high].searchsorted(part, "right" if after else "left")
    return low + int(inside)
