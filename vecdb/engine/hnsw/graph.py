"""The links of a graph as plain arrays, made by a builder and walked by the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["BATCHES", "HNSWLIB", "HNSWLIB_BY_TRIAL", "Graph"]

HNSWLIB: Final = "hnswlib"
HNSWLIB_BY_TRIAL: Final = "hnswlib, by trial"
BATCHES: Final = "batches"


@dataclass(frozen=True)
class Graph:
    """An HNSW graph of n nodes; node i is row i of the vectors that it was built from.

    Attributes:
        links: int32 (n, 2M), neighbours on level 0, padded at the end with -1.
        upper_offsets: int32 (n + 1,); node i has upper_offsets[i + 1] - upper_offsets[i] levels
            above 0.
        upper_links: int32 (u, M); neighbours of node i on level L are row upper_offsets[i] + L - 1.
        entry: entry point, the node where a search begins; -1 if n is 0.
        top_level: level of the entry point, counted from 0; -1 if n is 0.
        built_by: the builder of its last rows: ``HNSWLIB``, ``BATCHES``, or ``HNSWLIB_BY_TRIAL`` if
            a trial showed that hnswlib's graph is the better one. Never change these values.
    """

    links: npt.NDArray[np.int32]
    upper_offsets: npt.NDArray[np.int32]
    upper_links: npt.NDArray[np.int32]
    entry: int
    top_level: int
    built_by: str = HNSWLIB
