"""Intervals of row numbers, for reading the records of many rows in few steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["runs_of"]

_GAP_MAX: Final = 8
"""Row numbers between two wanted rows that are read over."""


def runs_of(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield intervals of row numbers, first and end, that contain all rows, and few others.

    rows: int64, ascending, one at least.
    """
    edges = np.flatnonzero(np.diff(rows) > _GAP_MAX)
    for first, last in zip([0, *(edges + 1)], [*edges, len(rows) - 1], strict=True):
        yield int(rows[first]), int(rows[last]) + 1
