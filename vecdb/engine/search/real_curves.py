"""Curves from effort to recall that were measured with real queries.

The curve that is stored with a graph (``segments/recall_part.py``) was measured with some of its
own rows. Queries of another distribution, such as questions against texts, reach another recall at
the same effort. The recall meter (``meter``) measures with real ones and adds what it finds here;
once there are enough, ``plan`` uses this curve in place of the stored one.

For k = 1 even ``n`` queries that all find their nearest row show no more than a recall of 1 - 2/n,
since one more might have missed it. So a curve is used only for targets that its queries can show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.calibration import BANDS, efforts_of
from vecdb.engine.segments.recall_part import RecallCurve
from vecdb.types import Metric

__all__ = ["RealCurve", "RealCurves"]

QUERIES_MIN: Final = 50
"""Fewest queries of a curve that is used: fewer may by chance be of one kind."""

_SHOWN: Final = 4.0
"""Misses (or neighbours found, less) that the queries must be able to show below a target: two
standard errors of one miss, and as much again for chance."""

QUERIES_MANY: Final = 400
"""From this many queries on a curve is used even if it says that no effort reaches a target."""

QUERIES_MAX: Final = 2 * QUERIES_MANY
"""From this many queries on the sums are halved, so that a curve follows the latest queries."""

_GROWTH: Final = 0.25
"""Part by which the queries must have grown since the curve in use was published."""


class RealCurve:
    """The sums of one graph segment. Used by one thread at a time.

    Attributes:
        efforts: float64 (bands, efforts), ascending in each band.
        queries: weight of the queries in the sums.
    """

    def __init__(self, metric: Metric) -> None:
        self._by: Literal["gamma", "ef"] = "ef" if metric is Metric.DOT else "gamma"
        self.efforts = np.array([efforts_of(metric, k) for k in BANDS], np.float64)
        self._sums = np.zeros(self.efforts.shape)
        self._squares = np.zeros(self.efforts.shape)
        self.queries = 0.0

    def add(self, recalls: npt.NDArray[np.float64]) -> None:
        """Add one query's recalls, float64 (bands, efforts)."""
        if self.queries >= QUERIES_MAX:
            self._sums /= 2
            self._squares /= 2
            self.queries /= 2
        self._sums += recalls
        self._squares += recalls * recalls
        self.queries += 1

    def curve(self) -> RecallCurve:
        """Return means and standard errors as a stored curve has them; one query at least."""
        bands = np.array(BANDS, np.float64)[:, None]
        means = self._sums / self.queries
        shares = (self._sums * bands + 1) / (self.queries * bands + 2)
        variances = np.maximum(self._squares / self.queries - means * means, 0)
        errors = np.sqrt(np.maximum(variances, shares * (1 - shares) / bands) / self.queries)
        values = np.stack([self.efforts, means, errors], axis=-1).astype(np.float32)
        # Whether there are sketches to walk by is checked with the stored curve.
        return RecallCurve(values, self._by, int(self.queries), False, time.time())


class RealCurves:
    """The curves of one collection, by segment number. Searches read what the meter publishes.

    Args:
        on_published: called when searches are to be planned again.
    """

    def __init__(self, metric: Metric, on_published: Callable[[], None]) -> None:
        self._metric, self._on_published = metric, on_published
        self._measured: dict[int, RealCurve] = {}
        self._used: dict[int, RecallCurve] = {}
        self.edition = 0
        """Grows whenever curves are published; a plan is of the edition before it was made."""

    def for_target(self, number: int | None, k: int, target: float) -> RecallCurve | None:
        """Return the curve of a segment if its queries are enough for this k and target.

        Few queries may not show that any effort reaches the target. Until there are many, the
        stored curve stands then: scans in place of walks would be a high price for chance.
        """
        used = None if number is None else self._used.get(number)
        if used is None:
            return None
        queries, band = used.queries, max(each for each in BANDS if each <= k)
        if queries * band * (1 - target) < _SHOWN:
            return None
        is_sure = queries >= QUERIES_MANY or used.effort_for(k, target) is not None
        return used if is_sure else None

    def of(self, number: int) -> RealCurve:
        """Return the sums of a segment, new if there are none."""
        return self._measured.setdefault(number, RealCurve(self._metric))

    def has(self, number: int) -> bool:
        """Return whether real queries were measured on a segment."""
        return number in self._measured

    def publish(self) -> None:
        """Let searches use the curves that have enough queries, and enough new ones."""
        changed = False
        for number, measured in self._measured.items():
            used = self._used.get(number)
            known = 0 if used is None else used.queries
            grown = abs(measured.queries - known) >= max(1.0, _GROWTH * known)
            if measured.queries >= QUERIES_MIN and grown:
                self._used[number] = measured.curve()
                changed = True
        if changed:
            self.edition += 1
            self._on_published()

    def retain(self, numbers: Collection[int]) -> None:
        """Forget all segments but these."""
        for number in {*self._measured, *self._used} - set(numbers):
            self._measured.pop(number, None)
            self._used.pop(number, None)

    def measure_again(self, queries: int) -> None:
        """Forget sums of more queries than these; what is published stays in use until enough is
        measured again."""
        for number in [n for n, curve in self._measured.items() if curve.queries > queries]:
            del self._measured[number]
