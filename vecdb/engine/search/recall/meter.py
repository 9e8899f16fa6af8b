"""The recall meter: answers a sample of real queries exactly, and compares.

A search leaves its query now and then (``samples``). The meter searches for it again on the newest
snapshot: by the plan that the search would take now, and with a scan of all rows. The share of the
true nearest rows that the plan finds goes to the history of the last day (``recall_history``).
Walks are deterministic, so this is the recall that searches have.

The scan also gives the true nearest rows of each graph. The meter walks each graph at all efforts
and adds their recall to the curve of real queries (``real_curves``), by which searches are planned
once it has enough of them. The last queries are kept, so that a new graph is measured with them
before anything else. Processes share these curves (``RealCurves.share``): a process begins with
those that others have measured, and goes on without if the store cannot be read or written.

If the recall of the last hour is certainly below what was promised, the meter logs it, and measures
curves that hold older queries again with those that are kept.

One step measures at most ``SAMPLES_MAX`` queries, on the calling thread and in slices like any
search, and holds a snapshot for that long only. ``runtime/metering.py`` decides when steps run.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.collection_stats import MeasuredRecall
from vecdb.engine.search.hits import Found
from vecdb.engine.search.plan import UnitPlan
from vecdb.engine.search.recall.real_curves import QUERIES_MIN
from vecdb.engine.search.recall.recall_history import DAY_S, HOUR_S, RecallHistory
from vecdb.engine.search.recall.samples import SAMPLES_MAX, Sample
from vecdb.engine.search.search import Searcher
from vecdb.engine.search.snapshots.snapshot import SearchUnit, Snapshot
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.segments.calibration import BANDS, VISITED_MAX
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.recall_part import EF_CAP, RECALL
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import NotFoundError, VecdbError
from vecdb.types import Metric

__all__ = ["RecallMeter"]

Floats = npt.NDArray[np.float32]

_KEPT_MAX: Final = 256
_KEPT_BYTES_MAX: Final = 2 * 1024**2
"""Most queries that are kept, and most bytes of them, but at least as many as a curve needs."""

_log = logging.getLogger("vecdb.recall")


class RecallMeter:
    """Measures the recall of one collection. ``step`` is for one thread at a time; the other
    methods are thread-safe.

    Args:
        searcher: the collection's; its tap gives the samples.
        store: None: neither takes over the curves of other processes nor shares its own.
        name: returns the collection's name, for the log.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        searcher: Searcher,
        store: Store | None,
        snapshots: SnapshotManager,
        metric: Metric,
        name: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._searcher, self._snapshots, self._name = searcher, snapshots, name
        self._store = store
        self._clock = clock
        self._is_dot = metric is Metric.DOT
        self._tap, self._curves = searcher.tap, searcher.real_curves
        self._history = RecallHistory()
        self._logged_at: float | None = None
        self._kept_lock = threading.Lock()
        self._kept: deque[Floats] = deque()
        self._to_measure: dict[int, list[Floats]] = {}
        """Kept queries that are still to be measured on new graphs, by segment number."""

        self._read_shared()
        self._curves.publish()

    def arm(self) -> None:
        """Have the next search leave a sample, if there is room for one."""
        self._tap.armed = self._tap.has_room()

    def on_sample(self, notify: Callable[[], None]) -> None:
        """Call ``notify`` whenever a search has left a sample; it must not block."""
        self._tap.on_sample = notify

    def hour(self) -> MeasuredRecall | None:
        """Return the recall measured in the last hour."""
        return self._history.over(self._clock(), HOUR_S)

    def day(self) -> MeasuredRecall | None:
        """Return the recall measured in the last day."""
        return self._history.over(self._clock(), DAY_S)

    def forget_queries(self) -> None:
        """Drop samples and kept queries, for example when the collection's files are closed.
        What was measured stays."""
        self._tap.drain()
        with self._kept_lock:
            self._kept.clear()
        self._to_measure = {}

    def close(self) -> None:
        """Take no more samples, and drop those that wait. A running step may go on."""
        self._tap.close()
        self.forget_queries()

    def step(self, deadline: Deadline) -> bool:
        """Measure some queries.

        Returns:
            Whether more wait to be measured.

        Raises:
            NotFoundError: the collection was dropped.
            DataLossError: rows are damaged.
            DeadlineExceededError, CancelledError: between two slices of work.
        """
        if not (self._to_measure or self._tap.has_samples()):
            return False
        snapshot = self._snapshots.snapshot()
        graphs = {
            unit.number: unit
            for unit in snapshot.units
            if unit.number is not None and unit.parts.has(GRAPH) and unit.parts.has(RECALL)
        }
        self._read_shared()
        self._curves.retain(graphs.keys())
        self._note_new(graphs)
        to_measure = self._to_measure
        if to_measure:
            number, waiting = next(iter(to_measure.items()))
            self._measure_kept(graphs[number], waiting, deadline)
            if not waiting:
                del to_measure[number]
            self._publish()
        elif (samples := self._tap.drain()) and graphs:
            self._measure(snapshot, graphs, samples, deadline)
            self._publish()
            self._complain()
        return bool(self._to_measure) or self._tap.has_samples()

    def _read_shared(self) -> None:
        if self._store is not None:
            with contextlib.suppress(VecdbError), self._store.environment.read() as transaction:
                self._curves.read(self._store, transaction)

    def _publish(self) -> None:
        """Let searches use what was measured; if they do, share it with other processes."""
        if not self._curves.publish() or self._store is None:
            return
        try:
            self._curves.share(self._store)
        except NotFoundError:
            raise
        except VecdbError as error:
            _log.warning("could not share the measured recall of %s: %s", self._name(), error)

    def _note_new(self, graphs: dict[int, SearchUnit]) -> None:
        """Note the graphs that were never measured, to measure them with the queries kept."""
        with self._kept_lock:
            kept = list(self._kept)
        for number in set(self._to_measure) - set(graphs):
            del self._to_measure[number]
        for number in graphs:
            if kept and not self._curves.has(number) and number not in self._to_measure:
                self._to_measure[number] = list(kept)

    def _measure_kept(self, unit: SearchUnit, waiting: list[Floats], deadline: Deadline) -> None:
        """Measure a graph with some of the queries that wait, and remove these from the list."""
        queries = np.array(waiting[:SAMPLES_MAX])
        true = self._searcher.scan(unit, queries, BANDS[-1], deadline)
        self._measure_curve(unit, queries, true, deadline)
        del waiting[:SAMPLES_MAX]

    def _measure(
        self,
        snapshot: Snapshot,
        graphs: dict[int, SearchUnit],
        samples: Sequence[Sample],
        deadline: Deadline,
    ) -> None:
        """Add samples to the history and to the curves of the graphs."""
        queries = np.array([sample.query for sample in samples])
        k = max(BANDS[-1], *(sample.k for sample in samples))
        exact = [self._searcher.scan(unit, queries, k, deadline) for unit in snapshot.units]
        outside = []
        if not snapshot.holds_all:
            outside.append(self._searcher.scan_unread(snapshot, queries, k, deadline)[0])
        for place, sample in enumerate(samples):
            self._compare(snapshot, sample, place, exact, outside, deadline)
        for unit, found in zip(snapshot.units, exact, strict=True):
            if unit.number in graphs:
                self._measure_curve(unit, queries, found, deadline)
        with self._kept_lock:
            self._kept.extend(sample.query for sample in samples)
            most = max(QUERIES_MIN, min(_KEPT_MAX, _KEPT_BYTES_MAX // queries[0].nbytes))
            while len(self._kept) > most:
                self._kept.popleft()

    def _compare(
        self,
        snapshot: Snapshot,
        sample: Sample,
        place: int,
        exact: Sequence[Found],
        outside: Sequence[Found],
        deadline: Deadline,
    ) -> None:
        """Add the recall of one sample, number ``place`` of the exact results, to the history.

        If a graph without a curve is walked too, nothing was promised.
        """
        plan = self._searcher.planner.plan(snapshot, sample.k, sample.wish)
        if plan.recall is None:
            return
        true = [_scores(found, place) for found in (*exact, *outside)]
        got = list(true)
        for number, (unit, way) in enumerate(zip(snapshot.units, plan.units, strict=True)):
            if way.walks:
                query = sample.query[None]
                got[number] = _scores(self._searcher.walk(unit, way, query, sample.k, deadline), 0)
        nearest = np.sort(np.concatenate(true))[: sample.k]
        if len(nearest):
            found = np.sort(np.concatenate(got))[: sample.k]
            recall = float((found <= nearest[-1]).sum()) / len(nearest)
            self._history.add(self._clock(), recall, len(nearest), sample.wish.target)

    def _measure_curve(
        self, unit: SearchUnit, queries: Floats, true: Found, deadline: Deadline
    ) -> None:
        """Walk a graph at all efforts, and add the recall of each query to its curve."""
        assert unit.number is not None
        curve = self._curves.of(unit.number)
        for place in range(len(queries)):
            recalls = np.ones(curve.efforts.shape)
            for band, most in enumerate(BANDS):
                k = min(most, int(true.counts[place]))
                if k:
                    recalls[band] = self._recalls(
                        unit, queries[place : place + 1], k, true.scores[place, k - 1],
                        curve.efforts[band], deadline,
                    )  # fmt: skip
            curve.add(recalls)

    def _recalls(
        self,
        unit: SearchUnit,
        query: Floats,
        k: int,
        true: np.float32,
        efforts: npt.NDArray[np.float64],
        deadline: Deadline,
    ) -> npt.NDArray[np.float64]:
        """Return the recall of one query at each effort, float64 (efforts,).

        If all is found, or most of the graph was visited, greater efforts are not tried.
        """
        recalls = np.empty(len(efforts))
        for number, effort in enumerate(efforts.tolist()):
            if self._is_dot:
                way = UnitPlan(True, int(effort))
            else:
                way = UnitPlan(True, max(EF_CAP, 4 * k), effort, ef_far=checks.check_ef(None, k))
            found = self._searcher.walk(unit, way, query, k, deadline)
            recalls[number:] = float((_scores(found, 0) <= true).sum()) / k
            if recalls[number] >= 1 or found.visited[0] > VISITED_MAX * unit.count:
                break
        return recalls

    def _complain(self) -> None:
        """Log a recall below what was promised, at most once an hour, and measure again."""
        now, hour = self._clock(), self.hour()
        if hour is None or hour.queries < QUERIES_MIN or hour.high >= hour.promised:
            return
        if self._logged_at is not None and now - self._logged_at < HOUR_S:
            return
        self._logged_at = now
        _log.warning(
            "collection %s: recall %.3f (%.3f to %.3f, %d queries of the last hour) is below the "
            "promised %.3f; its graphs are recalibrated with real queries",
            self._name(), hour.measured, hour.low, hour.high, hour.queries, hour.promised,
        )  # fmt: skip
        with self._kept_lock:
            kept = len(self._kept)
        self._curves.measure_again(kept)


def _scores(found: Found, place: int) -> Floats:
    """Return the scores of one query, ascending."""
    scores: Floats = found.scores[place, : found.counts[place]]
    return scores
