"""Reads a file saved by hnswlib (``hnsw/file_format.py`` has its layout).

The file may come from any source and no byte is trusted. hnswlib itself checks little: a wrong
offset or neighbour would make it read out of bounds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.engine.hnsw.file_format import HEADER, record
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.interchange.importing.foreign_index import (
    ForeignIndex,
    Measure,
    Rows,
    check_ids_unique,
)
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.engine.kernels.loading import load_kernels
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import Metric

__all__ = ["read_hnswlib"]

_ROWS_MAX: Final = 2**31 - 1
_LEVEL_MAX: Final = 63
_NO_ENTRY: Final = 2**32 - 1
_DELETED: Final = 1
_PIECE_BYTES: Final = 4 * 1024**2


class _Fields(NamedTuple):
    n: int
    M: int
    ef_construction: int
    top_level: int
    entry: int
    nodes_at: int
    tail_at: int


def read_hnswlib(file: UntrustedFile, dim: int, metric: Metric) -> ForeignIndex:
    """Read a file's ids and graph; the file must stay open as long as vectors are read.

    Nodes that are marked deleted are skipped. If there are any, the graph is not used: its walks
    depend on these nodes.

    Raises:
        InvalidArgumentError: BAD_FILE: a field is invalid; the message has its byte. DIM_MISMATCH:
            the file's vectors have another dimension.
    """
    fields = _read_header(file, dim)
    kind = record(fields.M, dim)
    links, labels, deleted = _read_nodes(file, fields, kind)
    graph = None
    if fields.n:
        levels, offsets, upper_links = _read_upper(file, fields)
        _check_entry(file, fields, levels)
        graph = Graph(links, offsets, upper_links, fields.entry, fields.top_level)
    elif file.left:
        file.check_end()
    kept = np.flatnonzero(~deleted) if deleted.any() else None
    measures: dict[Metric, Measure] = {
        Metric.EUCLIDEAN: "l2",
        Metric.DOT: "inner product",
        Metric.COSINE: "cosine",
    }
    skipped = int(np.count_nonzero(deleted))
    vectors_at = fields.nodes_at + int(kind.fields["vector"][1])  # type: ignore[index]
    count = fields.n - skipped
    return ForeignIndex(
        kind="hnswlib.Index",
        dim=dim,
        count=count,
        measure=measures[metric],
        ids=labels if kept is None else labels[kept],
        rows=Rows(file, vectors_at, kind.itemsize, dim, count, kept),
        graph=graph if kept is None else None,
        M=fields.M,
        ef_construction=fields.ef_construction,
        no_graph="" if not skipped else f"{skipped} nodes of the file are marked deleted",
        skipped=skipped,
    )


def _read_header(file: UntrustedFile, dim: int) -> _Fields:
    (zero, _, n, stride, label_at, vector_at, top, entry, upper, lowest, M, _, ef) = file.take(
        HEADER, "header"
    )
    if not limits.M.minimum <= M <= limits.M.maximum:
        what = f"expected {limits.M.minimum} to {limits.M.maximum}, got {M}"
        raise file.wrong(72, "M", what)
    if label_at - vector_at != 4 * dim and (label_at - vector_at) % 4 == 0:
        found = (label_at - vector_at) // 4
        if 0 < found <= limits.DIM.maximum:
            raise InvalidArgumentError(
                f"{file.called}: expected {dim} dimensions, the file has {found} (byte 32, offset "
                "of the label)",
                Reason.DIM_MISMATCH,
            )
    kind = record(M, dim)
    wanted = [
        ("offset of level 0", 0, zero, 0),
        ("bytes a record", 24, stride, kind.itemsize),
        ("offset of the label", 32, label_at, kind.itemsize - 8),
        ("offset of the vector", 40, vector_at, 4 + 8 * M),
        ("maxM", 56, upper, M),
        ("maxM0", 64, lowest, 2 * M),
    ]
    for field, at, got, expected in wanted:
        if got != expected:
            raise file.wrong(at, field, f"expected {expected}, got {got}")
    if n > _ROWS_MAX:
        raise file.wrong(16, "count", f"expected at most {_ROWS_MAX}, got {n}")
    if not 1 <= ef <= 2**31 - 1:
        raise file.wrong(88, "ef_construction", f"expected 1 or more, got {ef}")
    if n == 0 and (top, entry) != (-1, _NO_ENTRY):
        raise file.wrong(48, "maxlevel", f"expected -1 without a node, got {top}")
    nodes_at = file.skip(n, stride, "level 0")
    return _Fields(n, M, ef, top, entry, nodes_at, file.position)


def _read_nodes(
    file: UntrustedFile, fields: _Fields, kind: np.dtype[np.generic]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Return the links on level 0, the labels, and which nodes are marked deleted."""
    n, M = fields.n, fields.M
    links = np.empty((n, 2 * M), np.int32)
    labels, deleted = np.empty(n, np.uint64), np.empty(n, bool)
    step = max(1, _PIECE_BYTES // kind.itemsize)
    for first in range(0, n, step):
        end = min(n, first + step)
        start = fields.nodes_at + first * kind.itemsize
        raw = file.read(start, (end - first) * kind.itemsize, "level 0")
        nodes = np.frombuffer(raw, kind)
        odd = np.flatnonzero((nodes["deleted"] > _DELETED) | (nodes["zero"] != 0))
        if len(odd):
            node = int(odd[0])
            mark = f"{nodes['deleted'][node]}, {nodes['zero'][node]}"
            what = f"expected 0 or {_DELETED}, then 0; node {first + node} has {mark}"
            raise file.wrong(start + node * kind.itemsize + 2, "deletion mark", what)
        places = np.arange(end - first) * kind.itemsize
        links[first:end] = _lists(file, start + places, nodes["count"], nodes["links"], n)
        labels[first:end], deleted[first:end] = nodes["label"], nodes["deleted"] == _DELETED
    label_at = fields.nodes_at + kind.itemsize - 8
    check_ids_unique(file, labels, label_at, kind.itemsize, "label")
    return links, labels, deleted


def _lists(
    file: UntrustedFile,
    places: npt.NDArray[np.int64],
    counts: npt.NDArray[np.integer],
    lists: npt.NDArray[np.uint32],
    n: int,
) -> npt.NDArray[np.int32]:
    """Return lists of neighbours, padded with -1.

    Args:
        places: byte offset of each list's count, which is 4 bytes before the list.
    """
    long = np.flatnonzero(counts > lists.shape[1])
    if len(long):
        at = int(long[0])
        what = f"expected at most {lists.shape[1]}, got {counts[at]}"
        raise file.wrong(int(places[at]), "count of neighbours", what)
    used = np.arange(lists.shape[1]) < counts[:, None]
    outside = np.argwhere(used & (lists >= n))
    if len(outside):
        at, place = outside[0].tolist()
        what = f"expected a node below {n}, got {lists[at, place]}"
        raise file.wrong(int(places[at]) + 4 + 4 * place, "neighbours", what)
    return np.where(used, lists, np.uint32(_NO_ENTRY)).astype(np.uint32).view(np.int32)


def _read_upper(
    file: UntrustedFile, fields: _Fields
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the levels of the nodes, from 0, and the upper part of a ``Graph``."""
    n, each, tail_at = fields.n, 1 + fields.M, fields.tail_at
    if file.left % 4 or file.left < 4 * n:
        what = f"expected a multiple of 4 bytes, {4 * n} or more, got {file.left}"
        raise file.wrong(tail_at, "upper levels", what)
    words = file.left // 4
    file.skip(words, 4, "upper levels")
    tail = file.array(tail_at, "<u4", words, "upper levels")
    starts, levels = np.empty(n, np.int64), np.empty(n, np.int32)
    if not load_kernels().find_levels(tail, each, starts, levels):
        what = f"the sizes of {n} nodes do not add up to {4 * words} bytes"
        raise file.wrong(tail_at, "upper levels", what)
    sizes = tail[starts - 1]
    odd = np.flatnonzero((sizes != levels * (4 * each)) | (levels > _LEVEL_MAX))
    if len(odd):
        node = int(odd[0])
        what = f"expected 0 to {_LEVEL_MAX} levels of {4 * each} bytes each, got {sizes[node]}"
        raise file.wrong(tail_at + 4 * int(starts[node] - 1), "upper levels", what)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(levels, out=offsets[1:])
    upper_links = np.empty((int(offsets[-1]), fields.M), np.int32)
    for level in range(1, int(levels.max()) + 1):
        inside = np.flatnonzero(levels >= level)
        at = starts[inside] + (level - 1) * each
        counts, lists = tail[at], tail[at[:, None] + np.arange(1, each)]
        found = _lists(file, tail_at + 4 * at, counts, lists, n)
        missing = np.argwhere((found >= 0) & (levels[found] < level))
        if len(missing):
            node, place = missing[0].tolist()
            what = (
                f"node {inside[node]} has neighbour {found[node, place]} on level {level}, which "
                f"only reaches level {levels[found[node, place]]}"
            )
            raise file.wrong(tail_at + 4 * int(at[node] + 1 + place), "neighbours", what)
        upper_links[offsets[inside] + level - 1] = found
    return levels, offsets.astype(np.int32), upper_links


def _check_entry(file: UntrustedFile, fields: _Fields, levels: npt.NDArray[np.int32]) -> None:
    highest, entry = int(levels.max()), fields.entry
    if fields.top_level != highest:
        what = f"expected {highest}, the highest level of a node, got {fields.top_level}"
        raise file.wrong(48, "maxlevel", what)
    if entry >= fields.n:
        raise file.wrong(52, "entry point", f"expected a node below {fields.n}, got {entry}")
    if levels[entry] != highest:
        what = f"node {entry} reaches level {levels[entry]}, but the graph level {highest}"
        raise file.wrong(52, "entry point", what)
