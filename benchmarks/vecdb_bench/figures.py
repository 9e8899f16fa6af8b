"""Arithmetic of figures: medians with their spread, percentiles, slopes.

Percentiles use the nearest-rank method: the smallest measured value such that at least the given
share of all values is less than or equal to it. A percentile is therefore always a measured value,
never an interpolated one, and the high percentiles of few values are their maximum.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.errors import InvalidArgumentError

__all__ = ["PERCENTILES", "latency_figures", "percentile", "slope", "summary"]

PERCENTILES = (50.0, 95.0, 99.0, 99.9)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the minimum, the maximum and all values in the order of measuring.

    Raises:
        InvalidArgumentError: ``values`` is empty.
    """
    if not values:
        raise InvalidArgumentError("expected at least 1 value, got 0", "NO_VALUES")
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }


def percentile(values: npt.NDArray[np.floating], share: float) -> float:
    """Return a percentile by the nearest-rank method.

    Args:
        values: floats in any order, shape (n,).
        share: in percent, 0 to 100.

    Raises:
        InvalidArgumentError: ``values`` is empty, or ``share`` is out of range.
    """
    if not len(values) or not 0 <= share <= 100:
        raise InvalidArgumentError(
            "expected at least 1 value and a share of 0 to 100, got "
            f"{len(values)} values and share {share}",
            "NO_VALUES",
        )
    # Rounded first, since 99.9 / 100 * 1000 is slightly greater than 999 in floating point.
    rank = max(1, math.ceil(round(share / 100 * len(values), 9)))
    return float(np.partition(values, rank - 1)[rank - 1])


def latency_figures(seconds: npt.NDArray[np.floating]) -> dict[str, float]:
    """Return p50, p95, p99, p99.9 and max in milliseconds, and the number of calls."""
    found = {f"p{share:g}_ms": 1000 * percentile(seconds, share) for share in PERCENTILES}
    return {**found, "max_ms": 1000 * float(seconds.max()), "calls": len(seconds)}


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent b of cost ≈ a · size^b, by least squares on logarithms.

    An exponent of 1 means that the cost is proportional to the size, 0 that it does not depend on
    the size.

    Raises:
        InvalidArgumentError: there are fewer than two distinct sizes, or a cost is not positive.
    """
    if len(set(sizes)) < 2 or min(costs) <= 0:
        raise InvalidArgumentError(
            "expected at least 2 distinct sizes and positive costs, got "
            f"{len(set(sizes))} sizes and a least cost of {min(costs)}",
            "NO_VALUES",
        )
    fitted = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(fitted[0])
