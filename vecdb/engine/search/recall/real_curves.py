"""Curves from effort to recall that were measured with real queries.

The curve that is stored with a graph (``segments/recall_part.py``) was measured with some of its
own rows. Queries of another distribution, such as questions against texts, reach another recall at
the same effort. The recall meter (``meter``) measures with real ones and adds what it finds here;
once there are enough, ``plan`` uses this curve in place of the stored one.

Processes share what they have measured through the store (``store/recall_sums.py``): ``share`` adds
what this process has measured since to what all have, and ``read`` takes over what others added.

For k = 1 even ``n`` queries that all find their nearest row show no more than a recall of 1 - 2/n,
since one more might have missed it. So a curve is used only for targets that its queries can show.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.segments.calibration import BANDS, efforts_of
from vecdb.engine.segments.recall_part import RecallCurve
from vecdb.engine.store.recall_sums import (
    RecallSums,
    graph_numbers,
    read_recall_sums,
    write_recall_sums,
)
from vecdb.engine.store.store import Store
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
        shared: sums that all processes have.
        replaces: whether the shared sums are to be replaced by those of this process.
    """

    def __init__(self, metric: Metric, *, replaces: bool = False) -> None:
        self._by: Literal["gamma", "ef"] = "ef" if metric is Metric.DOT else "gamma"
        self.efforts = all_efforts(metric)
        nothing = np.zeros(self.efforts.shape)
        self.shared = self._own = RecallSums(0.0, 0.0, nothing, nothing)
        self.replaces = replaces

    @property
    def queries(self) -> float:
        """Weight of the queries in the sums."""
        return self.shared.queries + self._own.queries

    def add(self, recalls: npt.NDArray[np.float64]) -> None:
        """Add one query's recalls, float64 (bands, efforts)."""
        if self.queries >= QUERIES_MAX:
            self.shared, self._own = _halved(self.shared), _halved(self._own)
        own = self._own
        self._own = RecallSums(
            own.queries + 1, time.time(), own.sums + recalls, own.squares + recalls * recalls
        )

    def merged(self, shared: RecallSums | None) -> RecallSums:
        """Return the sums of all processes, given those that are shared now, if any."""
        if self.replaces:
            return self._own
        return _added(self.shared if shared is None else shared, self._own)

    def take_over(self, merged: RecallSums) -> None:
        """Note that ``merged`` is what all processes have now, this one's queries included."""
        self.shared, self.replaces = merged, False
        nothing = np.zeros(self.efforts.shape)
        self._own = RecallSums(0.0, 0.0, nothing, nothing)

    def curve(self) -> RecallCurve:
        """Return means and standard errors as a stored curve has them; one query at least."""
        bands = np.array(BANDS, np.float64)[:, None]
        queries, measured_at, sums, squares = _added(self.shared, self._own)
        means = sums / queries
        shares = (sums * bands + 1) / (queries * bands + 2)
        variances = np.maximum(squares / queries - means * means, 0)
        errors = np.sqrt(np.maximum(variances, shares * (1 - shares) / bands) / queries)
        values = np.stack([self.efforts, means, errors], axis=-1).astype(np.float32)
        # Whether there are sketches to walk by is checked with the stored curve.
        everywhere = (math.inf, math.inf, math.inf)
        return RecallCurve(values, self._by, int(queries), everywhere, False, measured_at)


def all_efforts(metric: Metric) -> npt.NDArray[np.float64]:
    """Return the efforts at which real queries are measured, float64 (bands, efforts)."""
    return np.array([efforts_of(metric, k) for k in BANDS], np.float64)


def _added(one: RecallSums, other: RecallSums) -> RecallSums:
    """Return the sums of both; halved if they are of too many queries."""
    both = RecallSums(
        one.queries + other.queries,
        max(one.measured_at, other.measured_at),
        one.sums + other.sums,
        one.squares + other.squares,
    )
    return _halved(both) if both.queries > QUERIES_MAX else both


def _halved(sums: RecallSums) -> RecallSums:
    return RecallSums(sums.queries / 2, sums.measured_at, sums.sums / 2, sums.squares / 2)


class RealCurves:
    """The curves of one collection, by segment number. Searches read what the meter publishes.

    Args:
        on_published: called when searches are to be planned again.
    """

    def __init__(self, metric: Metric, on_published: Callable[[], None]) -> None:
        self._metric, self._on_published = metric, on_published
        self._efforts = all_efforts(metric)
        self._measured: dict[int, RealCurve] = {}
        self._replacing: set[int] = set()
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
        if number not in self._measured:
            self._measured[number] = RealCurve(self._metric, replaces=number in self._replacing)
        return self._measured[number]

    def has(self, number: int) -> bool:
        """Return whether real queries were measured on a segment."""
        return number in self._measured

    def publish(self) -> bool:
        """Let searches use the curves that have enough queries, and enough new ones; return
        whether there are such."""
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
        return changed

    def read(self, store: Store, transaction: Transaction) -> None:
        """Take over what other processes have added to the store."""
        for number, shared in read_recall_sums(store, transaction, self._efforts).items():
            if number not in self._replacing:
                self.of(number).shared = shared

    def share(self, store: Store) -> None:
        """Add what this process has measured to the store, in a transaction of its own.

        Raises:
            NotFoundError: the collection was dropped.
            VecdbError: the store cannot be written.
        """

        def write(transaction: Transaction) -> dict[int, RecallSums]:
            store.check_not_dropped(transaction)
            shared = read_recall_sums(store, transaction, self._efforts)
            graphs = graph_numbers(store, transaction)
            whole = {number: sums for number, sums in shared.items() if number in graphs}
            merged = {
                number: curve.merged(shared.get(number))
                for number, curve in self._measured.items()
                if number in graphs and (not curve.replaces or curve.queries >= QUERIES_MIN)
            }
            write_recall_sums(store, transaction, self._efforts, {**whole, **merged})
            return merged

        for number, merged in store.environment.transact(write).items():
            self._measured[number].take_over(merged)
            self._replacing.discard(number)

    def retain(self, numbers: Collection[int]) -> None:
        """Forget all segments but these."""
        for number in {*self._measured, *self._used} - set(numbers):
            self._measured.pop(number, None)
            self._used.pop(number, None)
        self._replacing &= set(numbers)

    def measure_again(self, queries: int) -> None:
        """Forget sums of more queries than these; what is published stays in use until enough is
        measured again, and then replaces what is shared."""
        for number in [n for n, curve in self._measured.items() if curve.queries > queries]:
            del self._measured[number]
            self._replacing.add(number)
