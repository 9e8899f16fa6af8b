"""True neighbours by brute force, and recall that counts ties.

A blocked float32 product selects slightly more candidates than needed. These are compared in
float64, term by term, so that the result depends neither on BLAS nor on the number of threads.
Distances are those of vecdb: 1 - cos, Euclidean distance, negated dot product.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vecdb.errors import InvalidArgumentError

__all__ = ["METRICS", "NeighboursAmong", "distances_to", "recall", "true_neighbours"]

METRICS = ("cosine", "euclidean", "dot")

Floats = npt.NDArray[np.float32]

_SPARE = 28
"""Extra candidates, which compensate for rounding of the float32 product."""
_BLOCK_BYTES = 256 * 1024**2
TIE = 1e-6
"""Relative tolerance: a row this much farther than the k-th true one ties with it in float32."""


def true_neighbours(
    base: Floats,
    queries: Floats,
    metric: str,
    k: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the k nearest rows of each query, ordered by (distance, row).

    Args:
        base: float32, shape (n, dim). queries: float32, shape (q, dim).
        metric: "cosine", "euclidean" or "dot".
        progress: called with the number of queries done.

    Returns:
        rows int64 and distances float64, both of shape (q, min(k, n)).

    Raises:
        InvalidArgumentError: the metric is unknown.
    """
    if metric not in METRICS:
        raise InvalidArgumentError(f"metric {metric!r}, expected one of {METRICS}", "BAD_METRIC")
    count = min(k, len(base))
    wide = min(count + _SPARE, len(base))
    rows = np.empty((len(queries), count), np.int64)
    distances = np.empty((len(queries), count), np.float64)
    keys = _Keys(base, metric)
    step = max(1, _BLOCK_BYTES // (4 * len(base)))
    for first in range(0, len(queries), step):
        part = queries[first : first + step]
        scores = keys.scores(part)
        if wide < len(base):
            candidates = np.argpartition(scores, wide - 1, axis=1)[:, :wide]
        else:
            candidates = np.broadcast_to(np.arange(len(base)), scores.shape)
        for at, (query, near) in enumerate(zip(part, candidates, strict=True), first):
            exact = distances_to(base, query, near, metric)
            order = np.lexsort((near, exact))[:count]
            rows[at], distances[at] = near[order], exact[order]
        progress(min(first + step, len(queries)))
    return rows, distances


class NeighboursAmong:
    """Finds the true neighbours of the same queries again and again, each time among some rows.

    Holds a float32 score for each pair of a query and a row.
    """

    def __init__(self, base: Floats, queries: Floats, metric: str) -> None:
        self._base, self._queries, self._metric = base, queries, metric
        self._scores = _Keys(base, metric).scores(queries)

    def distances(
        self, query: int, rows: npt.NDArray[np.integer], k: int
    ) -> npt.NDArray[np.float64]:
        """Return the distances of the k nearest of some rows to a query, ascending, float64 (k,);
        infinity beyond the last row."""
        found = np.full(k, np.inf)
        near, wide = rows, k + _SPARE
        if wide < len(rows):
            near = rows[np.argpartition(self._scores[query][rows], wide - 1)[:wide]]
        exact = np.sort(distances_to(self._base, self._queries[query], near, self._metric))[:k]
        found[: len(exact)] = exact
        return found


class _Keys:
    """Computes float32 scores that order rows as the metric does; smaller is nearer."""

    def __init__(self, base: Floats, metric: str) -> None:
        self._metric = metric
        self._base = base
        if metric == "cosine":
            norms = np.linalg.norm(base, axis=1, keepdims=True)
            self._base = base / np.maximum(norms, np.finfo(np.float32).tiny)
        elif metric == "euclidean":
            self._squares = np.einsum("ij,ij->i", base, base)

    def scores(self, queries: Floats) -> Floats:
        products: Floats = queries @ self._base.T
        if self._metric == "euclidean":
            products *= -2
            products += self._squares
        else:
            np.negative(products, out=products)
        return products


def distances_to(
    base: Floats, query: Floats, rows: npt.NDArray[np.integer], metric: str
) -> npt.NDArray[np.float64]:
    """Return the distances of one query to the given rows, in float64.

    Args:
        base: float32, shape (n, dim).
        query: float32, shape (dim,). rows: integers, shape (r,).

    Returns:
        float64, shape (r,).
    """
    near, asked = base[rows].astype(np.float64), query.astype(np.float64)
    if metric == "euclidean":
        squares: npt.NDArray[np.float64] = np.square(near - asked).sum(axis=1)
        return np.sqrt(squares)
    products: npt.NDArray[np.float64] = (near * asked).sum(axis=1)
    if metric == "dot":
        return -products
    norms: npt.NDArray[np.float64] = np.sqrt(np.square(near).sum(axis=1) * np.square(asked).sum())
    return 1.0 - products / np.maximum(norms, float(np.finfo(np.float64).tiny))


def recall(
    found: npt.NDArray[np.integer],
    base: Floats,
    queries: Floats,
    metric: str,
    true_distances: npt.NDArray[np.floating],
    k: int,
) -> npt.NDArray[np.float64]:
    """Return the share of the k true neighbours in each answer; ties with the k-th count.

    Distances are computed from ``base``, not taken from the target. A row that occurs twice in an
    answer counts once; -1 (no hit) does not count.

    Args:
        found: rows of ``base``, shape (q, at least k); -1 for none.
        true_distances: ascending, shape (q, at least min(k, n)); infinity beyond the last row
            where fewer rows count, as with a filter.

    Returns:
        float64, shape (q,), each 0 to 1.
    """
    shares = np.empty(len(found))
    for at, (answer, query) in enumerate(zip(found[:, :k], queries, strict=True)):
        rows = np.unique(answer[(answer >= 0) & (answer < len(base))])
        possible = int(np.isfinite(true_distances[at, : min(k, len(base))]).sum())
        if possible == 0:
            shares[at] = 1.0
            continue
        limit = true_distances[at, possible - 1]
        # The rounding error of 1 - cos depends on its terms, not on their difference.
        limit += TIE * max(abs(limit), 1.0 if metric == "cosine" else 0.0)
        near = distances_to(base, query, rows, metric) <= limit
        shares[at] = min(int(near.sum()), possible) / possible
    return shares
