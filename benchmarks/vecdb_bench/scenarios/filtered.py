"""Searches with a condition, one query a call, by the share of the rows that fulfil it.

Each row has two integer fields from 0 to a million:

    independent   a random number
    correlated    the place of the row along the direction in which the rows vary most; conditions
                  ask for the end of it that is farther from the query

A condition is a range of a field. It is new in each call ("cold"), or the same again and again
("warm": one range for each end). For each condition the effort of a target is raised until recall
against the true neighbours among the matching rows reaches ``RECALL``; a target that aims at a
recall is asked with its own default. Speeds are then measured at that effort, round by round, with
the targets in turns. Without a condition, all targets are measured in the same way.

"scan" is the speed of vecdb's exact search of the matches, with new conditions.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb_bench.data.dataset import SEED, Dataset
from vecdb_bench.data.truth import NeighboursAmong, recall
from vecdb_bench.figures import latency_figures, summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.process import WorkerProcess
from vecdb_bench.targets.registry import TARGETS

__all__ = ["CONDITIONS", "NONE", "PASSING", "TITLE", "run"]

TITLE = "Searches with a filter"
RECALL = 0.95
K = 10
NONE = "none"
CONDITIONS = ("independent", "correlated")
PASSING = (90.0, 50.0, 20.0, 10.0, 5.0, 1.0, 0.1)
"""Shares of the rows that fulfil a condition, in percent."""
SCANNED = "vecdb"
"""The target whose exact searches are measured, too."""

_VALUES = 1_000_000
_COMPARED = 200
"""Calls whose answers are compared with the truth."""
_SAMPLE = 20_000
_FIRST_ROUND, _SCANS = 100, 200
"""Numbers of the conditions of rounds, and of scans, after those of efforts."""

Bounds = npt.NDArray[np.int64]


class _Point(NamedTuple):
    condition: str
    passing: float


_POINTS = (
    _Point(NONE, 100.0),
    *(_Point(condition, share) for condition in CONDITIONS for share in PASSING),
)


def run(context: Context) -> None:
    """Load the targets that lack a point, and measure these, one condition after the other."""
    wanted = [name for name in context.targets if _lacks(context, name)]
    if not wanted:
        return
    with Bench(context) as bench:
        rows = _Rows(context.dataset)
        files = {name: bench.array_file(values) for name, values in rows.fields.items()}
        workers: dict[str, WorkerProcess] = {}
        for target in wanted:
            with context.attempt(target, what="load"):
                context.say(f"{target}: loading {len(context.dataset.base):,} rows")
                worker = bench.opened(target, fields=tuple(files))
                loaded = bench.load(worker, len(context.dataset.base), fields=files)
                context.record(target, {"what": "load"}, dict(loaded))
                workers[target] = worker
        for point in _POINTS:
            _Measuring(context, bench, rows, point, workers).run()


def _lacks(context: Context, target: str) -> bool:
    known = context.known(target, what="load")
    if known is not None and known["status"] == "cannot":
        return False
    return any(_missing_ways(context, target, point) for point in _POINTS)


def _ways(target: str, point: _Point) -> tuple[str, ...]:
    if point.condition == NONE:
        return ("warm",)
    return ("cold", "warm", "scan") if target == SCANNED else ("cold", "warm")


def _key(point: _Point, way: str) -> dict[str, Any]:
    return {"condition": point.condition, "passing_percent": point.passing, "way": way}


def _missing_ways(context: Context, target: str, point: _Point) -> list[str]:
    ways = _ways(target, point)
    return [way for way in ways if context.known(target, **_key(point, way)) is None]


class _Rows:
    """The fields of the rows, conditions on them, and the truth."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._truths: dict[tuple[_Point, int, bool], npt.NDArray[np.float64]] = {}
        direction = self._direction()
        places = np.asarray(dataset.base) @ direction
        if dataset.metric == "cosine":
            places = places / np.linalg.norm(dataset.base, axis=1)
        rank = np.empty(len(places), np.int64)
        rank[np.argsort(places, kind="stable")] = np.arange(len(places))
        random = np.random.default_rng(SEED)
        self.fields = {
            "independent": random.integers(0, _VALUES, len(places)),
            "correlated": rank * _VALUES // len(places),
        }
        asked = np.asarray(dataset.queries) @ direction
        if dataset.metric == "cosine":
            asked = asked / np.linalg.norm(dataset.queries, axis=1)
        self._is_low = asked < np.median(places)

    def _direction(self) -> npt.NDArray[np.float32]:
        """Return the direction in which rows vary most: the first principal component."""
        sample = np.array(self._dataset.base[:_SAMPLE], np.float64)
        if self._dataset.metric == "cosine":
            sample /= np.linalg.norm(sample, axis=1, keepdims=True)
        sample -= sample.mean(axis=0)
        return np.asarray(np.linalg.eigh(sample.T @ sample)[1][:, -1], np.float32)

    def bounds(self, point: _Point, number: int, *, repeated: bool) -> Bounds:
        """Return the bounds of each query's condition, int64 (q, 2).

        Args:
            number: other bounds for each number. repeated: the same for all queries, or for all on
                the same side.
        """
        queries = len(self._is_low)
        if point.condition == NONE:
            return np.zeros((queries, 2), np.int64)
        place = CONDITIONS.index(point.condition), PASSING.index(point.passing)
        random = np.random.default_rng([SEED, *place, number, repeated])
        width = round(_VALUES * point.passing / 100)
        room = _VALUES - width
        if point.condition == "correlated":
            room //= 10  # Near the end; enough for other bounds each time.
        offsets = random.choice(room, queries, replace=room < queries)
        if repeated:
            offsets[:] = offsets[0]
        low = offsets
        if point.condition == "correlated":
            low = np.where(self._is_low, _VALUES - width - offsets, offsets)
        return np.stack([low, low + width], axis=1).astype(np.int64)

    def recall(
        self,
        point: _Point,
        asked: tuple[int, bool],
        bounds: Bounds,
        found: npt.NDArray[np.int64],
    ) -> tuple[float, int]:
        """Return the recall of answers to the first queries, and how many rows of them do not
        fulfil their conditions.

        Args:
            asked: number and repetition that ``bounds`` are of.
        """
        dataset, count = self._dataset, min(len(found), _COMPARED)
        kept, wrong = found.copy(), 0
        if point.condition != NONE:
            inside = self._matches(point, found, bounds[: len(found)])
            wrong = int(((found >= 0) & ~inside).sum())
            kept[~inside] = -1
        truth, queries = self._truth(point, asked, bounds)[:count], dataset.queries[:count]
        shares = recall(kept[:count], dataset.base, queries, dataset.metric, truth, K)
        return float(shares.mean()), wrong

    def _matches(
        self, point: _Point, found: npt.NDArray[np.int64], bounds: Bounds
    ) -> npt.NDArray[np.bool_]:
        values = self.fields[point.condition][found]
        inside: npt.NDArray[np.bool_] = (values >= bounds[:, :1]) & (values < bounds[:, 1:])
        return inside & (found >= 0)

    @cached_property
    def _among(self) -> NeighboursAmong:
        dataset = self._dataset
        return NeighboursAmong(dataset.base, dataset.queries[:_COMPARED], dataset.metric)

    def _truth(
        self, point: _Point, asked: tuple[int, bool], bounds: Bounds
    ) -> npt.NDArray[np.float64]:
        if point.condition == NONE:
            return self._dataset.distances
        key = (point, *asked)
        known = self._truths.get(key)
        if known is None:
            values = self.fields[point.condition]
            known = np.stack(
                [
                    self._among.distances(
                        query, np.flatnonzero((values >= low) & (values < high)), K
                    )
                    for query, (low, high) in enumerate(bounds[:_COMPARED].tolist())
                ]
            )
            self._truths[key] = known
        return known


