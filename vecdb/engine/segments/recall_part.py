"""The part with the recall curve of a segment's graph: which effort reaches which recall.

recall_curve.npy   float32 (bands, efforts, 3): effort, mean recall, standard error of the mean; in
                   each band efforts ascend. Unused places at the end repeat the last effort.
recall             in the manifest: by ("gamma" or "ef": what an effort is), queries (how many rows
                   were asked for), far (in each band the squared distance of the k-th nearest row
                   that only one in twenty of them exceeded), measured_at (seconds since 1970),
                   sketched (whether walks were ordered by sketches: they end a little later than
                   those over float32 rows)

The curve is measured after each build (``calibration.py``): some rows are asked for as if they were
not stored, and the answers compared with the true ones. The bands are k = 1, 10 and 100.

An effort is gamma, at which distance behind the k-th nearest a walk ends, with ``EF_CAP`` as the
most candidates; or ef, where squared distances say nothing: for inner products.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.engine.segments.calibration import BANDS, measured_curve
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_kind import LeftOut, PartData, PartFiles, PartKind, PartSource
from vecdb.engine.segments.row_arrays import VECTORS
from vecdb.types import Metric

__all__ = ["RECALL", "Effort", "RecallCurve"]

ROWS_MIN: Final = 1_000
"""Graphs of fewer rows are walked with the default ef, which visits much of them."""

EF_CAP: Final = 1_200
"""Most candidates of a walk that ends by gamma, if k is not larger."""

_DEVIATIONS: Final = 2.0
"""Standard errors that the measured mean must be above the target."""

_MISSES_MIN: Final = 1e-4
"""Below this share of misses, a sample can't tell one from another."""


@dataclass(frozen=True)
class Effort:
    """How hard to search one segment.

    Attributes:
        ef: candidates kept.
        gamma: None if ef alone ends a walk.
        far: queries whose k-th row is farther, by squared distance, are unlike those measured.
        expected, lower: recall as it was measured at this effort, and its lower bound.
    """

    ef: int
    gamma: float | None
    far: float
    expected: float
    lower: float


@dataclass(frozen=True)
class RecallCurve:
    """The measured curve; the module docstring describes the array."""

    values: npt.NDArray[np.float32]
    by: Literal["gamma", "ef"]
    queries: int
    far: tuple[float, float, float]
    sketched: bool
    measured_at: float

    def effort_for(self, k: int, target: float) -> Effort | None:
        """Return the least effort at which recall@k is above the target with the sample's
        certainty; None if no effort that was tried is enough."""
        low, high, share = _bands_around(k)
        before, after = _least(self.values[low], target), _least(self.values[high], target)
        if before is None or after is None:
            return None
        effort, expected, lower = (
            start + share * (end - start) for start, end in zip(before, after, strict=True)
        )
        if self.by == "gamma":
            far = self.far[low] + share * (self.far[high] - self.far[low])
            return Effort(max(EF_CAP, 4 * k), effort, far, expected, lower)
        # A walk for more rows than the last band has keeps as many more candidates. Inner products
        # don't show which queries are unlike those measured, so all keep the default at least.
        ef = max(math.ceil(effort * max(1.0, k / BANDS[-1])), checks.check_ef(None, k))
        return Effort(ef, None, math.inf, expected, lower)


def _bands_around(k: int) -> tuple[int, int, float]:
    """Return the places of the bands that k lies between, and how far from the first, 0 to 1 by
    its logarithm. Beyond the last band it is that one."""
    last = len(BANDS) - 1
    low = next((place for place in range(last) if k < BANDS[place + 1]), last)
    if low == last:
        return last, last, 0.0
    return low, low + 1, math.log(k / BANDS[low]) / math.log(BANDS[low + 1] / BANDS[low])


def _least(curve: npt.NDArray[np.float32], target: float) -> tuple[float, float, float] | None:
    """Return the least effort, its expected recall and its lower bound.

    Between two efforts the logarithm of the misses is linear in the effort.
    """
    if not np.isfinite(curve).all():
        return None  # The file is damaged, and not compared with its checksum yet.
    efforts, means, errors = curve.astype(np.float64).T
    lower = np.maximum.accumulate(means - _DEVIATIONS * errors)
    expected = np.maximum.accumulate(means)
    reached = np.flatnonzero(lower >= target)
    if len(reached) == 0:
        return None
    at = int(reached[0])
    if at == 0:
        return float(efforts[0]), float(expected[0]), float(lower[0])

    def misses(recall: float) -> float:
        return math.log(max(1 - recall, _MISSES_MIN))

    before, after = misses(lower[at - 1]), misses(lower[at])
    share = (misses(target) - before) / (after - before) if after < before else 1.0
    effort = efforts[at - 1] + share * (efforts[at] - efforts[at - 1])
    between = misses(expected[at - 1]) + share * (misses(expected[at]) - misses(expected[at - 1]))
    return float(effort), 1 - math.exp(between), target


class _RecallPart(PartKind[RecallCurve]):
    name = "recall"
    arrays = ("recall_curve",)
    needed = False
    derived_from = (VECTORS, GRAPH)

    def write(self, value: RecallCurve) -> PartData:
        fields = {
            "by": value.by,
            "queries": value.queries,
            "far": list(value.far),
            "sketched": value.sketched,
            "measured_at": value.measured_at,
        }
        return PartData({"recall_curve": value.values}, {"recall": fields})

    def read(self, files: PartFiles) -> RecallCurve:
        values, fields = files.arrays["recall_curve"], files.manifest["recall"]
        files.check(
            fit=values.ndim == 3
            and values.shape[0] == len(BANDS)
            and values.shape[1] > 0
            and values.shape[2] == 3
        )
        return RecallCurve(
            values,
            fields["by"],
            int(fields["queries"]),
            _three(fields["far"]),
            bool(fields["sketched"]),
            float(fields["measured_at"]),
        )

    def applies_to(self, source: PartSource) -> bool:
        return super().applies_to(source) and len(source.parts[VECTORS]) >= ROWS_MIN

    def derive(self, source: PartSource) -> RecallCurve | LeftOut:
        metric = source.config.metric
        by: Literal["gamma", "ef"] = "ef" if metric is Metric.DOT else "gamma"
        vectors, graph = source.parts[VECTORS], source.parts[GRAPH]
        sketch = source.parts.get(SKETCH)
        values, queries, far = measured_curve(vectors, graph, sketch, metric, EF_CAP)
        return RecallCurve(values, by, queries, _three(far), sketch is not None, int(time.time()))


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)


RECALL = _RecallPart()
