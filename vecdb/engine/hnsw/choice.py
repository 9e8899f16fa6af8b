"""Which builder suits these rows? Decided by a trial on a sample.

hnswlib is the reference: its graph is on the float32 rows themselves. The graph of ``BatchBuilder``
is on codes and built in a fraction of the time. For most rows it is as good; where rows are nearer
to each other than the steps of their codes it is not. So both build a graph of a sample, and rows
left out of it are searched for in both.

Graphs are compared at equal cost: by the true neighbours that are missed when as many nodes are
visited.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.batch_builder import BatchBuilder
from vecdb.engine.hnsw.build_rows import gather
from vecdb.engine.hnsw.build_space import Space
from vecdb.engine.hnsw.builder import Builder
from vecdb.engine.hnsw.graph import BATCHES, HNSWLIB_BY_TRIAL, Graph
from vecdb.engine.kernels.loading import load_kernels

__all__ = ["TRIAL_ROWS", "AnyBuilder", "Curve", "Trial", "builder_class", "excess_of", "run_trial"]

TRIAL_ROWS: Final = 10_000
"""Rows of the sample that both graphs are built of."""

_QUERIES: Final = 2_000
_K: Final = 10
_EFS: Final = (12, 24, 48, 96, 192)
_EXCESS_MAX: Final = 0.05
"""By how much more may be missed, relative to what is missed, on average over the efforts; one
standard error is allowed beyond it,"""

_ERROR_MAX: Final = 0.05
"""but no more than this."""

_MISSED_MIN: Final = 0.0005
"""Fraction missed below which an effort is not compared: a handful of neighbours."""

_CPU_FRACTION_MAX: Final = 1.25
"""Of hnswlib's CPU time. The larger the graph, the smaller the fraction: hnswlib waits for memory.
With 10,000 word vectors of 50 components it is 1.0, with 400,000 of them 0.6."""

Floats: TypeAlias = npt.NDArray[np.float32]
AnyBuilder: TypeAlias = Builder | BatchBuilder


def builder_class(built_by: str) -> type[Builder] | type[BatchBuilder]:
    """Return the builder that ``Graph.built_by`` names."""
    return BatchBuilder if built_by == BATCHES else Builder


@dataclass(frozen=True)
class Trial:
    """The result of a trial.

    Attributes:
        built_by: ``BATCHES`` or ``HNSWLIB_BY_TRIAL``.
        excess: how much more the graph built in batches misses, relative to what hnswlib's misses;
            negative if it misses less.
        error: standard error of ``excess``.
        cpu_fraction: CPU time of building in batches, relative to hnswlib's.
    """

    built_by: str
    excess: float
    error: float
    cpu_fraction: float


def run_trial(
    blocks: Sequence[Floats],
    *,
    space: Space,
    M: int,
    ef_construction: int,
    work_dir: str | os.PathLike[str],
    threads: int,
    seed: int = 0,
) -> Trial:
    """Build a graph of a sample with each builder, and compare them.

    Args:
        blocks: the rows, float32 (m, width) each; at least twice ``TRIAL_ROWS`` in all.
        space, M, ef_construction, threads: as for ``Builder``.
        work_dir: folder for a temporary file.
        seed: of the sample.
    """
    width = blocks[0].shape[1]
    count = sum(len(block) for block in blocks)
    chosen = np.random.default_rng(seed).permutation(count)[: TRIAL_ROWS + _QUERIES]
    sample = gather(blocks, chosen, width)
    rows, queries = sample[:-_QUERIES], sample[-_QUERIES:]
    metric = load_kernels().INNER if space == "dot" else load_kernels().EUCLIDEAN
    kth = _kth_scores(rows, queries, metric)
    curves, cpu_s = [], []
    for maker in (Builder, BatchBuilder):
        began = time.process_time()
        builder = maker(space, width, M, ef_construction, len(rows), threads)
        builder.add(rows)
        graph = builder.graph(work_dir)
        cpu_s.append(time.process_time() - began)
        curves.append(_curve(graph, rows, queries, metric, kth))
    excess, error = excess_of(*curves)
    fraction = cpu_s[1] / max(cpu_s[0], 1e-9)
    good = excess <= _EXCESS_MAX + min(error, _ERROR_MAX) and fraction <= _CPU_FRACTION_MAX
    return Trial(BATCHES if good else HNSWLIB_BY_TRIAL, excess, error, fraction)


@dataclass(frozen=True)
class Curve:
    """What searches with rising effort cost and miss.

    Attributes:
        visited: float64 (efforts,), nodes visited, on average.
        missed: float64 (efforts, queries), fraction of the true neighbours that were missed.
    """

    visited: npt.NDArray[np.float64]
    missed: npt.NDArray[np.float64]

    def at(self, visited: float) -> npt.NDArray[np.float64]:
        """Return what is missed at this cost, float64 (queries,), between the two efforts next to
        it."""
        place = float(np.interp(np.log(visited), np.log(self.visited), np.arange(len(_EFS))))
        low = min(int(place), len(_EFS) - 2)
        part = place - low
        return np.asarray((1 - part) * self.missed[low] + part * self.missed[low + 1])


def excess_of(reference: Curve, own: Curve) -> tuple[float, float]:
    """Return how much more ``own`` misses at equal cost, and its standard error.

    Each effort counts relative to what both miss at it, so that high recall counts as much as low.
    """
    relative = []
    for visited, missed in zip(reference.visited, reference.missed, strict=True):
        others = own.at(float(visited))
        level = (missed.mean() + others.mean()) / 2
        if level >= _MISSED_MIN:
            relative.append((others - missed) / level)
    if not relative:
        return 0.0, 0.0
    each = np.mean(relative, axis=0)
    return float(each.mean()), float(each.std() / np.sqrt(len(each)))


def _kth_scores(rows: Floats, queries: Floats, metric: int) -> Floats:
    """Return the score of each query's k-th nearest row, float32 (q,)."""
    kernels, q = load_kernels(), len(queries)
    scores, nodes = np.empty((q, _K), np.float32), np.empty((q, _K), np.int64)
    counts = np.zeros(q, np.int64)
    kernels.scan_rows(
        rows, np.zeros(0, np.uint8), 0, len(rows), queries, 0, q, metric, _K, scores, nodes, counts
    )
    kernels.sort_heaps(scores, nodes, counts, 0, q)
    return np.asarray(scores[:, -1])


def _curve(graph: Graph, rows: Floats, queries: Floats, metric: int, kth: Floats) -> Curve:
    kernels, q = load_kernels(), len(queries)
    scratch, nothing = kernels.Scratch(), np.zeros(0, np.uint8)
    visited, missed = [], []
    for ef in _EFS:
        scores, nodes = np.full((q, _K), np.inf, np.float32), np.empty((q, _K), np.int64)
        counts, nodes_visited = np.zeros(q, np.int64), np.zeros(q, np.int64)
        kernels.walk(
            scratch, rows, graph, nothing, queries, 0, q, metric, _K, ef, nodes, scores, counts,
            nodes_visited,
        )  # fmt: skip
        visited.append(float(nodes_visited.mean()))
        missed.append(np.mean(scores > kth[:, None], axis=1))
    return Curve(np.maximum.accumulate(visited), np.array(missed))
