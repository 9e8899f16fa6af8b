"""A graph under construction in batches, level by level, on codes of 8 bits.

Each level is a graph of its own, whose nodes are numbered in order of insertion, with a copy of
their codes. A batch is inserted from the top level down:

1. For each row the nearest node of the level is found, where its walk of the level below begins. If
   the row belongs to the level, its neighbours are found and pruned as well (``find_links``). A
   walk sees only the rows of earlier batches, so a row is compared with all before it in its batch.
2. Each of these neighbours gets the row into its own list, which is pruned if it is too long
   (``link_back``).

No list is
written by two threads at once, and none is read while it is written. So the graph depends on the
rows and their order only, not on threads (Manohar et al. 2024, ParlayANN). Levels are drawn as in
hnswlib; of the rows inserted together, those of high levels come first, which makes the levels
above 0 a good sample when the others are inserted.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.kernels.loading import load_kernels

__all__ = ["Layers", "draw_levels"]

_BATCH_ROWS_MAX: Final = 512
_BATCH_FRACTION: Final = 1 / 32
"""Most rows of a batch, and most relative to the rows inserted before."""

_LEVEL_FRACTION: Final = 1 / 16
"""Most rows of a batch that belong to a level above 0, relative to its nodes."""

_GAMMA: Final = 1.3
_GAMMA_K: Final = 16
"""The walk for a row's neighbours ends at candidates farther than this times the 16th nearest, in
squared distances, even if there is room in ef."""

_LEVELS_MAX: Final = 31
_PIECES_PER_THREAD: Final = 4
_INLINE_ROWS: Final = 16
"""Rows up to which a batch is not worth waking other threads."""

_CODED_ROWS: Final = 4_096
_TAIL_BYTES: Final = 8
_LINE_BYTES: Final = 64

Codes: TypeAlias = npt.NDArray[np.uint8]
Numbers: TypeAlias = npt.NDArray[np.int32]
Memory: TypeAlias = tuple[npt.NDArray[np.uint64], Numbers, npt.NDArray[np.uint64]]


def draw_levels(count: int, M: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the levels of rows to insert, int64 (count,), descending."""
    drawn = -np.log(1.0 - random.random(count)) / math.log(max(M, 2))
    return -np.sort(-np.minimum(drawn.astype(np.int64), _LEVELS_MAX))