class _Answered(NamedTuple):
    recall: float
    wrong: int
    seconds: npt.NDArray[np.float64]


class _Measuring:
    """Measures one condition with all targets that lack it."""

    def __init__(
        self,
        context: Context,
        bench: Bench,
        rows: _Rows,
        point: _Point,
        workers: dict[str, WorkerProcess],
    ) -> None:
        self._context, self._bench, self._rows, self._point = context, bench, rows, point
        self._workers = workers
        self._files: dict[tuple[int, bool], tuple[Bounds, str]] = {}

    def run(self) -> None:
        context, point = self._context, self._point
        efforts: dict[str, int] = {}
        for target in self._workers:
            if target not in context.failed and _missing_ways(context, target, point):
                context.say(f"{target}: {point.condition}, {point.passing:g} %")
                with context.attempt(target, **_key(point, _ways(target, point)[0])):
                    efforts[target] = self._least_effort(target)
        seen: dict[tuple[str, str], list[_Answered]] = {}
        for number in range(context.scale.rounds):
            for target, effort in efforts.items():
                for way in _missing_ways(context, target, point):
                    if target not in context.failed:
                        with context.attempt(target, **_key(point, way)):
                            answered = self._answered(target, effort, number, way)
                            seen.setdefault((target, way), []).append(answered)
        for (target, way), rounds in seen.items():
            if target not in context.failed and len(rounds) == context.scale.rounds:
                context.record(target, _key(point, way), _figures(rounds, efforts[target]))

    def _least_effort(self, target: str) -> int:
        """Return the least effort that reaches the recall, otherwise the greatest."""
        if TARGETS[target].aims_at_recall:
            return 0
        efforts = [each for each in self._context.scale.efforts if each >= K]
        for number, effort in enumerate(efforts):
            found = self._search(target, effort, number, repeated=self._point.condition == NONE)
            if found.recall >= RECALL:
                return effort
        return efforts[-1]

    def _answered(self, target: str, effort: int, number: int, way: str) -> _Answered:
        number += _SCANS if way == "scan" else _FIRST_ROUND
        return self._search(target, effort, number, repeated=way == "warm", scan=way == "scan")

    def _search(
        self, target: str, effort: int, number: int, *, repeated: bool, scan: bool = False
    ) -> _Answered:
        point, bench = self._point, self._bench
        asked = number, repeated
        if asked not in self._files:
            made = self._rows.bounds(point, number, repeated=repeated)
            self._files[asked] = made, bench.array_file(made)
        bounds, path = self._files[asked]
        found, took = (str(bench.folder / f"{what}.npy") for what in ("found", "took"))
        self._workers[target].call(
            "where",
            queries=bench.queries,
            field="" if point.condition == NONE else point.condition,
            bounds=path,
            k=K,
            effort=effort,
            seconds=self._context.scale.seconds,
            found=found,
            took=took,
            warm=repeated,
            scan=scan,
        )
        share, wrong = self._rows.recall(point, asked, bounds, np.load(found))
        return _Answered(share, wrong, np.load(took))


def _figures(rounds: list[_Answered], effort: int) -> dict[str, Any]:
    latencies = latency_figures(np.concatenate([each.seconds for each in rounds]))
    return {
        "effort": effort,
        "recall_10": float(np.mean([each.recall for each in rounds])),
        "queries_per_s": summary([len(each.seconds) / each.seconds.sum() for each in rounds]),
        "p50_ms": latencies["p50_ms"],
        "p99_ms": latencies["p99_ms"],
        "calls": latencies["calls"],
        "rows_that_do_not_match": sum(each.wrong for each in rounds),
    }
