"""What walk and scan have in common: the delete bitmap, and checks of their arguments.

A **delete bitmap** is uint8: bit i & 7 of byte i >> 3 is set if row i is deleted. It is empty if no
row is. Without these checks a wrong argument would read or write outside an array, since compiled
code checks no bounds.
"""
# numba infers the types of compiled functions.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from vecdb.engine.kernels.compiling import inlined
from vecdb.engine.kernels.instructions import LANES

__all__ = ["check_results", "check_shapes", "is_deleted"]


@inlined
def is_deleted(dead, node):
    """Return the bit of a row in a delete bitmap that is not empty."""
    return (dead[node >> 3] >> np.uint8(node & 7)) & np.uint8(1) != 0


@inlined
def check_shapes(vectors, stop, dead, queries):
    """Raise ValueError unless vectors and queries are equally wide and the bitmap has stop bits."""
    n, width = vectors.shape
    if (
        n >= 1 << 31
        or width % LANES != 0
        or queries.shape[1] != width
        or 0 < dead.shape[0] < (stop + 7) >> 3
    ):
        raise ValueError("kernels: vectors, dead and queries that don't belong together")


@inlined
def check_results(first, last, k, queries, scores, nodes, counts):
    """Raise ValueError unless there are queries first to last - 1, and room for k results each."""
    if first < 0 or last > min(queries.shape[0], scores.shape[0], nodes.shape[0], counts.shape[0]):
        raise ValueError("kernels: queries past the end of the arrays")
    if k > min(scores.shape[1], nodes.shape[1]):
        raise ValueError("kernels: k past the end of the arrays")
