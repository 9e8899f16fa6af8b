"""Build graphs in batches on codes of 8 bits: several times faster than hnswlib, deterministic.

The graph is an HNSW graph like hnswlib's, pruned by the same rule, so it is searched, extended and
exported like any other. ``layers.py`` says how rows are inserted. As to the order of insertion,
duplicates and what graphs are built on, ``Builder`` and ``BatchBuilder`` do the same.

How good the graph is depends on how much 8 bits leave of the distances. ``choice.py`` compares it
with hnswlib's on a sample of the rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.build_rows import BuildRows
from vecdb.engine.hnsw.build_space import BuildSpace, Space
from vecdb.engine.hnsw.finishing import (
    check_extendable,
    empty_graph,
    finish,
    without_duplicates,
)
from vecdb.engine.hnsw.graph import BATCHES, Graph
from vecdb.engine.hnsw.layers import Layers, draw_levels

__all__ = ["BatchBuilder"]

_STEP_ROWS: Final = 50_000
_STEP_BYTES: Final = 64 * 1024**2
"""Most rows, and most bytes, inserted in one step, which copies them in shuffled order."""

_EF_FACTOR: Final = 1.5
"""Candidates kept while a row is inserted, per candidate that hnswlib would keep. They cost little,
as gamma ends many walks before (``layers.py``)."""


class BatchBuilder:
    """A graph under construction. Not thread-safe; ``add`` uses ``threads`` threads of its own.

    The graph depends on the rows, the calls of ``add`` and the seed, not on ``threads``.

    Args:
        space, width, M, ef_construction, capacity, threads, seed: as for ``Builder``.
    """

    built_by = BATCHES

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
        self._space, self._width, self._M, self._seed = space, width, M, seed
        self._ef, self._threads = int(_EF_FACTOR * ef_construction), threads
        self._random = np.random.default_rng(seed)
        self._rows = BuildRows(width)
        self._build_space: BuildSpace | None = None
        self._make_empty(max(capacity, 1))

    def _make_empty(self, capacity: int) -> None:
        # For "dot", by inner product and by angle; see ``build_space.py``.
        inners = {"l2": (False,), "ip": (False,), "dot": (True, False)}[self._space]
        self._layers = [
            Layers(
                self._width,
                self._M,
                self._ef,
                inner=inner,
                capacity=capacity,
                threads=self._threads,
            )
            for inner in inners
        ]
        self._order = [np.empty(0, np.int64) for _ in inners]  # The rows as they were inserted.

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
    ) -> BatchBuilder:
        """Return a builder that extends a finished graph; its rows keep their numbers.

        Args:
            graph, …, seed: as for ``Builder.from_graph``; work_dir is not used.

        Raises:
            DataLossError: GRAPH: the arrays are inconsistent.
        """
        n, width = vectors.shape
        builder = cls(space, width, M, ef_construction, max(capacity, n), threads, seed)
        if n == 0:
            return builder
        check_extendable(graph, n, M)
        builder._rows.append(vectors)
        rows = builder._rows.firsts_from(0)
        distinct = graph if len(rows) == n else without_duplicates(graph, rows)
        chosen = builder._build_space = BuildSpace(space, [vectors])
        for which, layers in enumerate(builder._layers):
            starts = range(0, len(rows), step := builder._step_rows)
            layers.load(
                distinct, (chosen.of(vectors[rows[at : at + step]])[which] for at in starts)
            )
            builder._order[which] = rows
        return builder

    @property
    def count(self) -> int:
        """Return the number of rows added so far."""
        return self._rows.count

    @property
    def _step_rows(self) -> int:
        return max(1, min(_STEP_ROWS, _STEP_BYTES // (4 * self._width)))

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
            rows = self._rows.firsts_from(0)
            self._make_empty(len(rows))
        self._insert(rows, on_step)

    def _insert(self, rows: npt.NDArray[np.int64], on_step: Callable[[int], None]) -> None:
        assert self._build_space is not None
        before = self.count - len(rows)
        plans = [self._planned(rows, which) for which in range(len(self._layers))]
        for at in range(0, len(rows), self._step_rows):
            size = min(self._step_rows, len(rows) - at)

            def inserted(done: int, which: int, at: int = at, size: int = size) -> None:
                on_step(before + at + (which * size + done) // len(plans))

            for which, (order, levels) in enumerate(plans):
                some = slice(at, at + size)
                built = self._build_space.of(self._rows.gathered(order[some]))[which]
                self._layers[which].insert(built, levels[some], partial(inserted, which=which))

    def _planned(
        self, rows: npt.NDArray[np.int64], which: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Note the order in which to insert rows; return it and their levels."""
        order = self._random.permutation(rows)
        self._order[which] = np.concatenate([self._order[which], order])
        self._layers[which].reserve(len(self._order[which]))
        return order, draw_levels(len(rows), self._M, self._random)

    def graph(self, work_dir: str | os.PathLike[str] | None = None) -> Graph:
        """Return the current graph; ``work_dir`` is not used."""
        if self.count == 0:
            return replace(empty_graph(self._M), built_by=BATCHES)
        whole = [
            layers.graph(order, self.count)
            for layers, order in zip(self._layers, self._order, strict=True)
        ]
        graph = finish(
            whole[0],
            self._rows,
            self._space,
            seed=self._seed,
            by_angle=(lambda: whole[1].links) if len(whole) > 1 else None,
        )
        return replace(graph, built_by=BATCHES)
