"""Scans of the nodes of a unit that match a filter."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.search.filtered import Selected
from vecdb.engine.search.hits import Found
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.system.deadline import Deadline

__all__ = ["NodeScans"]

_SKETCHES_MAX: Final = 1_000_000
"""Sketches that are compared with a query between two checks of the deadline: about 10 ms."""

_SLICE_FLOATS: Final = 2_000_000
"""Floats of rows, anywhere in memory, that are compared between two checks: about 5 ms."""

_QUERIES_AT_FIRST: Final = 4


class NodeScans:
    """Scans of some nodes. Thread-safe.

    Args:
        metric: code of the metric, for kernels.
    """

    def __init__(self, pool: KernelPool, metric: int) -> None:
        self._pool, self._metric = pool, metric

    def scan(
        self,
        one: Selected,
        queries: npt.NDArray[np.float32],
        k: int,
        deadline: Deadline,
        *,
        by_sketches: bool,
    ) -> Found:
        """Return the nearest of the live rows that match: exactly, or as their sketches have it."""
        nodes = one.selection.nodes
        if by_sketches:
            parts = [
                self._by_sketches(one, nodes[start : start + _SKETCHES_MAX], queries, k, deadline)
                for start in range(0, len(nodes), _SKETCHES_MAX)
            ]
            found = parts[0] if len(parts) == 1 else _best_of(parts)
        else:
            found = self._by_rows(one, nodes, queries, k, deadline)
        found.visited[:] = len(nodes)
        return found

    def _by_sketches(
        self,
        one: Selected,
        nodes: npt.NDArray[np.int32],
        queries: npt.NDArray[np.float32],
        k: int,
        deadline: Deadline,
    ) -> Found:
        unit, kernels = one.unit, load_kernels()
        found = Found.empty(unit, len(queries), k, walked=False)
        results, sketch = (found.nodes, found.scores, found.counts), unit.parts[SKETCH]
        count = found.nodes.shape[1]

        def scan(_: object, first: int, last: int) -> None:
            kernels.scan_nodes_by_sketches(
                unit.vectors, sketch, nodes, queries, first, last, self._metric, count, *results
            )

        self._pool.run(len(queries), _QUERIES_AT_FIRST, deadline, scan)
        return found

    def _by_rows(
        self,
        one: Selected,
        nodes: npt.NDArray[np.int32],
        queries: npt.NDArray[np.float32],
        k: int,
        deadline: Deadline,
    ) -> Found:
        unit, kernels = one.unit, load_kernels()
        found = Found.empty(unit, len(queries), k, walked=False)
        count, step = found.nodes.shape[1], max(1, _SLICE_FLOATS // unit.vectors.shape[1])

        def scan(_: object, first: int, last: int) -> None:
            for start in range(0, len(nodes), step):
                if start:
                    deadline.check()
                kernels.scan_nodes(
                    unit.vectors, nodes, start, min(len(nodes), start + step), queries, first,
                    last, self._metric, count, found.scores, found.nodes, found.counts,
                )  # fmt: skip
            kernels.sort_heaps(found.scores, found.nodes, found.counts, first, last)

        self._pool.run(len(queries), 1, deadline, scan)
        return found


def _best_of(parts: list[Found]) -> Found:
    """Return the best of several results for the same queries and other nodes of a unit."""
    shape = parts[0].nodes.shape
    used = [np.arange(shape[1]) < part.counts[:, None] for part in parts]
    scores = np.concatenate(
        [np.where(u, part.scores, np.inf) for u, part in zip(used, parts, strict=True)], axis=1
    )
    nodes = np.concatenate(
        [np.where(u, part.nodes, -1) for u, part in zip(used, parts, strict=True)], axis=1
    )
    order = np.lexsort((nodes, scores), axis=-1)[:, : shape[1]]
    best = parts[0]
    best.scores[:] = np.take_along_axis(scores, order, axis=1)
    best.nodes[:] = np.take_along_axis(nodes, order, axis=1)
    best.counts[:] = np.minimum(sum(part.counts for part in parts), shape[1])
    return best
