"""The links of a graph as plain arrays, read from hnswlib's file and walked by the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Graph"]


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
    """

    links: npt.NDArray[np.int32]
    upper_offsets: npt.NDArray[np.int32]
    upper_links: npt.NDArray[np.int32]
    entry: int
    top_level: int
