"""Building graphs with hnswlib: the only module that calls it.

hnswlib builds an excellent graph fast and is used for nothing else; what it saves is taken apart
into plain arrays at once (``Graph``), which ``kernels.walk_graph`` searches. ``hnsw_file.py`` draws
the file.

Neighbours are internal numbers, in order of arrival; with several threads these differ from the
row numbers, which are the labels. A ``Graph`` is in row order.

**Twins.** In hnswlib, rows that are equal to the bit link to each other alone as soon as there are
more than M of them, and a walk that comes upon them never leaves. So it gets the first of them
only; the others, its twins, are put beside it in the finished graph, in a chain on level 0.

hnswlib neither syncs, nor checks, nor reports what it could not write, and holds the GIL while it
saves and loads: call this from a process that does nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import hnswlib
import numpy as np
import numpy.typing as npt

from vecdb.engine.compiled import load_kernels
from vecdb.engine.graph import Graph
from vecdb.engine.hnsw_file import HEADER as _HEADER
from vecdb.engine.hnsw_file import record as _record
from vecdb.engine.modes import creating
from vecdb.engine.reachability import connect
from vecdb.errors import DataLossError

__all__ = ["Builder", "Space", "file_pieces"]

Space = Literal["ip", "l2"]
"""hnswlib's names: inner product, for cosine (of unit vectors) and dot; squared Euclidean."""

_BLOCK_ROWS: Final = 65_536


