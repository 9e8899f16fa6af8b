"""Measure which recall a graph gives at which effort, on some of its own rows.

These rows are taken out of the graph: in the lists of their neighbours their own neighbours take
their places, as in a graph that was built without them (on a copy of the links). Then each of them
is a query that the graph has never seen, of the same distribution as the rows; its true answer is
found by a scan. For queries of another distribution the recall meter measures with real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.segments.codecs.sketch import Sketch
from vecdb.engine.segments.codecs.trial import scanned
from vecdb.types import Metric

__all__ = ["BANDS", "VISITED_MAX", "efforts_of", "measured_curve"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BANDS: Final = (1, 10, 100)
"""The k for which curves are measured."""

GAMMAS: Final = (
    *(1.0, 1.03, 1.06, 1.1, 1.14, 1.18, 1.23, 1.28, 1.34, 1.4, 1.5, 1.6, 1.75, 2.0, 2.5, 3.0, 4.0),
)
EFS: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Candidates, as multiples of k, and of ``_EF_LEAST`` if that is more."""

_EF_LEAST: Final = 8

_ENOUGH: Final = 0.994
"""Lower bound of recall from which no greater effort is measured."""

_GAIN_MIN: Final = 0.000_5
"""Recall that the last two efforts must have gained for a greater one to be measured."""

_ASKED: Final = (400, 400, 100)
"""Most queries in each band. One that wants many rows says as much as several that want few."""

_ASKED_PART: Final = 10
"""At most one row in so many is asked for: the others stand for the whole graph."""

_QUERIES_MIN: Final = 100
_SCORED_MAX: Final = 2**27
"""Pairs of a query and a row that are compared exactly, unless that leaves too few queries."""

VISITED_MAX: Final = 0.3
"""Share of the rows visited by a walk from which a scan is not much slower."""

_BLOCK_NODES: Final = 65_536
_SEED: Final = 13
_FAR_QUANTILE: Final = 0.95


def measured_curve(
    vectors: Floats, graph: Graph, sketch: Sketch | None, metric: Metric, ef_cap: int
) -> tuple[Floats, int, list[float]]:
    """Return the curve, float32 (bands, efforts, 3), the number of rows asked for, and for each
    band the squared distance of the k-th row that only one in twenty exceeded."""
    n = len(vectors)
    chosen = _chosen(graph, sketch)
    truth_k = min(BANDS[-1], n - len(chosen))
    true = _true_scores(vectors, chosen, truth_k, metric)
    asked = _Asked(vectors, _without(graph, vectors, chosen, metric), sketch, metric, chosen)
    curves = []
    for band, most in zip(BANDS, _ASKED, strict=True):
        k, count = min(band, truth_k), min(most, len(chosen))

        def walk(effort: float, k: int = k, count: int = count) -> tuple[Floats, Ints]:
            if metric is Metric.DOT:
                return asked.walk(count, k, int(effort), None)
            return asked.walk(count, k, max(ef_cap, 4 * k), effort)

        curves.append(_curve(efforts_of(metric, k), walk, true[:count, k - 1 : k], n))
    length = max(map(len, curves))
    padded = [curve + curve[-1:] * (length - len(curve)) for curve in curves]
    # Of unit vectors the score is the negated product, and twice 1 + score the squared distance.
    squares = true if metric is Metric.EUCLIDEAN else 2 * (1 + true)
    far = [float(np.quantile(squares[:, min(band, truth_k) - 1], _FAR_QUANTILE)) for band in BANDS]
    return np.array(padded, np.float32), len(chosen), far


def efforts_of(metric: Metric, k: int) -> tuple[float, ...]:
    """Return the efforts to try for k rows, ascending: gammas, or efs for inner products."""
    if metric is not Metric.DOT:
        return GAMMAS
    return tuple(float(int(max(k, _EF_LEAST) * times)) for times in EFS)


