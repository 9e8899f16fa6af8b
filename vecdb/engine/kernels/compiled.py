"""All kernels under one name: the module that ``load_kernels`` returns.

Importing it compiles the kernels or reads them from numba's cache. In reading order:

    compiling     how a function becomes a kernel
    instructions  what numba does not emit: sums over rows, prefetching
    byte_instructions  the same for bytes
    distance      scores, preparation of vectors
    inputs        the delete bitmap, checks of arguments
    candidates    (score, node) as one integer
    best_first    the walk of level 0, and its memory
    walk          nearest rows through a graph, scored in float32
    sketches      scores by sketches
    sketch_walk   nearest rows through a graph, ordered by sketches
    single        one query of one segment, from the vector as given to ids
    scan          exact nearest rows
    byte_codes    lower bounds of scores by codes of 8 bits
    code_scan     exact nearest rows, most of them ruled out by such bounds
    node_scan     nearest rows of some nodes
    code_ranges   nodes whose code is in a range
    single_matching  as single, for rows that match a filter
    build_codes   codes of 8 bits, on which graphs are built
    build         links of a batch of rows
    lists         work on whole graphs and segments
"""

from __future__ import annotations

from typing import Final

# numba imports it when a kernel first gets a read-only array, in the middle of a call.
import numpy.ma  # noqa: F401

from vecdb.engine.kernels.best_first import NO_GAMMA, Scratch
from vecdb.engine.kernels.build import find_links, link_back
from vecdb.engine.kernels.build_codes import encode_for_build
from vecdb.engine.kernels.byte_codes import BLOCK_ROWS, encode_rows
from vecdb.engine.kernels.code_ranges import count_in_range, mark_range
from vecdb.engine.kernels.code_scan import scan_by_codes, scan_codes
from vecdb.engine.kernels.distance import EUCLIDEAN, INNER, prepare_rows
from vecdb.engine.kernels.instructions import LANES
from vecdb.engine.kernels.lists import find_levels, hash_rows, relink_lists
from vecdb.engine.kernels.node_scan import (
    list_live,
    mask_others,
    scan_nodes,
    scan_nodes_by_sketches,
    scan_sketches,
)
from vecdb.engine.kernels.scan import scan_rows, sort_heaps
from vecdb.engine.kernels.single import COSINE, DOT, SQUARED, find_by_graph, find_by_sketches
from vecdb.engine.kernels.single_matching import FOUND, NO_LIST, find_matching
from vecdb.engine.kernels.sketch_walk import (
    effort_by_sketches,
    rank_by_sketch,
    walk_by_sketches,
    walk_sketches,
)
from vecdb.engine.kernels.walk import walk, walk_graph

__all__ = [
    "BLOCK_ROWS",
    "COSINE",
    "DOT",
    "EUCLIDEAN",
    "FOUND",
    "INNER",
    "KERNELS",
    "LANES",
    "NO_GAMMA",
    "NO_LIST",
    "SQUARED",
    "Scratch",
    "count_in_range",
    "effort_by_sketches",
    "encode_for_build",
    "encode_rows",
    "find_by_graph",
    "find_by_sketches",
    "find_levels",
    "find_links",
    "find_matching",
    "hash_rows",
    "link_back",
    "list_live",
    "mark_range",
    "mask_others",
    "prepare_rows",
    "rank_by_sketch",
    "relink_lists",
    "scan_by_codes",
    "scan_codes",
    "scan_nodes",
    "scan_nodes_by_sketches",
    "scan_rows",
    "scan_sketches",
    "sort_heaps",
    "walk",
    "walk_by_sketches",
    "walk_graph",
    "walk_sketches",
]

KERNELS: Final = (
    *(walk_graph, walk_sketches, rank_by_sketch, scan_rows, sort_heaps, prepare_rows),
    *(find_levels, hash_rows, relink_lists, find_by_graph, find_by_sketches),
    *(encode_rows, scan_codes, scan_nodes, scan_sketches, list_live, mask_others),
    *(encode_for_build, find_links, link_back, count_in_range, mark_range, find_matching),
)
"""All kernels. Each has one signature; a test checks that no call adds another."""
