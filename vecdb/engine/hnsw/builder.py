"""Build graphs with hnswlib; the only module that calls it.

hnswlib builds a good graph fast and is used only for that. The file that it saves (its format is in
``file_format.py``) is converted to plain arrays at once (``Graph``), which the kernels search.

Rows are inserted in shuffled order: if the first rows are far from all others, a graph built in row
order makes them unreachable. hnswlib numbers nodes in order of insertion and stores row numbers as
labels; a ``Graph`` is in row order. ``build_space.py`` chooses the vectors to build on.

**Duplicates.** If more than M rows are equal bit for bit, hnswlib links them only to each other,
and a walk that reaches one of them never leaves them. So hnswlib gets only the first of equal rows;
the duplicates are added to the finished graph as a chain on level 0.

hnswlib does not sync, verify, or report failed writes, and holds the GIL while it saves and loads:
call this module from a process that does nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import hnswlib
import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.build_rows import BuildRows
from vecdb.engine.hnsw.build_space import BuildSpace, Space
from vecdb.engine.hnsw.file_format import HEADER as _HEADER
from vecdb.engine.hnsw.file_format import record as _record
from vecdb.engine.hnsw.finishing import (
    check_extendable,
    empty_graph,
    finish,
    without_duplicates,
)
from vecdb.engine.hnsw.graph import HNSWLIB, Graph
from vecdb.engine.kernels.loading import load_kernels
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["Builder", "Space", "file_pieces"]

_BLOCK_ROWS: Final = 65_536
_STEP_ROWS: Final = 50_000
_STEP_BYTES: Final = 64 * 1024**2
"""Most rows, and most bytes, inserted in one step, which copies them in shuffled order."""

_REPORTED_ROWS: Final = 5_000
"""Rows inserted between two reports of progress."""


class Builder:
    """A graph under construction. Not thread-safe; ``add`` uses ``threads`` threads of its own.

    Args:
        space: "ip" for unit vectors, "l2" or "dot".
        width: components of a row, including padding.
        M: links per node on the upper levels, twice as many on level 0.
        ef_construction: candidates kept while a row is inserted.
        capacity: rows to allocate room for; exceeding it costs a copy.
        threads: threads of ``add``.
        seed: of the random levels and of the order of insertion.
    """

    built_by = HNSWLIB

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
        self._space, self._width, self._M, self._ef_construction = space, width, M, ef_construction
        self._capacity, self._threads, self._seed = max(capacity, 1), threads, seed
        self._shuffle = np.random.default_rng(seed)
        self._rows = BuildRows(width)
        self._build_space: BuildSpace | None = None
        self.index = hnswlib.Index("l2" if space == "l2" else "ip", width)
        self._by_angle = hnswlib.Index("l2", width) if space == "dot" else None

    def _make_empty(self) -> None:
        """Replace the indices by empty ones of the same capacity."""
        M, ef = self._M, self._ef_construction
        self.index = hnswlib.Index(self.index.space, self._width)
        self.index.init_index(self._capacity, M=M, ef_construction=ef, random_seed=self._seed)
        if self._by_angle is not None:
            self._by_angle = hnswlib.Index("l2", self._width)
            self._by_angle.init_index(
                self._capacity, M=M, ef_construction=ef, random_seed=self._seed + 1
            )

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
        """Return a builder that extends a finished graph; its rows keep their numbers.

        Args:
            graph, vectors: the graph and its rows, float32 (n, width).
            space, M, ef_construction, capacity, threads: as for ``Builder``; M as of the graph.
            work_dir: folder for a temporary file of the size of graph and vectors together.
            seed: of the order of insertion; hnswlib restarts its own random levels on loading.

        Raises:
            DataLossError: GRAPH: the arrays are inconsistent; hnswlib would crash on them.
            OSError: the file could not be written.
        """
        n, width = vectors.shape
        if n == 0:
            return cls(space, width, M, ef_construction, capacity, threads, seed)
        check_extendable(graph, n, M)
        capacity = max(capacity, n)
        builder = cls(space, width, M, ef_construction, capacity, threads, seed)
        builder._rows.append(vectors)
        rows = builder._rows.firsts_from(0)
        distinct = graph if len(rows) == n else without_duplicates(graph, rows)
        options = {"M": M, "ef_construction": ef_construction, "capacity": capacity}
        chosen = builder._build_space = BuildSpace(space, [vectors])
        for which, index in enumerate(builder._indices):
            starts = range(0, len(rows), step := builder._step_rows)
            blocks = (chosen.of(vectors[rows[at : at + step]])[which] for at in starts)
            with _temporary_file(work_dir) as path:
                with open(path, "wb") as file:
                    file.writelines(file_pieces(distinct, blocks, rows, width=width, **options))
                index.load_index(str(path), max_elements=capacity)
        return builder

    @property
    def count(self) -> int:
        """Return the number of rows added so far."""
        return self._rows.count

    @property
    def _indices(self) -> list[hnswlib.Index]:
        return [self.index] if self._by_angle is None else [self.index, self._by_angle]

    @property
    def _step_rows(self) -> int:
        return max(1, min(_STEP_ROWS, _STEP_BYTES // (4 * self._width)))

    def resize(self, capacity: int) -> None:
        """Set the capacity, in rows."""
        for index in self._indices:
            index.resize_index(capacity)
        self._capacity = capacity

    def add(
        self,
        *blocks: npt.NDArray[np.float32],
        on_step: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Append rows, float32 (m, width) per block; they get the next row numbers.

        The arrays are kept, not copied, and must not change.

        Args:
            on_step: called after each step with the number of rows so far.

        Raises:
            ValueError: a block has another width.
        """
        start = self.count
        self._rows.append(*blocks)
        if self.count == start:
            return
        rows, chosen = self._rows.firsts_from(start), self._build_space
        if chosen is None or not all(chosen.fits(block) for block in blocks):
            # The new rows are far longer than all before: insert all again on a new scale.
            self._build_space = BuildSpace(self._space, self._rows.blocks)
            self._make_empty()
            rows = self._rows.firsts_from(0)
        needed = self.index.get_current_count() + len(rows)
        if needed > self._capacity:
            self.resize(max(needed, self._capacity + self._capacity // 2))
        self._insert(rows, on_step)

    def _insert(self, rows: npt.NDArray[np.int64], on_step: Callable[[int], None]) -> None:
        assert self._build_space is not None
        rows, before = self._shuffle.permutation(rows), self.count - len(rows)
        for at in range(0, len(rows), self._step_rows):
            some = rows[at : at + self._step_rows]
            built = self._build_space.of(self._rows.gathered(some))
            parts = 1 if self._by_angle is None else 2
            for start in range(0, len(some), _REPORTED_ROWS):
                few = slice(start, start + _REPORTED_ROWS)
                labels = some[few].astype(np.uint64)
                self.index.add_items(built[0][few], labels, num_threads=self._threads)
                on_step(before + at + min(start + _REPORTED_ROWS, len(some)) // parts)
            if self._by_angle is not None:
                # Another order, so that this graph gets other links where both spaces agree.
                order = self._shuffle.permutation(len(some))
                labels = some[order].astype(np.uint64)
                self._by_angle.add_items(built[1][order], labels, num_threads=self._threads)
            on_step(before + at + len(some))

    def graph(self, work_dir: str | os.PathLike[str]) -> Graph:
        """Return the current graph, which hnswlib saves to a temporary file in work_dir.

        Raises:
            OSError: ENOSPC: the file is incomplete. hnswlib reports no error; the usual cause is a
                full disk.
            DataLossError: GRAPH: the file is not the graph that was saved.
        """
        if self.count == 0:
            return empty_graph(self._M)
        by_angle = self._by_angle
        return finish(
            self._saved(self.index, work_dir),
            self._rows,
            self._space,
            seed=self._seed,
            by_angle=None if by_angle is None else lambda: self._saved(by_angle, work_dir).links,
        )

    def _saved(self, index: hnswlib.Index, work_dir: str | os.PathLike[str]) -> Graph:
        with _temporary_file(work_dir) as path:
            index.save_index(str(path))
            return _read(path, self._rows.first_of, self._M, self._width)


@contextlib.contextmanager
def _temporary_file(folder: str | os.PathLike[str]) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix="graph-", suffix=".hnsw", dir=folder)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _read(path: Path, first_of: npt.NDArray[np.int64], M: int, width: int) -> Graph:
    """Read hnswlib's file into arrays in the order of the labels, which are the row numbers."""
    count, record = len(first_of), _record(M, width)
    rows = np.flatnonzero(first_of == np.arange(count))  # Without duplicates.
    n = len(rows)
    tail_at = _HEADER.size + n * record.itemsize
    size = path.stat().st_size
    if size < tail_at + 4 * n or size % 4:
        raise _cut_short(path)
    with open(path, "rb") as file:
        header = _HEADER.unpack(file.read(_HEADER.size))
    if (header[2], header[3], header[8]) != (n, record.itemsize, M):
        raise DataLossError(f"{path}: its header is not that of the saved graph", Reason.GRAPH)
    top_level, entry = header[6], header[7]
    nodes = np.memmap(path, record, "r", _HEADER.size, (n,))
    row_of = nodes["label"].astype(np.int64)
    if not np.array_equal(np.sort(row_of), rows):
        raise DataLossError(f"{path}: the labels differ from the rows added", Reason.GRAPH)
    links = np.full((count, 2 * M), -1, np.int32)
    for start in range(0, n, _BLOCK_ROWS):
        block = nodes[start : start + _BLOCK_ROWS]
        lists = _renumbered(block["links"], block["count"], row_of)
        links[row_of[start : start + _BLOCK_ROWS]] = lists
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


def _cut_short(path: Path) -> OSError:
    return OSError(
        errno.ENOSPC, "hnswlib could not write the whole graph; the disk is full", str(path)
    )


def _renumbered(
    lists: npt.NDArray[np.uint32], counts: npt.NDArray[np.integer], row_of: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """Convert lists of internal numbers to rows; -1 after the counts, where numbers are stale."""
    used = np.arange(lists.shape[1]) < counts[:, None]
    return np.where(used, row_of[np.where(used, lists, 0)], -1).astype(np.int32)


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
    """Yield the parts of a file that hnswlib's ``load_index`` reads.

    Args:
        graph: a graph of n nodes.
        vectors: blocks of float32 (m, width), n rows in all, by node.
        labels: int64 (n,).
        width: components of a row, including padding.
        M, ef_construction: of the graph, as for ``Builder``.
        capacity: capacity of the loaded index, in rows.
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


def _counted(
    lists: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    return (lists >= 0).sum(axis=1), np.maximum(lists, 0)


def _upper_words(graph: Graph, M: int) -> npt.NDArray[np.uint32]:
    """Return the part of the file above level 0, which consists of 32-bit words."""
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
