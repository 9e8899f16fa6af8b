"""The directions that rows are coded by: those in which they vary most, turned at random.

The directions are the leading principal components of a sample of the rows: eigenvectors of its
scatter matrix. Those of wide rows are found by subspace iteration, which costs a fraction of a full
decomposition and finds directions that explain as much, if not the same ones (Halko, Martinsson and
Tropp 2011, algorithm 4.4). Turned at random among themselves, all of them weigh about alike, so
that one scale a row fits all of its heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.part_kind import LeftOut

__all__ = ["FACTOR_BYTES", "HEADS_OF_LINE", "LINE", "LINES_MAX", "Basis", "heads_in", "train"]

Floats = npt.NDArray[np.float32]

LINE: Final = 64
HEADS_OF_LINE: Final = 128
FACTOR_BYTES: Final = 8

LINES_MAX: Final = 8

WIDTH_MAX: Final = 4_096
"""Rows of more floats go without: their scatter matrix takes from 130 MB to gigabytes."""

_DECOMPOSED_MAX: Final = 2_048
"""Wider scatter matrices are not decomposed in full: that takes up to minutes."""

_PASSES: Final = 3
_SPARE_DIRECTIONS: Final = 32

EXPLAINED_MIN: Final = 0.94
"""Share of the variance from which sketches are precise; fewer lines are not tried."""

_SAMPLE_ROWS: Final = 20_000
_CUT_QUANTILE: Final = 0.99
"""Rows of the sample longer than this quantile are cut to it: a few huge ones would bend mean and
directions."""

_ROUNDING: Final = 1e-24
"""Variance, as a share of the squared lengths, that rounding makes of rows that are all equal."""

_BLOCK_ROWS: Final = 1_024
_SEED: Final = 7


@dataclass(frozen=True)
class Basis:
    """What rows are coded by.

    Attributes:
        mean: float32 (width,).
        directions: float32 (heads, width), orthonormal; the padding of rows has no part in them.
        explained: share of the sample's variance along the directions.
        lines: cache lines of a sketch.
    """

    mean: Floats
    directions: Floats
    explained: float
    lines: int


def heads_in(lines: int) -> int:
    """Return how many heads fit into a sketch."""
    return lines * HEADS_OF_LINE - 2 * FACTOR_BYTES


def train(vectors: Floats, lines_max: int = LINES_MAX) -> list[Basis] | LeftOut:
    """Return bases for rows, those of fewer lines first, from the fewest that are precise.

    Args:
        vectors: float32 (n, width), rows as a segment has them.
        lines_max: most lines of a sketch.

    Returns:
        Why there is none, if there is none.
    """
    width = vectors.shape[1]
    if width > WIDTH_MAX:
        return LeftOut(f"rows of {width} floats are wider than {WIDTH_MAX}")
    random = np.random.default_rng(_SEED)
    chosen = random.choice(len(vectors), min(len(vectors), _SAMPLE_ROWS), replace=False)
    mean, scatter, square = _scatter_of(vectors, np.sort(chosen))
    if not np.trace(scatter) > square * _ROUNDING:
        return LeftOut("the rows do not differ")
    total = float(np.trace(scatter))
    variances, axes = _leading(scatter / total, heads_in(lines_max), random)
    dim = int(np.flatnonzero(variances > 1e-12)[-1]) + 1  # The padding does not vary.
    bases = []
    for lines in range(1, lines_max + 1):
        heads = min(dim, heads_in(lines))
        explained = float(variances[:heads].sum())
        if explained >= EXPLAINED_MIN:
            turn = np.linalg.qr(random.standard_normal((heads, heads)))[0]
            directions = (turn @ axes[:, :heads].T).astype(np.float32)
            bases.append(Basis(mean.astype(np.float32), directions, explained, lines))
        if heads == dim:
            break
    return bases or LeftOut(f"{lines_max} lines hold only {explained:.0%} of the rows' variance")


def _leading(
    scatter: npt.NDArray[np.float64], count: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the largest eigenvalues of a matrix, at least ``count`` of them if it has so many,
    descending, and their eigenvectors as columns."""
    width = len(scatter)
    if width > _DECOMPOSED_MAX:
        single = scatter.astype(np.float32)
        space = random.standard_normal((width, count + _SPARE_DIRECTIONS)).astype(np.float32)
        for _ in range(_PASSES):
            space = np.linalg.qr(single @ space)[0]
        variances, turn = np.linalg.eigh((space.T @ single @ space).astype(np.float64))
        axes = space.astype(np.float64) @ turn
    else:
        variances, axes = np.linalg.eigh(scatter)
    return np.maximum(variances[::-1], 0), axes[:, ::-1]


def _scatter_of(
    vectors: Floats, chosen: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Return mean and scatter matrix of chosen rows, the longest cut, and their squared lengths'
    sum. In float64, where the squares of no float32 overflow."""
    lengths = np.concatenate([np.sqrt((b * b).sum(1)) for b in _blocks(vectors, chosen)])
    cut = np.quantile(lengths, _CUT_QUANTILE)
    factors = np.where(lengths > cut, cut, 1.0) / np.where(lengths > cut, lengths, 1.0)
    width = vectors.shape[1]
    mean, scatter, start = np.zeros(width), np.zeros((width, width)), 0
    for block in _blocks(vectors, chosen):
        mean += factors[start : start + len(block)] @ block / len(chosen)
        start += len(block)
    start = 0
    for block in _blocks(vectors, chosen):
        centred = block * factors[start : start + len(block), None] - mean
        scatter += centred.T @ centred
        start += len(block)
    return mean, scatter, float(((lengths * factors) ** 2).sum())


def _blocks(vectors: Floats, chosen: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float64]]:
    for start in range(0, len(chosen), _BLOCK_ROWS):
        yield vectors[chosen[start : start + _BLOCK_ROWS]].astype(np.float64)
