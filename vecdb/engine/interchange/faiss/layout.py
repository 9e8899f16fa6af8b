"""The byte layout of a FAISS index file, for writer and reader.

A file consists of nested indexes. Each begins with a fourcc and an ``INDEX_HEADER``; all numbers
are little-endian, and nothing is padded or aligned. A field called vector begins with its number of
elements (``COUNT``). We write this nest:

    IxM2  header                     ids: an index around another one
      [IxPT  header, i32 1, VNrm …]    normalises queries
        IHNf  header                   the graph, see ``level_tables``
          vector f64 assign_probas, vector i32 cum_nneighbor_per_level, vector i32 levels,
          vector u64 offsets, vector i32 neighbors, ``GRAPH_END``
          IxF2 or IxFI  header         the vectors: u64 count of floats, f32 …
    vector i64 id_map                (of IxM2, after the inner index)

A node on top level t has the number of levels t + 1. Its neighbours on level l are
``neighbors[offsets[node] + cum[l] : offsets[node] + cum[l + 1]]``, filled from the front and padded
with -1: 2M places on level 0, M above.
"""

from __future__ import annotations

import math
import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "COUNT",
    "FLAT",
    "FLAT_INNER_PRODUCT",
    "FLAT_L2",
    "GRAPH_END",
    "HNSW_FLAT",
    "ID_MAP",
    "ID_MAP_2",
    "INDEX_HEADER",
    "INNER_PRODUCT",
    "L2",
    "NORMALIZATION",
    "NORMALIZATION_BODY",
    "PRE_TRANSFORM",
    "UNUSED",
    "LevelTables",
    "level_tables",
]

ID_MAP: Final = b"IxMp"
ID_MAP_2: Final = b"IxM2"
PRE_TRANSFORM: Final = b"IxPT"
NORMALIZATION: Final = b"VNrm"
HNSW_FLAT: Final = b"IHNf"
FLAT_L2: Final = b"IxF2"
FLAT_INNER_PRODUCT: Final = b"IxFI"
FLAT: Final = b"IxFl"
"""For any metric; the header has it."""

INDEX_HEADER: Final = struct.Struct("<iqqqBi")
"""d, ntotal, ``UNUSED`` twice, is_trained (0 or 1), metric_type."""

UNUSED: Final = 1 << 20
INNER_PRODUCT: Final = 0
L2: Final = 1

COUNT: Final = struct.Struct("<Q")
GRAPH_END: Final = struct.Struct("<iiiii")
"""entry_point (-1 if empty), max_level (likewise), efConstruction, efSearch, 1 (deprecated)."""

NORMALIZATION_BODY: Final = struct.Struct("<fiiB")
"""norm (2.0), d_in, d_out, is_trained."""

_RAREST_LEVEL: Final = 1e-9


class LevelTables(NamedTuple):
    """The number of neighbours on each level, and the probability of each level.

    Attributes:
        assign_probas: float64 (levels,).
        cum_neighbors: int32 (levels + 1,), from 0: offsets of the levels in a node's neighbours.
    """

    assign_probas: npt.NDArray[np.float64]
    cum_neighbors: npt.NDArray[np.int32]


def level_tables(M: int, max_level: int) -> LevelTables:
    """Return the tables as FAISS computes them for ``M``, to the bit.

    FAISS divides in float32 and exponentiates in float64. It stops at the first level with a
    probability below one in a billion. Our tables are longer if the graph has higher levels.

    Args:
        M: 2 or more.
        max_level: highest level of the graph, from 0; -1 if it is empty.
    """
    multiplier = np.float32(1.0 / math.log(M))
    probabilities: list[float] = []
    ends = [0]
    while True:
        level = len(probabilities)
        share = 1 - math.exp(np.float32(-1.0) / multiplier)
        probability = np.float32(math.exp(np.float32(-level) / multiplier) * share)
        if probability < _RAREST_LEVEL and level > max_level:
            break
        probabilities.append(float(probability))
        ends.append(ends[-1] + (2 * M if level == 0 else M))
    return LevelTables(np.array(probabilities), np.array(ends, np.int32))
