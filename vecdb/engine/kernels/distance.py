"""Scores of pairs of vectors, and the preparation of vectors for them.

    pair_score    the score of a row for a query
    prepare_rows  vectors as given -> padded to whole cache lines, of unit length under cosine

A **score** is smaller for nearer rows: the squared Euclidean distance, or the negated inner
product. Every kernel computes it by ``pair_score``, which always adds in the same order, so a pair
has the same score, bit for bit, in all kernels. Equal scores are ordered by row number.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from vecdb.engine.kernels.compiling import FLOATS, inlined, kernel, written
from vecdb.engine.kernels.instructions import inner_product, squared_distance

__all__ = ["EUCLIDEAN", "INNER", "pair_score", "prepare_rows"]

EUCLIDEAN: Final = 0
"""Metric code: the score is the squared Euclidean distance."""
INNER: Final = 1
"""Metric code: the score is the negated inner product."""


@inlined
def pair_score(vectors, node, queries, query, metric):
    """Return the score of one row for one query. No other function computes scores."""
    if metric == INNER:
        return np.float32(0) - inner_product(vectors, node, queries, query)  # 0 - x is never -0.
    return squared_distance(vectors, node, queries, query)


@kernel(types.void(FLOATS, written(types.float32, 2), types.boolean))  # fmt: skip
def prepare_rows(raw, out, normalise):
    """Copy raw to out, padded with zeros; divide each row by its length if normalise.

    Args:
        raw: float32 (n, dim).
        out: float32 (n, width), written; width at least dim.
        normalise: scale rows to unit length; a row of zeros is left unchanged. Lengths are computed
            in float64, where the square of a float32 neither overflows nor underflows.
    """
    n, dim = raw.shape
    if out.shape[0] != n or out.shape[1] < dim:
        raise ValueError("prepare_rows: arrays that don't belong together")
    for i in range(n):
        length = 1.0
        if normalise:
            square = 0.0
            for j in range(dim):
                square += np.float64(raw[i, j]) * np.float64(raw[i, j])
            length = np.sqrt(square) if square > 0.0 else 1.0
        for j in range(dim):
            out[i, j] = np.float32(np.float64(raw[i, j]) / length)
        out[i, dim:] = np.float32(0)
