"""All kernels under one name: the module that ``load_kernels`` returns.

Importing it compiles the kernels or reads them from numba's cache. In reading order:

    compiling     how a function becomes a kernel
    instructions  what numba does not emit: sums over rows, prefetching
    distance      scores, preparation of vectors
    inputs        the delete bitmap, checks of arguments
    candidates    (score, node) as one integer
    walk          nearest rows through a graph
    scan          exact nearest rows
    lists         work on whole graphs and segments
"""

from __future__ import annotations

from typing import Final

from vecdb.engine.kernels.distance import EUCLIDEAN, INNER, prepare_rows
from vecdb.engine.kernels.instructions import LANES
from vecdb.engine.kernels.lists import find_levels, hash_rows, relink_lists
from vecdb.engine.kernels.scan import scan_rows, sort_heaps
from vecdb.engine.kernels.walk import Scratch, walk, walk_graph

__all__ = [
    "EUCLIDEAN",
    "INNER",
    "KERNELS",
    "LANES",
    "Scratch",
    "find_levels",
    "hash_rows",
    "prepare_rows",
    "relink_lists",
    "scan_rows",
    "sort_heaps",
    "walk",
    "walk_graph",
]

KERNELS: Final = (
    *(walk_graph, scan_rows, sort_heaps, prepare_rows, find_levels, hash_rows, relink_lists),
)
"""All kernels. Each has one signature; a test checks that no call adds another."""
