"""Writes FAISS index files of a graph or of plain vectors; ``layout.py`` draws the bytes.

The functions are generators of pieces, so that a file of any size is written in bounded memory:
vectors, ids and neighbours are processed in blocks. Only levels and offsets of the nodes are held
completely, 12 bytes a node. ``faiss.read_index`` reads the result, and ``faiss.write_index`` then
writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.interchange.faiss import layout
from vecdb.types import Metric

__all__ = ["flat_index", "hnsw_index"]

Piece = bytes | memoryview
Vectors = Iterable[npt.NDArray[np.float32]]
Ids = Iterable[npt.NDArray[np.int64]]

_BLOCK_NODES = 16_384
"""Nodes per block of neighbours: two megabytes at M = 16."""


def hnsw_index(
    graph: Graph,
    vectors: Vectors,
    ids: Ids,
    *,
    dim: int,
    metric: Metric,
    M: int,
    ef_construction: int,
    ef_search: int,
    normalize_queries: bool = False,
) -> Iterator[Piece]:
    """Yield the pieces of an IndexIDMap2(IndexHNSWFlat).

    Args:
        graph: a graph of n nodes; its links are written unchanged.
        vectors: blocks of float32 (m, dim), n rows in total, by node. Of unit length for cosine.
        ids: blocks of int64 (m,), n in total, by node; consumed after the last of the vectors.
        dim, metric: of the vectors. Cosine and dot become the inner product, Euclidean L2.
        M, ef_construction: parameters with which the graph was built.
        ef_search: the default ef_search of the index.
        normalize_queries: put a NormalizationTransform before the graph, for cosine.
    """
    n = len(graph.links)
    head = _header(dim, n, metric)
    yield layout.ID_MAP_2 + head
    if normalize_queries:
        yield layout.PRE_TRANSFORM + head + (1).to_bytes(4, "little")
        yield layout.NORMALIZATION + layout.NORMALIZATION_BODY.pack(2.0, dim, dim, 1)
    yield layout.HNSW_FLAT + head
    tables = layout.level_tables(M, graph.top_level)
    levels = np.diff(graph.upper_offsets) + 1
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(tables.cum_neighbors[levels], out=offsets[1:])
    yield from _vector(tables.assign_probas.astype("<f8"))
    yield from _vector(tables.cum_neighbors.astype("<i4"))
    yield from _vector(levels.astype("<i4"))
    yield from _vector(offsets.astype("<u8"))
    yield layout.COUNT.pack(int(offsets[-1]))
    for first in range(0, n, _BLOCK_NODES):
        yield _bytes_of(_neighbors(graph, offsets, first, min(n, first + _BLOCK_NODES), M))
    yield layout.GRAPH_END.pack(graph.entry, graph.top_level, ef_construction, ef_search, 1)
    yield from _storage(head, n, dim, metric, vectors)
    yield from _ids(n, ids)


def flat_index(
    n: int, vectors: Vectors, ids: Ids, *, dim: int, metric: Metric, normalize_queries: bool = False
) -> Iterator[Piece]:
    """Yield the pieces of an IndexIDMap2(IndexFlat) of n rows; arguments as in ``hnsw_index``."""
    head = _header(dim, n, metric)
    yield layout.ID_MAP_2 + head
    if normalize_queries:
        yield layout.PRE_TRANSFORM + head + (1).to_bytes(4, "little")
        yield layout.NORMALIZATION + layout.NORMALIZATION_BODY.pack(2.0, dim, dim, 1)
    yield from _storage(head, n, dim, metric, vectors)
    yield from _ids(n, ids)


def _header(dim: int, n: int, metric: Metric) -> bytes:
    kind = layout.L2 if metric is Metric.EUCLIDEAN else layout.INNER_PRODUCT
    return layout.INDEX_HEADER.pack(dim, n, layout.UNUSED, layout.UNUSED, 1, kind)


def _vector(array: npt.NDArray[np.generic]) -> Iterator[Piece]:
    yield layout.COUNT.pack(array.size)
    yield _bytes_of(array)


def _storage(head: bytes, n: int, dim: int, metric: Metric, vectors: Vectors) -> Iterator[Piece]:
    euclidean = metric is Metric.EUCLIDEAN
    yield (layout.FLAT_L2 if euclidean else layout.FLAT_INNER_PRODUCT) + head
    yield layout.COUNT.pack(n * dim)
    rows = 0
    for block in vectors:
        rows += len(block)
        yield _bytes_of(block)
    assert rows == n, f"{rows} vectors of {n}"


def _ids(n: int, ids: Ids) -> Iterator[Piece]:
    yield layout.COUNT.pack(n)
    for block in ids:
        yield _bytes_of(block.astype("<i8", copy=False))


def _bytes_of(array: npt.NDArray[np.generic]) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _neighbors(
    graph: Graph, offsets: npt.NDArray[np.int64], first: int, end: int, M: int
) -> npt.NDArray[np.int32]:
    """Return the lists of some nodes in FAISS's order: node by node, and level by level in each."""
    starts = offsets[first:end] - offsets[first]
    laid = np.full(int(offsets[end] - offsets[first]), -1, "<i4")
    laid[starts[:, None] + np.arange(2 * M)] = graph.links[first:end]
    above = graph.upper_offsets[first : end + 1].astype(np.int64)
    levels = np.diff(above)
    owners = np.repeat(np.arange(end - first), levels)
    # A node's lists above level 0 begin with level 1, directly after the 2M places of level 0.
    rank = np.arange(len(owners)) - (above[:-1] - above[0])[owners]
    places = starts[owners] + 2 * M + rank * M
    laid[places[:, None] + np.arange(M)] = graph.upper_links[above[0] : above[-1]]
    return laid
