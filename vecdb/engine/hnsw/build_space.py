"""The vectors that a graph is built on, which may differ from the stored ones that a walk scores.

A walk scores the rows as stored. The graph is built by hnswlib, which computes in float32, on rows
transformed so that the links serve such walks best:

    ip     unit vectors, unchanged, by 1 - inner product.
    l2     Euclidean distance, rows times a power of two, so that squared distances neither
           overflow nor underflow. The scaling is exact, so the graph is the one of the rows
           themselves. Also used for the unit vectors of cosine: the order is the same as that of
           1 - inner product, which rounds nearly equal vectors to the same distance.
    dot    two graphs: one by the inner product of the rows minus most of their mean, times a power
           of two; one by the angle between the centred rows. The neighbours of the second are
           added to the lists of the first that have room. Lists that are still short get random
           nodes.

**Dot product.** Subtracting one vector from all rows changes every score of a query by the same
number, so the order of results stays the same; without it, rows that share a large component are
hard to tell apart. A graph by the inner product finds the best rows for queries that are far from
all rows, as they are if vector lengths differ (Morozov & Babenko 2018, ip-NSW). Its lists are
short, since few rows are nearer to a row than a long one is, and many rows are in no list. A graph
by the angle contains all rows and connects them (Liu et al. 2020, ip-NSW+). It is built by
Euclidean distance on unit vectors, which distinguishes directions that 1 - inner product rounds to
the same value. If both graphs leave a list short, as with rows of few directions or dimensions, no
score leads on from that node, but random links do. Making all lengths equal with an additional
component (Bachrach et al. 2014) suits queries distributed like the rows. If lengths differ, the
rows then concentrate at a pole, far from all queries, and recall falls below 0.3.

hnswlib computes 1 - inner product in float32. Rows are scaled up so that the products are large
and the 1 costs them no precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from vecdb.types import Metric

__all__ = ["BuildSpace", "Space", "chain_duplicates", "fill_lists", "scatter", "space_of"]

Space = Literal["ip", "l2", "dot"]
"""What a graph is built for: unit vectors, Euclidean distance, inner product."""

_SCALE_EXPONENT: Final[dict[Space, int]] = {"l2": 0, "dot": 20}
"""Power of two to which the largest component of the first rows is scaled."""

_MEAN_LEFT: Final = 0.5
"""Length of the mean left in the rows of the graph by inner product, relative to their spread (root
mean square). With none, queries that share the mean are far from all rows: at 40,000 positive rows
of 64 components recall@10 was 0.914. With all of it, recall of queries that do not share the mean
falls from 0.904 to 0.789. With this value they are 0.996 and 0.865."""

_UNSCALED_RANGE: Final = 2.0**-30, 2.0**30
"""For Euclidean distance, rows whose largest component is between these are not scaled."""

_LARGEST_MAX: Final = 2.0**50
"""Largest component after scaling: the sum of 16,384 squares of it still fits a float32."""

_BLOCK_BYTES: Final = 4 * 1024**2
_LISTS_AT_ONCE: Final = 4_096

Vectors = npt.NDArray[np.float32]


def space_of(metric: Metric) -> Space:
    """Return the space in which graphs of a metric are built."""
    spaces: dict[Metric, Space] = {Metric.EUCLIDEAN: "l2", Metric.COSINE: "l2", Metric.DOT: "dot"}
    return spaces[metric]


class BuildSpace:
    """Centre and scale, computed from the first rows and kept for later ones while they fit.

    Args:
        space: see the module's docstring.
        blocks: the first rows, float32 (m, width) each, not all empty.
    """

    def __init__(self, space: Space, blocks: Iterable[Vectors]) -> None:
        self._space = space
        self._exponent = 0
        self._centre: npt.NDArray[np.float64] = np.zeros(1)  # Subtracted for the angle,
        self._offset = self._centre  # and for the inner product.
        if space == "ip":
            return
        if space == "dot":
            self._centre = _mean(blocks := list(blocks))
            self._offset = self._centre * self._subtracted_fraction(blocks)
        largest = max(self._largest(block) for block in blocks)
        if largest > 0 and not (
            space == "l2" and _UNSCALED_RANGE[0] < largest < _UNSCALED_RANGE[1]
        ):
            self._exponent = _SCALE_EXPONENT[space] - int(np.frexp(largest)[1])

    def fits(self, vectors: Vectors) -> bool:
        """Return whether these rows fit the scale; if not, choose a new one and rebuild."""
        if self._space == "ip":
            return True
        return bool(np.ldexp(self._largest(vectors), self._exponent) <= _LARGEST_MAX)

    def of(self, vectors: Vectors) -> tuple[Vectors, ...]:
        """Return the rows to build on, float32 (m, width): one array per graph."""
        if self._space == "ip":
            return (vectors,)
        if self._space == "l2":
            return (vectors if self._exponent == 0 else np.ldexp(vectors, self._exponent),)
        scaled, unit = np.empty_like(vectors), np.empty_like(vectors)
        for chosen, rows in _shifted(vectors, self._centre):
            scaled[chosen] = np.ldexp(rows + (self._centre - self._offset), self._exponent)
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
            unit[chosen] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
        return scaled, unit

    def _largest(self, vectors: Vectors) -> float:
        """Return the largest absolute component of the rows minus the offset."""
        parts = (
            float(np.abs(rows).max(initial=0.0)) for _, rows in _shifted(vectors, self._offset)
        )
        return max(parts, default=0.0)

    def _subtracted_fraction(self, blocks: list[Vectors]) -> float:
        """Return the fraction of the centre to subtract for the graph by inner product; see
        ``_MEAN_LEFT``."""
        length = float(np.sqrt(np.sum(np.square(self._centre))))
        squares = (
            float(np.sum(np.square(rows)))
            for block in blocks
            for _, rows in _shifted(block, self._centre)
        )
        spread = np.sqrt(sum(squares) / max(1, sum(len(block) for block in blocks)))
        return max(0.0, 1.0 - _MEAN_LEFT * float(spread) / length) if length > 0 else 0.0


def _slices(vectors: Vectors) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // (8 * max(1, vectors.shape[1])))
    for start in range(0, len(vectors), step):
        yield slice(start, start + step)


def _shifted(
    vectors: Vectors, centre: npt.NDArray[np.float64]
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    for chosen in _slices(vectors):
        yield chosen, vectors[chosen].astype(np.float64) - centre


def _mean(blocks: list[Vectors]) -> npt.NDArray[np.float64]:
    total = np.zeros(blocks[0].shape[1])
    for block in blocks:
        for chosen in _slices(block):
            total += block[chosen].sum(axis=0, dtype=np.float64)
    return np.asarray(total / max(1, sum(len(block) for block in blocks)))


def fill_lists(links: npt.NDArray[np.int32], others: npt.NDArray[np.int32]) -> None:
    """Append the neighbours in ``others`` to the lists in ``links`` that have room, in place.

    Args:
        links, others: int32 (n, slots), padded at the end with -1.
    """
    slots = links.shape[1]
    for start in range(0, len(links), _LISTS_AT_ONCE):
        mine, more = (
            links[start : start + _LISTS_AT_ONCE],
            others[start : start + _LISTS_AT_ONCE].copy(),
        )
        for slot in range(slots):
            more[more == mine[:, slot, None]] = -1
        both = np.concatenate([mine, more], axis=1)
        order = np.argsort(both < 0, axis=1, kind="stable")[:, :slots]
        mine[:] = np.take_along_axis(both, order, axis=1)


def scatter(
    links: npt.NDArray[np.int32], rows: npt.NDArray[np.int64], least: int, seed: int
) -> None:
    """Fill the lists of some nodes up to ``least`` neighbours with random nodes, in place.

    Args:
        links: int32 (n, slots), padded at the end with -1.
        rows: the nodes, int64, ascending; the random neighbours are chosen from them too.
        least: wanted length of the lists.
        seed: of the random choice.
    """
    used = np.count_nonzero(links[rows] >= 0, axis=1)
    short = rows[used < least]
    others = np.random.default_rng(seed).choice(rows, (len(short), least)).astype(np.int32)
    others[np.arange(least) + used[used < least][:, None] >= least] = -1
    others.sort(axis=1)
    others[:, 1:][others[:, 1:] == others[:, :-1]] = -1
    others[others == short[:, None]] = -1
    lists = links[short]
    fill_lists(lists, np.pad(others, ((0, 0), (0, links.shape[1] - least)), constant_values=-1))
    links[short] = lists


def chain_duplicates(links: npt.NDArray[np.int32], first_of: npt.NDArray[np.int64]) -> None:
    """Link duplicates into a chain, in place.

    The list of a duplicate gets the first equal row, the next duplicates, and in turns neighbours
    of one of the first row's neighbours, a different one for each duplicate, and random rows.
    Without those, duplicates would fill the candidates of a walk and end it; the random ones matter
    where all rows are equally far from each other (one-hot vectors), as a graph built from ties
    links all rows to the same few. The list of the first row gets the second.

    Args:
        links: int32 (n, slots), padded at the end with -1.
        first_of: int64 (n,), for each row the first equal row, itself if there is none before.
    """
    slots = links.shape[1]
    duplicates = np.flatnonzero(first_of != np.arange(len(first_of)))
    if not len(duplicates):
        return
    duplicates = duplicates[np.argsort(first_of[duplicates], kind="stable")]
    firsts = first_of[duplicates]
    heads, at, copies = np.unique(firsts, return_index=True, return_counts=True)
    used = (links[heads] >= 0).sum(axis=1)
    turn = np.arange(len(duplicates)) - np.repeat(at, copies)
    beside = links[firsts, turn % np.repeat(np.maximum(used, 1), copies)]
    further = np.where(beside[:, None] >= 0, links[beside], -1)
    chain = np.full((len(duplicates), slots), -1, np.int32)
    chain[:, 0] = firsts
    for ahead in range(1, min(slots // 2, len(duplicates))):
        together = firsts[ahead:] == firsts[:-ahead]
        chain[:-ahead][together, ahead] = duplicates[ahead:][together]
    random = np.random.default_rng(len(first_of))
    distinct = np.flatnonzero(first_of == np.arange(len(first_of))).astype(np.int32)
    drawn = distinct[random.integers(0, len(distinct), (len(duplicates), slots // 4))]
    further = np.concatenate([further[:, : slots // 4], drawn, further[:, slots // 4 :]], axis=1)
    further[further == firsts[:, None]] = -1
    fill_lists(chain, further)
    links[duplicates] = chain
    links[heads, np.minimum(used, slots - 1)] = duplicates[at]