class Builder:
    """A graph under construction. For one thread at a time; it uses ``threads`` of its own.

    Args:
        space: "ip" or "l2".
        width: components of a row, those that pad it included.
        M: links a node on the upper levels, twice as many on level 0.
        ef_construction: candidates kept while a row is linked in.
        capacity: rows to make room for; it grows when they are exceeded, at the cost of a copy.
        threads: of ``add``.
        seed: of the levels that nodes are given.
    """

    def __init__(
        self,
        space: Space,
        width: int,
        M: int,
        ef_construction: int,
        capacity: int,
        threads: int = 2,
        seed: int = 100,
    ) -> None:
        index = hnswlib.Index(space, width)
        index.init_index(max(capacity, 1), M=M, ef_construction=ef_construction, random_seed=seed)
        self._take(index, width, M, max(capacity, 1), threads)

    def _take(self, index: Any, width: int, M: int, capacity: int, threads: int) -> None:
        self.index, self._width, self._M = index, width, M
        self._capacity, self._threads = capacity, threads
        self._known = _Known(np.empty(0, np.uint64), np.empty(0, np.int64))
        self._first_of = np.empty(0, np.int64)  # For each row the first equal one: itself, mostly.

    @classmethod
    def from_graph(
        cls,
        graph: Graph,
        vectors: npt.NDArray[np.float32],
        *,
        space: Space,
        M: int,
        ef_construction: int,
        capacity: int,
        work_dir: str | os.PathLike[str],
        threads: int = 2,
        seed: int = 100,
    ) -> Builder:
        """A builder that goes on from a finished graph; its rows keep their numbers.

        Args:
            graph, vectors: the graph and its rows, float32 (n, width).
            space, M, ef_construction, capacity, threads: as for ``Builder``; M as it was built.
            work_dir: folder for a temporary file of the graph's and the vectors' size together.
            seed: used if the graph is empty; hnswlib restarts its own on loading.

        Raises:
            DataLossError: the graph's arrays contradict each other; hnswlib would crash on them.
            OSError: the file could not be written.
        """
        n, width = vectors.shape
        if n == 0:
            return cls(space, width, M, ef_construction, capacity, threads, seed)
        _check(graph, n, M)
        capacity = max(capacity, n)
        builder = cls.__new__(cls)
        builder._take(hnswlib.Index(space, width), width, M, capacity, threads)
        builder._first_of = builder._firsts(vectors)
        rows = np.flatnonzero(builder._first_of == np.arange(n))
        with _temporary_file(work_dir) as path:
            small = graph if len(rows) == n else _without_twins(graph, rows)
            _write(path, small, vectors, rows, M, ef_construction, capacity)
            builder.index.load_index(str(path), max_elements=capacity)
        return builder

    @property
    def count(self) -> int:
        """Rows added so far."""
        return len(self._first_of)

    def resize(self, capacity: int) -> None:
        """Make room for that many rows."""
        self.index.resize_index(capacity)
        self._capacity = capacity

    def add(self, vectors: npt.NDArray[np.float32]) -> None:
        """Append rows, float32 (m, width); they get the next row numbers."""
        if vectors.ndim != 2 or vectors.shape[1] != self._width:
            raise ValueError(
                f"expected rows of {self._width} components, got shape {vectors.shape}"
            )
        if len(vectors) == 0:
            return
        firsts = self._firsts(vectors)
        rows = np.arange(self.count, self.count + len(vectors))
        new = firsts == rows
        self._first_of = np.concatenate([self._first_of, firsts])
        needed = self.index.get_current_count() + np.count_nonzero(new)
        if needed > self._capacity:
            self.resize(max(needed, self._capacity + self._capacity // 2))
        if needed > self.index.get_current_count():
            unlike = vectors if new.all() else vectors[new]
            self.index.add_items(unlike, rows[new].astype(np.uint64), num_threads=self._threads)

    def _firsts(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """For each of these rows, to be added next, the row number of the first equal row."""
        start = self.count
        rows = np.arange(start, start + len(vectors))
        hashes = np.empty(len(vectors), np.uint64)
        bits = np.ascontiguousarray(vectors).view(np.uint32)
        load_kernels().hash_rows(bits, hashes)
        firsts = self._known.look_up(hashes, rows)
        here = np.flatnonzero((firsts != rows) & (firsts >= start))
        differ = np.any(bits[here] != bits[firsts[here] - start], axis=1)
        firsts[here[differ]] = rows[here[differ]]
        before = np.flatnonzero(firsts < start)
        if len(before):
            wanted, which = np.unique(firsts[before], return_inverse=True)
            stored = np.asarray(self.index.get_items(wanted, return_type="numpy"), np.float32)
            differ = np.any(bits[before] != stored.view(np.uint32)[which], axis=1)
            firsts[before[differ]] = rows[before[differ]]
        return firsts

    def graph(self, work_dir: str | os.PathLike[str]) -> Graph:
        """The graph as it stands, through a temporary file in work_dir.

        Raises:
            OSError: the file was not written whole: ENOSPC, as a full disk is what it comes from.
        """
        if self.count == 0:
            return Graph(
                np.empty((0, 2 * self._M), np.int32),
                np.zeros(1, np.int32),
                np.empty((0, self._M), np.int32),
                -1,
                -1,
            )
        with _temporary_file(work_dir) as path:
            self.index.save_index(str(path))
            graph = _read(path, self._first_of, self._M, self._width)
        connect(graph)
        return graph


class _Known:
    """Hashes of rows seen, ascending, each with the first row that had it."""

    def __init__(self, hashes: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> None:
        self._hashes, self._rows = hashes, rows

    def look_up(
        self, hashes: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """For each row the first with its hash, itself or earlier; all are known from now on."""
        every = np.concatenate([self._hashes, hashes])
        every_row = np.concatenate([self._rows, rows])
        self._hashes, at, which = np.unique(every, return_index=True, return_inverse=True)
        self._rows = every_row[at]
        return self._rows[which[len(every) - len(hashes) :]]


@contextlib.contextmanager
def _temporary_file(folder: str | os.PathLike[str]) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix="graph-", suffix=".hnsw", dir=folder)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _read(path: Path, first_of: npt.NDArray[np.int64], M: int, width: int) -> Graph:
    """Take hnswlib's file apart; nodes are put in the order of their labels, the row numbers."""
    count, record = len(first_of), _record(M, width)
    rows = np.flatnonzero(first_of == np.arange(count))  # Those that hnswlib was given.
    n = len(rows)
    tail_at = _HEADER.size + n * record.itemsize
    size = path.stat().st_size
    if size < tail_at + 4 * n or size % 4:
        raise _cut_short(path)
    with open(path, "rb") as file:
        header = _HEADER.unpack(file.read(_HEADER.size))
    if (header[2], header[3], header[8]) != (n, record.itemsize, M):
        raise DataLossError(f"{path}: not the graph that was saved", "GRAPH")
    top_level, entry = header[6], header[7]
    nodes = np.memmap(path, record, "r", _HEADER.size, (n,))
    row_of = nodes["label"].astype(np.int64)
    if not np.array_equal(np.sort(row_of), rows):
        raise DataLossError(f"{path}: the labels are not the rows that were added", "GRAPH")
    links = np.empty((count, 2 * M), np.int32)
    for start in range(0, n, _BLOCK_ROWS):
        block = nodes[start : start + _BLOCK_ROWS]
        lists = _renumbered(block["links"], block["count"], row_of)
        links[row_of[start : start + _BLOCK_ROWS]] = lists
    _chain_twins(links, first_of)
    tail = np.memmap(path, "<u4", "r", tail_at).view(np.ndarray)
    upper_offsets, upper_links = _read_upper(path, tail, row_of, count, M, top_level)
    return Graph(links, upper_offsets, upper_links, int(row_of[entry]), top_level)


def _read_upper(
    path: Path,
    tail: npt.NDArray[np.uint32],
    row_of: npt.NDArray[np.int64],
    count: int,
    M: int,
    top_level: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    n = len(row_of)
    starts, levels = np.empty(n, np.int64), np.empty(n, np.int32)
    if not load_kernels().find_levels(tail, 1 + M, starts, levels):
        raise _cut_short(path)
    offsets = np.zeros(count + 1, np.int32)
    offsets[1:][row_of] = levels
    np.cumsum(offsets, out=offsets)
    upper_links = np.empty((int(offsets[-1]), M), np.int32)
    for level in range(1, top_level + 1):
        inside = np.flatnonzero(levels >= level)
        at = starts[inside] + (level - 1) * (1 + M)
        lists = tail[at[:, None] + np.arange(1 + M)]
        upper_links[offsets[row_of[inside]] + level - 1] = _renumbered(
            lists[:, 1:], lists[:, 0] & 0xFFFF, row_of
        )
    return offsets, upper_links


def _chain_twins(links: npt.NDArray[np.int32], first_of: npt.NDArray[np.int64]) -> None:
    """Give twins their lists: the first of them, then the next ones; the first gets the second."""
    slots = links.shape[1]
    twins = np.flatnonzero(first_of != np.arange(len(first_of)))
    twins = twins[np.argsort(first_of[twins], kind="stable")]
    firsts = first_of[twins]
    links[twins] = -1
    links[twins, 0] = firsts
    for ahead in range(1, min(slots, len(twins))):
        together = firsts[ahead:] == firsts[:-ahead]
        links[twins[:-ahead][together], ahead] = twins[ahead:][together]
    heads, at = np.unique(firsts, return_index=True)
    used = (links[heads] >= 0).sum(axis=1)
    links[heads, np.minimum(used, slots - 1)] = twins[at]


def _without_twins(graph: Graph, rows: npt.NDArray[np.int64]) -> Graph:
    """The graph of these rows alone, renumbered; the others have no level above 0."""
    n, levels = len(graph.links), np.diff(graph.upper_offsets)
    if np.delete(levels, rows).any() or graph.entry not in rows:
        raise DataLossError("a twin is on an upper level of the graph", "GRAPH")
    number = np.full(n + 1, -1, np.int32)  # The last one is for the padding, -1.
    number[rows] = np.arange(len(rows))

    def renumbered(lists: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        lists = number[lists]
        order = np.argsort(lists < 0, axis=1, kind="stable")
        return np.take_along_axis(lists, order, axis=1)

    offsets = np.concatenate([[0], np.cumsum(levels[rows])]).astype(np.int32)
    return Graph(
        renumbered(graph.links[rows]),
        offsets,
        renumbered(graph.upper_links),
        int(number[graph.entry]),
        graph.top_level,
    )


def _cut_short(path: Path) -> OSError:
    return OSError(
        errno.ENOSPC, "hnswlib could not write the whole graph; the disk is full", str(path)
    )


def _renumbered(
    lists: npt.NDArray[np.uint32], counts: npt.NDArray[Any], row_of: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """Lists of internal numbers as lists of rows; -1 past the counts, where stale numbers are."""
    used = np.arange(lists.shape[1]) < counts[:, None]
    return np.where(used, row_of[np.where(used, lists, 0)], -1).astype(np.int32)


def _check(graph: Graph, n: int, M: int) -> None:
    """What hnswlib trusts: neighbours exist, on the level where they are named."""
    offsets, levels = graph.upper_offsets, np.diff(graph.upper_offsets)
    if (
        graph.links.shape != (n, 2 * M)
        or offsets.shape != (n + 1,)
        or offsets[0] != 0
        or levels.min() < 0
        or graph.upper_links.shape != (offsets[-1], M)
        or not 0 <= graph.entry < n
        or graph.top_level != levels[graph.entry]
        or graph.top_level != levels.max()
        or not -1 <= graph.links.min() <= graph.links.max() < n
    ):
        raise DataLossError("the graph's arrays do not fit each other", "GRAPH")
    lists = graph.upper_links
    if lists.size == 0:
        return
    owner = np.repeat(np.arange(n), levels)
    level = np.arange(len(lists)) - offsets[owner] + 1
    outside = (lists < -1) | (lists >= n)
    if outside.any() or np.any((lists >= 0) & (levels[lists] < level[:, None])):
        raise DataLossError("a neighbour is missing from the level where it is named", "GRAPH")


def _write(
    path: Path,
    graph: Graph,
    vectors: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    M: int,
    ef_construction: int,
    capacity: int,
) -> None:
    """The file that hnswlib would have saved for a graph of these of the vectors."""
    starts = range(0, len(rows), _BLOCK_ROWS)
    blocks = (vectors[rows[start : start + _BLOCK_ROWS]] for start in starts)
    with open(path, "wb", opener=creating) as file:
        file.writelines(
            file_pieces(
                graph,
                blocks,
                rows,
                width=vectors.shape[1],
                M=M,
                ef_construction=ef_construction,
                capacity=capacity,
            )
        )


def file_pieces(
    graph: Graph,
    vectors: Iterable[npt.NDArray[np.float32]],
    labels: npt.NDArray[np.int64],
    *,
    width: int,
    M: int,
    ef_construction: int,
    capacity: int,
) -> Iterator[bytes | memoryview]:
    """The pieces of a file that hnswlib's ``load_index`` opens.

    Args:
        graph: of n nodes.
        vectors: blocks of float32 (m, width), n rows in all, by node.
        labels: int64 (n,).
        capacity: rows that the index has room for once it is loaded.
    """
    record, start = _record(M, width), 0
    vector_at = 4 + 4 * 2 * M
    yield _HEADER.pack(
        0,
        capacity,
        len(labels),
        record.itemsize,
        vector_at + 4 * width,
        vector_at,
        graph.top_level,
        graph.entry & 0xFFFF_FFFF,
        M,
        2 * M,
        M,
        1.0 / math.log(M),
        max(ef_construction, M),
    )
    for block in vectors:
        stop = start + len(block)
        records = np.zeros(len(block), record)
        records["count"], records["links"] = _counted(graph.links[start:stop])
        records["vector"], records["label"] = block, labels[start:stop]
        yield memoryview(records.view(np.uint8).data)
        start = stop
    yield memoryview(_upper_words(graph, M).view(np.uint8).data)


def _counted(lists: npt.NDArray[np.int32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return (lists >= 0).sum(axis=1), np.maximum(lists, 0)


def _upper_words(graph: Graph, M: int) -> npt.NDArray[np.uint32]:
    """The part of the file above level 0, all of it 32-bit words."""
    n, u = len(graph.links), len(graph.upper_links)
    levels, each = np.diff(graph.upper_offsets), 1 + M
    words = np.zeros(n + u * each, "<u4")
    words[np.arange(n) + graph.upper_offsets[:-1].astype(np.int64) * each] = levels * (4 * each)
    owner = np.repeat(np.arange(n), levels)
    at = owner + 1 + np.arange(u) * each
    counts, lists = _counted(graph.upper_links)
    words[at] = counts
    words[at[:, None] + np.arange(1, each)] = lists
    return words