def _chosen(graph: Graph, sketch: Sketch | None) -> Ints:
    """Return the nodes to ask for: none at which a walk begins, and none of an upper level."""
    n = len(graph.links)
    free = np.diff(graph.upper_offsets) == 0
    free[graph.entry] = False
    if sketch is not None:
        free[sketch.hubs[(sketch.hubs >= 0) & (sketch.hubs < n)]] = False
    count = min(max(_ASKED), max(_QUERIES_MIN, _SCORED_MAX // n), n // _ASKED_PART)
    candidates = np.flatnonzero(free)
    random = np.random.default_rng(_SEED)
    return random.choice(candidates, min(count, len(candidates)), replace=False).astype(np.int64)


def _true_scores(vectors: Floats, chosen: Ints, k: int, metric: Metric) -> Floats:
    """Return the scores of the k rows nearest to each chosen one, none of which counts."""
    queries = np.ascontiguousarray(vectors[chosen])
    return scanned(vectors, queries, k, metric, _bitmap(len(vectors), chosen))[1]


def _bitmap(n: int, nodes: Ints) -> npt.NDArray[np.uint8]:
    marks = np.zeros(n, bool)
    marks[nodes] = True
    return np.packbits(marks, bitorder="little")


def _without(graph: Graph, vectors: Floats, nodes: Ints, metric: Metric) -> Graph:
    """Return the graph with a copy of its links in which no list has one of the nodes."""
    kernels = load_kernels()
    n, links = len(graph.links), graph.links.copy()
    marks = np.zeros(n + 1, bool)
    marks[nodes] = True
    owners = []
    for start in range(0, n, _BLOCK_NODES):
        block = links[start : start + _BLOCK_NODES]
        known = np.where((block >= 0) & (block < n), block, n)
        owners.append(start + np.flatnonzero(marks[known].any(axis=1)))
    lists = np.concatenate(owners).astype(np.int64)
    relinked = np.empty((len(lists), links.shape[1]), np.int32)
    code = kernels.EUCLIDEAN if metric is Metric.EUCLIDEAN else kernels.INNER
    places = np.arange(n, dtype=np.int64)
    kernels.relink_lists(vectors, links, places, lists, _bitmap(n, nodes), code, relinked)
    # As many links as before: a list that is fuller than a build makes it would lead on too well.
    used = np.logical_and.accumulate((links[lists] >= 0) & (links[lists] < n), axis=1)
    links[lists] = np.where(used, relinked, -1)
    return replace(graph, links=links)


def _curve(
    efforts: tuple[float, ...],
    walk: Callable[[float], tuple[Floats, Ints]],
    true: Floats,
    n: int,
) -> list[tuple[float, float, float]]:
    """Return (effort, mean, standard error) for efforts until recall is high, grows no more, or a
    scan is as fast."""
    curve: list[tuple[float, float, float]] = []
    for effort in efforts:
        scores, visited = walk(effort)
        recalls = (scores <= true).mean(axis=1)
        mean = float(recalls.mean())
        curve.append((effort, mean, _error_of(recalls, scores.shape[1])))
        stalls = len(curve) > 3 and mean - curve[-3][1] < _GAIN_MIN
        high = mean - 2 * curve[-1][2] >= _ENOUGH
        if stalls or high or float(visited.mean()) > VISITED_MAX * n:
            break
    return curve


def _error_of(recalls: npt.NDArray[np.float64], k: int) -> float:
    """Return the standard error of the mean.

    It counts one more neighbour missed and one more found, so that it is not 0 if all were found.
    """
    q = len(recalls)
    share = (recalls.sum() * k + 1) / (q * k + 2)
    least = share * (1 - share) / k
    return float(np.sqrt(max(float(recalls.var()), float(least)) / q))


class _Asked:
    """The rows that are asked for, in a graph that is without them."""

    def __init__(
        self, vectors: Floats, graph: Graph, sketch: Sketch | None, metric: Metric, chosen: Ints
    ) -> None:
        self._kernels = load_kernels()
        self._vectors, self._graph, self._sketch = vectors, graph, sketch
        self._queries = np.ascontiguousarray(vectors[chosen])
        euclidean = metric is Metric.EUCLIDEAN
        self._code: int = self._kernels.EUCLIDEAN if euclidean else self._kernels.INNER
        self._shift = 0.0 if euclidean else 1.0
        self._scratch = self._kernels.Scratch()

    def walk(self, q: int, k: int, ef: int, gamma: float | None) -> tuple[Floats, Ints]:
        """Return scores, float32 (q, k), and visited nodes, int64 (q,), for the first q rows."""
        nothing = np.zeros(0, np.uint8)
        nodes, scores = np.empty((q, k), np.int64), np.full((q, k), np.inf, np.float32)
        counts, visited, deleted = (np.zeros(q, np.int64) for _ in range(3))
        results = (nodes, scores, counts, visited, deleted)
        gamma = self._kernels.NO_GAMMA if gamma is None else gamma
        if self._sketch is None:
            self._kernels.walk(
                self._scratch, self._vectors, self._graph, nothing, self._queries, 0, q,
                self._code, k, ef, *results, gamma=gamma, shift=self._shift,
            )  # fmt: skip
        else:
            self._kernels.walk_by_sketches(
                self._scratch, self._vectors, self._graph.links, self._sketch, nothing,
                self._queries, 0, q, self._code, k, ef, gamma, *results,
            )  # fmt: skip
        return scores, visited