class _Layer:
    """One level.

    Attributes:
        n: number of nodes; the arrays have room for more.
        codes: uint8 (≥ n, bytes).
        links: int32 (≥ n, slots), padded with -1.
        below: int32 (≥ n,), number of each node on the level below.
    """

    def __init__(self, capacity: int, code_bytes: int, slots: int) -> None:
        self.n = 0
        self.codes = np.empty((capacity, code_bytes), np.uint8)
        self.links = np.empty((capacity, slots), np.int32)
        self.below = np.empty(capacity, np.int32)

    def reserve(self, capacity: int) -> None:
        """Grow for that many nodes."""
        if capacity > len(self.codes):
            capacity = max(capacity, self.n + self.n // 2)
            for name in ("codes", "links", "below"):
                old = getattr(self, name)
                new = np.empty((capacity, *old.shape[1:]), old.dtype)
                new[: self.n] = old[: self.n]
                setattr(self, name, new)


class Layers:
    """All levels of a graph. Not thread-safe.

    Args:
        dim: components of a row.
        M: links per node on the upper levels, twice as many on level 0.
        ef: candidates kept while a row is inserted.
        inner: build by inner product; else by squared Euclidean distance.
        capacity: rows to allocate room for.
        threads: threads of ``insert``.
    """

    def __init__(
        self, dim: int, M: int, ef: int, *, inner: bool, capacity: int, threads: int
    ) -> None:
        self._dim, self._M, self._ef, self._inner = dim, M, max(ef, M), inner
        self._threads = threads
        self._code_bytes = -(-(dim + _TAIL_BYTES) // _LINE_BYTES) * _LINE_BYTES
        self._mean: npt.NDArray[np.float32] | None = None
        self._layers = [_Layer(capacity, self._code_bytes, 2 * M)]
        self._memory: list[Memory] = []
        self._kernels = load_kernels()

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return self._layers[0].n

    def reserve(self, capacity: int) -> None:
        """Grow for that many rows."""
        self._layers[0].reserve(capacity)

    def insert(
        self,
        rows: npt.NDArray[np.float32],
        levels: npt.NDArray[np.int64],
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Insert rows, float32 (m, dim), in this order, on levels that descend.

        on_batch: called with the number of rows inserted so far.
        """
        base = self._encode(rows)
        self._reserve_memory()
        pool: AbstractContextManager[Executor | None] = nullcontext()
        if self._threads > 1:
            pool = ThreadPoolExecutor(self._threads, "vecdb-build")
        with pool as executor:
            at = 0
            while at < len(rows):
                size = min(self._batch_rows(int(levels[at])), len(rows) - at)
                self._insert_batch(base + at, levels[at : at + size], executor)
                at += size
                on_batch(at)

    def load(self, graph: Graph, blocks: Iterable[npt.NDArray[np.float32]]) -> None:
        """Take over a finished graph of the rows in these blocks; this must be empty."""
        count, levels = len(graph.links), np.diff(graph.upper_offsets)
        self.reserve(count)
        for block in blocks:
            self._layers[0].n = self._encode(block) + len(block)
        inside, lists = np.arange(count), graph.links
        for level in range(graph.top_level + 1):
            layer = self._layers[-1]
            if level > 0:
                # Among the nodes of the level below.
                above = np.flatnonzero(levels[inside] >= level)
                inside = inside[above]
                layer = _Layer(len(inside), self._code_bytes, self._M)
                layer.codes[:] = self._layers[0].codes[inside]
                layer.below[:] = above
                self._layers.append(layer)
                lists = graph.upper_links[graph.upper_offsets[inside] + level - 1]
            number = np.full(count + 1, -1, np.int32)  # The last one is for the padding.
            number[inside] = np.arange(len(inside))
            layer.n = len(inside)
            for start in range(0, layer.n, _CODED_ROWS):
                some = slice(start, min(start + _CODED_ROWS, layer.n))
                layer.links[some] = number[lists[some]]

    def graph(self, rows: npt.NDArray[np.int64], count: int) -> Graph:
        """Return the graph of ``count`` rows, of which node i of level 0 is rows[i]."""
        bottom = self._layers[0]
        links = np.full((count, bottom.links.shape[1]), -1, np.int32)
        offsets = np.zeros(count + 1, np.int64)
        row_of = rows.astype(np.int32)
        owners = [row_of]
        for layer in self._layers[1:]:
            owners.append(owners[-1][layer.below[: layer.n]])
            offsets[1:][owners[-1]] += 1
        np.cumsum(offsets, out=offsets)
        upper = np.empty((int(offsets[-1]), self._M), np.int32)
        for start in range(0, bottom.n, _CODED_ROWS):
            some = slice(start, min(start + _CODED_ROWS, bottom.n))
            links[row_of[some]] = _renamed(bottom.links[some], row_of)
        for level, layer in enumerate(self._layers[1:], 1):
            lists = _renamed(layer.links[: layer.n], owners[level])
            upper[offsets[owners[level]] + level - 1] = lists
        top = len(self._layers) - 1
        return Graph(links, offsets.astype(np.int32), upper, int(owners[top][0]), top)

    def _encode(self, rows: npt.NDArray[np.float32]) -> int:
        """Append the codes of rows to level 0; return the number of the first."""
        bottom = self._layers[0]
        base = bottom.n
        bottom.reserve(base + len(rows))
        if self._mean is None:
            mean = np.zeros(self._dim) if self._inner else rows.mean(axis=0, dtype=np.float64)
            self._mean = mean.astype(np.float32)
        for start in range(0, len(rows), _CODED_ROWS):
            some = np.ascontiguousarray(rows[start : start + _CODED_ROWS])
            out = bottom.codes[base + start : base + start + len(some)]
            self._kernels.encode_for_build(some, self._mean, self._inner, out)
        return base

    def _batch_rows(self, level: int) -> int:
        """Return the size of the next batch, whose first row belongs to this level."""
        if level >= len(self._layers):
            return 1
        fraction = _LEVEL_FRACTION if level > 0 else _BATCH_FRACTION
        inside = int(self._layers[level].n * fraction)
        return max(1, min(_BATCH_ROWS_MAX, inside, int(self.count * _BATCH_FRACTION)))

    def _insert_batch(
        self, base: int, levels: npt.NDArray[np.int64], executor: Executor | None
    ) -> None:
        """Insert the next rows, whose codes on level 0 begin at ``base``."""
        size = len(levels)
        while int(levels[0]) >= len(self._layers):
            self._layers.append(_Layer(1, self._code_bytes, self._M))
        starts, nearest = np.zeros(size, np.int32), np.empty(size, np.int32)
        for level in reversed(range(len(self._layers))):
            layer = self._layers[level]
            inside, ready = int(np.count_nonzero(levels >= level)), layer.n
            self._append(level, base, inside)
            out = layer.links[ready : ready + inside]
            if ready > 0:
                find = partial(self._find, layer, base, starts, out, nearest)
                self._spread(find, 0, inside, executor)
                self._spread(find, inside, size, executor)
                starts = layer.below[nearest]
            layer.n += inside
            if inside > 0 and ready > 0:
                self._link_back(layer, out, executor)

    def _append(self, level: int, base: int, count: int) -> None:
        """Write the first rows of a batch behind a level's nodes, without links; the levels below
        get them later."""
        layer = self._layers[level]
        layer.reserve(layer.n + count)
        new = slice(layer.n, layer.n + count)
        layer.links[new] = -1
        if level > 0:
            layer.codes[new] = self._layers[0].codes[base : base + count]
            layer.below[new] = self._layers[level - 1].n + np.arange(count)

    def _find(
        self,
        layer: _Layer,
        base: int,
        starts: Numbers,
        out: Numbers,
        nearest: Numbers,
        memory: Memory,
        first: int,
        last: int,
    ) -> None:
        """Call ``find_links`` for rows of a batch that are all inside of the level, or all not."""
        inside = last <= len(out)
        by_gamma = inside and not self._inner
        self._kernels.find_links(
            layer.codes, layer.links, layer.n, self._dim, self._layers[0].codes, base, starts,
            first, last, min(_GAMMA_K, self._ef) if inside else 1, self._ef if inside else 1,
            _GAMMA if by_gamma else self._kernels.NO_GAMMA, self._M if inside else 0, *memory,
            out, nearest,
        )  # fmt: skip

    def _link_back(self, layer: _Layer, out: Numbers, executor: Executor | None) -> None:
        """Add the last rows of a level, whose neighbours are ``out``, to the neighbours' lists."""
        own = np.arange(layer.n - len(out), layer.n, dtype=np.int32)
        targets = out.ravel()
        by = np.argsort(targets, kind="stable")
        by = by[np.searchsorted(targets, 0, sorter=by) :]  # Without the padding.
        sources = np.repeat(own, out.shape[1])[by]
        targets, begins = np.unique(targets[by], return_index=True)
        begins = np.append(begins, len(by)).astype(np.int64)

        def link(memory: Memory, first: int, last: int) -> None:
            self._kernels.link_back(
                layer.codes, layer.links, layer.n, self._dim, targets, begins, sources,
                first, last, memory[2],
            )  # fmt: skip

        self._spread(link, 0, len(targets), executor)

    def _spread(
        self,
        work: Callable[[Memory, int, int], None],
        first: int,
        last: int,
        executor: Executor | None,
    ) -> None:
        """Call ``work`` with memory of its own for pieces of first to last - 1."""
        if executor is None or last - first <= _INLINE_ROWS:
            if last > first:
                work(self._memory[0], first, last)
            return
        free: queue.SimpleQueue[Memory] = queue.SimpleQueue()
        for memory in self._memory:
            free.put(memory)

        def piece(start: int, stop: int) -> None:
            memory = free.get_nowait()
            try:
                work(memory, start, stop)
            finally:
                free.put(memory)

        pieces = min(last - first, _PIECES_PER_THREAD * self._threads)
        cuts = np.linspace(first, last, pieces + 1).astype(int).tolist()
        for _ in executor.map(piece, cuts[:-1], cuts[1:]):
            pass

    def _reserve_memory(self) -> None:
        """Allocate what each thread needs to walk as many nodes as there is room for."""
        rows, slots = len(self._layers[0].codes), 2 * self._M
        if not self._memory or len(self._memory[0][1]) <= rows:
            self._memory = [
                (
                    np.zeros(rows // 64 + 1, np.uint64),
                    np.empty(rows + 1, np.int32),
                    np.empty(slots + 1 + max(self._ef, _BATCH_ROWS_MAX), np.uint64),
                )
                for _ in range(self._threads)
            ]


def _renamed(lists: Numbers, names: Numbers) -> Numbers:
    """Return lists with each number replaced by its name; the padding stays."""
    return np.where(lists >= 0, names[lists], np.int32(-1))
