"""How many candidates must be scored again, so that coded distances lose next to nothing.

Some stored rows are taken for queries, each as if it were not stored itself. Their true nearest
rows are found exactly; the places of these rows in the order of the sketches say how many
candidates a search has to score again. If it takes too many, the sketches are too coarse for these
rows: more lines are tried, or the segment does without sketches.

A row with copies would find these first, whatever the sketches are like. So the middle between it
and a row nearby is taken instead. If the sketches of two rows are mistaken for each other, those of
all their copies are: the more copies there are, the more candidates are scored again.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.segments.codecs.sketch import Sketch
from vecdb.types import Metric

__all__ = ["nearest_rows", "rescored_by_trial", "scanned"]

_QUERIES: Final = 150
_SCORED_MAX: Final = 2**25
"""Most pairs of a query and a row that are compared: a second or two; fewer queries if need be."""

_QUERIES_MIN: Final = 40
_LOST_MAX: Final = 0.000_7
"""Share of the true neighbours that may lie behind the candidates scored again."""

_BANDS: Final = (1, 10, 100)
_TOO_MANY: Final = (40, 100, 500)
"""Candidates to score again, by band of k, from which sketches don't pay."""

_COPIES_QUANTILE: Final = 0.9

_SEED: Final = 11


def scanned(
    vectors: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    k: int,
    metric: Metric,
    delete_bitmap: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return nodes and scores of the k rows nearest to each query, by comparing all that are live.

    Returns:
        int64 and float32 (q, k), ascending by score.
    """
    kernels = load_kernels()
    code = kernels.EUCLIDEAN if metric is Metric.EUCLIDEAN else kernels.INNER
    count, found = len(queries), np.zeros(len(queries), np.int64)
    scores, nodes = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
    kernels.scan_rows(
        vectors, delete_bitmap, 0, len(vectors), queries, 0, count, code, k, scores, nodes, found
    )
    kernels.sort_heaps(scores, nodes, found, 0, count)
    return nodes, scores


def nearest_rows(
    vectors: npt.NDArray[np.float32], chosen: npt.NDArray[np.int64], k: int, metric: Metric
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return nodes and scores of the k rows nearest to each chosen row, itself left out.

    Args:
        vectors: float32 (n, width). chosen: int64 (q,), nodes. k: less than n.

    Returns:
        int64 and float32 (q, k), ascending by score.
    """
    return _nearest(vectors, np.ascontiguousarray(vectors[chosen]), chosen, k, metric)


def _nearest(
    vectors: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    left_out: npt.NDArray[np.int64],
    k: int,
    metric: Metric,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return nodes and scores of the k rows nearest to each query, but one node; -1 for none."""
    count = len(queries)
    nodes, scores = scanned(vectors, queries, k + 1, metric, np.zeros(0, np.uint8))
    own = nodes == left_out[:, None]
    own[~own.any(axis=1), -1] = True  # Behind k + 1 equal or nearer rows: drop the last instead.
    return nodes[~own].reshape(count, k), scores[~own].reshape(count, k)


def _trial_queries(
    vectors: npt.NDArray[np.float32], chosen: npt.NDArray[np.int64], k: int, metric: Metric
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Return queries float32 (q, width), the node that each leaves out or -1, the k rows nearest
    to each, and how often a row is stored, at least once: a high quantile."""
    queries, left_out = np.ascontiguousarray(vectors[chosen]), chosen.copy()
    nodes, _ = nearest_rows(vectors, chosen, k, metric)
    equal = [(vectors[near] == row).all(axis=1) for near, row in zip(nodes, queries, strict=True)]
    copies = 1 + np.array(equal).sum(axis=1)
    copied = np.flatnonzero(copies > 1)
    if len(copied):
        queries[copied] = (queries[copied] + vectors[nodes[copied, -1]]) / 2
        left_out[copied] = -1
        nodes[copied], _ = _nearest(vectors, queries[copied], left_out[copied], k, metric)
    return queries, left_out, nodes, int(np.quantile(copies, _COPIES_QUANTILE))


def rescored_by_trial(
    vectors: npt.NDArray[np.float32], sketch: Sketch, metric: Metric
) -> tuple[int, int, int] | None:
    """Return the candidates to score again for k = 1, 10, 100; None if it takes too many."""
    n = len(vectors)
    count = min(n, _QUERIES, max(_QUERIES_MIN, _SCORED_MAX // n))
    chosen = np.random.default_rng(_SEED).choice(n, count, replace=False).astype(np.int64)
    k = min(_BANDS[-1], n - 1)
    queries, left_out, nodes, copies = _trial_queries(vectors, chosen, k, metric)
    rescored = []
    for band, too_many in zip(_BANDS, _TOO_MANY, strict=True):
        near = np.ascontiguousarray(nodes[:, : min(band, k)])
        ranks = np.empty_like(near)
        load_kernels().rank_by_sketch(
            sketch.codes,
            sketch.query_mean,
            sketch.basis,
            sketch.basis_steps,
            np.float32(sketch.slope),
            queries,
            left_out,
            near,
            ranks,
        )
        lost_max = int(_LOST_MAX * ranks.size)
        needed = int(np.sort(ranks, axis=None)[ranks.size - 1 - lost_max]) + 1
        if needed > too_many:
            return None
        # Never fewer than a few more than k: the sample says little about single rows.
        rescored.append(max(needed, min(band + (4 + band // 4) * copies, too_many)))
    few, some, many = rescored
    return few, some, many
