"""The links of a graph as plain arrays: hnswlib's file becomes them, kernels walk on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Graph", "reordered"]


@dataclass(frozen=True)
class Graph:
    """An HNSW graph of n nodes; node i is row i of the vectors that it was built from.

    Attributes:
        links: int32 (n, 2M), neighbours on level 0, padded at the end with -1.
        upper_offsets: int32 (n + 1,); node i has upper_offsets[i + 1] - upper_offsets[i] levels
            above 0.
        upper_links: int32 (u, M); neighbours of node i on level L are row upper_offsets[i] + L - 1.
        entry: node where a search begins, -1 if n is 0.
        top_level: its level, counted from 0; -1 if n is 0.
    """

    links: npt.NDArray[np.int32]
    upper_offsets: npt.NDArray[np.int32]
    upper_links: npt.NDArray[np.int32]
    entry: int
    top_level: int


def reordered(graph: Graph, order: npt.NDArray[np.int64]) -> Graph:
    """The same graph with node ``order[i]`` called i."""
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)

    def renamed(links: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return np.where(links >= 0, place[links], np.int32(-1))

    levels = np.diff(graph.upper_offsets)[order]
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(levels, dtype=np.int32)])
    starts = graph.upper_offsets[:-1][order]
    sources = np.repeat(starts - offsets[:-1], levels) + np.arange(offsets[-1], dtype=np.int64)
    return Graph(
        renamed(graph.links[order]),
        offsets.astype(np.int32),
        renamed(graph.upper_links[sources]),
        int(place[graph.entry]) if graph.entry >= 0 else -1,
        graph.top_level,
    )
