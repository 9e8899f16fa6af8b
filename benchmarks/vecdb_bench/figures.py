"""Arithmetic of figures: medians with their spread, percentiles, slopes.

A percentile is the smallest measured value that at least that share of all values does not exceed
(nearest rank): it was really measured, and with few values it is the greatest, never between two.
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
    """Median, least, greatest and all values, in the order in which they were measured.

    Raises:
        InvalidArgumentError: there is none.
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
    """Nearest rank. values: in any order, shape (n,). share: 0 to 100.

    Raises:
        InvalidArgumentError: there is no value, or the share can't be.
    """
    if not len(values) or not 0 <= share <= 100:
        raise InvalidArgumentError(
            f"expected values and a share of 0 to 100, got {len(values)} and {share}", "NO_VALUES"
        )
    # Rounding first, since 99.9 / 100 * 1000 is a little more than 999.
    rank = max(1, math.ceil(round(share / 100 * len(values), 9)))
    return float(np.partition(values, rank - 1)[rank - 1])


def latency_figures(seconds: npt.NDArray[np.floating]) -> dict[str, float]:
    """p50, p95, p99, p99.9 and max in milliseconds, and how many calls there were."""
    found = {f"p{share:g}_ms": 1000 * percentile(seconds, share) for share in PERCENTILES}
    return {**found, "max_ms": 1000 * float(seconds.max()), "calls": len(seconds)}


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent b of cost ≈ a · size^b, by least squares on logarithms.

    1 is cost that grows as the size does, 0 one that does not grow.

    Raises:
        InvalidArgumentError: fewer than two sizes, or a cost that is not positive.
    """
    if len(set(sizes)) < 2 or min(costs) <= 0:
        raise InvalidArgumentError(
            f"expected two sizes and positive costs, got {len(set(sizes))} and {min(costs)}",
            "NO_VALUES",
        )
    fitted = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(fitted[0])
