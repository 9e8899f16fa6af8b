"""Sketches: each row in one or a few cache lines, precise enough to order a graph walk.

A row x is centred, and its products with some directions, its **heads**, are kept in 4 bits each.
The directions are those in which the rows vary most (principal components), turned at random among
themselves so that all heads weigh alike and one scale a row fits them:

    head h = (x - mean) · direction        stored as  h / scale + 7.5,  0 to 15
    scale  makes the sketch right along the row itself: (h · h) / (h · code)

With the squared length of the centred row, kept beside, the squared distance of a query q is

    |x - mean|² + |q - mean|² - 2 (x - mean) · (q - mean)

whose last product the heads estimate. Rows near each other are near in the directions left out,
too, so the estimate is multiplied by a **slope**, fitted to pairs two links apart in the graph.
For inner products the query is not centred and the length is 0, which leaves -x · q + constant.

An estimate only orders candidates: those that a search returns are scored again in float32. How
many of them that takes is measured (``trial.py``).

The bytes of a sketch are drawn in ``kernels/sketches.py``, the files in ``sketch_part.py``.

Sources: 4 bits and one scale a row as in LVQ (Aguerrebere et al. 2023, arXiv 2304.04759), leading
directions as in LeanVec (Tepper et al. 2023, arXiv 2312.16335), random turning as in RaBitQ (Gao
and Long 2024, arXiv 2405.12497).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.reachability import unreached_starts
from vecdb.engine.segments.codecs.basis import FACTOR_BYTES, LINE, Basis
from vecdb.types import Metric

__all__ = ["Sketch", "build_sketch", "choose_hubs", "decode", "differing", "encode"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

MIDDLE: Final = 7.5

_STEP: Final = 0.335
"""Distance of two codes that loses least of normally distributed heads, in standard deviations."""

_HUBS_MAX, _HUBS_LONE_MAX = 512, 2_048
"""Hubs at random, and all with those added for nodes that no random one leads to."""

_OFF_MAX: Final = 1
"""Steps that a 4-bit value may differ when it is computed again."""

_ROUNDED: Final = 2.6
"""Times the step of the directions' bytes and a row's length: a bound for the error of a head that
is computed from them. The error's deviation is 12**-0.5 of it; of this bound, six times that is for
the head, and half as much for the step that is derived from all heads."""

_SLOPE_NODES: Final = 200
_BLOCK_ROWS: Final = 8_192
_SEED: Final = 7


@dataclass(frozen=True)
class Sketch:
    """The sketches of a segment; ``sketch_part`` describes the arrays.

    Attributes:
        rescored: candidates to score again, at k = 1, 10 and 100.
    """

    codes: Bytes
    hubs: npt.NDArray[np.int32]
    hub_codes: Bytes
    mean: Floats
    basis: Bytes
    basis_steps: Floats
    slope: float
    slack: float
    explained: float
    rescored: tuple[int, int, int]
    centred: bool

    @property
    def query_mean(self) -> Floats:
        """What is subtracted from queries, as kernels want it: (0,) for nothing."""
        return self.mean if self.centred else self.mean[:0]

    @property
    def lines(self) -> int:
        """Cache lines of a sketch."""
        bytes_of_row: int = self.codes.shape[1]
        return bytes_of_row // LINE

    def rescored_for(self, k: int) -> int:
        """Return how many candidates to score again for the k nearest."""
        few, some, many = self.rescored
        if k >= 100:
            return max(k, -(-many * k // 100))
        low, high, steps = (few, some, np.log10(k)) if k < 10 else (some, many, np.log10(k) - 1)
        return max(k, round(low + (high - low) * float(steps)))


def places_of(heads: int, lines: int) -> npt.NDArray[np.int64]:
    """Return where each head lies among the 4-bit values of a sketch, int64 (heads,).

    Values are numbered line by line, the low bits of a line's bytes before the high ones.
    """
    free = np.ones((lines, 2, LINE), bool)
    free[-1, :, LINE - FACTOR_BYTES :] = False
    return np.flatnonzero(free.ravel())[:heads]


def encode(vectors: Floats, basis: Basis, metric: Metric) -> Bytes | None:
    """Return the sketches of rows, uint8 (n, 64 * lines); None if a length is not finite."""
    codes = np.zeros((len(vectors), LINE * basis.lines), np.uint8)
    places = places_of(len(basis.directions), basis.lines)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        with np.errstate(over="ignore", invalid="ignore"):
            centred = vectors[block] - basis.mean
            lengths = (centred * centred).sum(1)
            if not np.isfinite(lengths).all():
                return None
            _encode(centred @ basis.directions.T, places, codes[block])
        if metric is not Metric.DOT:
            codes[block, -4:] = lengths.astype("<f4").view(np.uint8).reshape(-1, 4)
    return codes


def _encode(heads: Floats, places: npt.NDArray[np.int64], out: Bytes) -> None:
    step = np.sqrt((heads * heads).mean(1)) * np.float32(_STEP)
    values = np.rint(heads / np.where(step > 0, step, 1)[:, None] + np.float32(MIDDLE))
    values = np.clip(values, 0, 15)
    along = (heads * (values - np.float32(MIDDLE))).sum(1)
    scale = np.where(along > 0, (heads * heads).sum(1) / np.where(along > 0, along, 1), 0)
    packed = np.zeros((len(heads), out.shape[1] * 2), np.uint8)
    packed[:, places] = values
    packed = packed.reshape(len(heads), -1, 2, LINE)
    out[:] = (packed[:, :, 0] | packed[:, :, 1] << 4).reshape(len(heads), -1)
    out[:, -FACTOR_BYTES:] = 0
    bits = np.ascontiguousarray(scale, np.float32).view(np.uint32)
    out[:, -8:-6] = ((bits + 0x8000) >> 16).astype("<u2").view(np.uint8).reshape(-1, 2)


def decode(codes: Bytes, heads: int) -> Floats:
    """Return the heads that sketches stand for, float32 (n, heads)."""
    values = values_of(codes, heads)
    scale = np.ascontiguousarray(codes[:, -8:-6]).view("<u2").astype(np.uint32) << np.uint32(16)
    decoded: Floats = (values - np.float32(MIDDLE)) * scale.view(np.float32)
    return decoded


def values_of(codes: Bytes, heads: int) -> Bytes:
    """Return the 4-bit values of sketches, uint8 (n, heads)."""
    lines = codes.reshape(len(codes), -1, LINE)
    values = np.stack([lines & 15, lines >> 4], axis=2).reshape(len(codes), -1)
    return values[:, places_of(heads, lines.shape[1])]


def _fitted(vectors: Floats, graph: Graph, basis: Basis, codes: Bytes) -> tuple[float, float]:
    """Return by what to multiply estimated products of rows two links apart to fit the true, and
    the standard deviation of what the estimated squared distances then miss."""
    estimated, true = [], []
    random = np.random.default_rng(_SEED)
    n = len(vectors)
    for node in random.choice(n, min(n, _SLOPE_NODES), replace=False):
        links = graph.links[node]
        near = np.unique(graph.links[links[(links >= 0) & (links < n)]])
        near = near[(near >= 0) & (near < n) & (near != node)]
        query = vectors[node] - basis.mean
        estimated.append(decode(codes[near], len(basis.directions)) @ (basis.directions @ query))
        true.append((vectors[near] - basis.mean) @ query)
    estimates, products = (np.concatenate(part).astype(np.float64) for part in (estimated, true))
    square = float(estimates @ estimates)
    slope = float(estimates @ products) / square if square > 0 else 1.0
    if not np.isfinite(slope) or slope <= 0:
        slope = 1.0
    slack = 2 * float(np.std(products - slope * estimates)) if len(products) else 0.0
    return slope, slack if np.isfinite(slack) else 0.0


def choose_hubs(graph: Graph) -> npt.NDArray[np.int32] | None:
    """Return nodes at random, the entry, and more until all nodes can be reached from them: int32
    (h,), or None if that takes too many."""
    n = len(graph.links)
    count = min(n, _HUBS_MAX, 4 * int(np.sqrt(n)))
    hubs = np.random.default_rng(_SEED).choice(n, count, replace=False)
    hubs = np.union1d(hubs, [graph.entry]).astype(np.int64)
    lone = unreached_starts(graph.links, hubs, _HUBS_LONE_MAX - len(hubs))
    return None if lone is None else np.union1d(hubs, lone).astype(np.int32)


def differing(vectors: Floats, sketch: Sketch) -> npt.NDArray[np.int64]:
    """Return the nodes whose sketches are not those of their vectors.

    Heads are computed again from the stored directions. These are rounded to bytes, so a value may
    be a step off, and more of a row that lies mostly in the directions left out: the error, about
    the rounding times the row's length, is then large beside its heads.
    """
    heads, found = len(sketch.basis), []
    directions = sketch.basis_steps[:, None] * (sketch.basis.astype(np.float32) - 128)
    directions = directions[:, : vectors.shape[1]]
    places = places_of(heads, sketch.lines)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        with np.errstate(over="ignore", invalid="ignore"):
            centred = vectors[block] - sketch.mean
            heads_again, lengths_again = centred @ directions.T, (centred * centred).sum(1)
            again = np.zeros_like(sketch.codes[block])
            _encode(heads_again, places, again)
            spread = np.sqrt((heads_again * heads_again).mean(1)) * _STEP
            rounding = float(sketch.basis_steps.max()) * np.sqrt(lengths_again)
            off_max = _OFF_MAX + np.where(spread > 0, _ROUNDED * rounding / spread, np.inf)
        stored = values_of(sketch.codes[block], heads).astype(np.int16)
        off = np.abs(values_of(again, heads).astype(np.int16) - stored).max(axis=1) > off_max
        if sketch.centred:
            lengths = np.ascontiguousarray(sketch.codes[block, -4:]).view("<f4")[:, 0]
            off |= ~np.isclose(lengths, lengths_again, rtol=1e-3, atol=1e-30)
        found.append(start + np.flatnonzero(off))
    return np.concatenate(found)


def build_sketch(
    vectors: Floats,
    graph: Graph,
    basis: Basis,
    hubs: npt.NDArray[np.int32],
    metric: Metric,
) -> Sketch | None:
    """Return the sketches of a segment's rows, with (0, 0, 0) candidates to score again.

    Args:
        vectors: float32 (n, width). hubs: int32 (h,), nodes at which walks begin.

    Returns:
        None if a squared length is not finite.
    """
    codes = encode(vectors, basis, metric)
    if codes is None:
        return None
    steps = np.maximum(np.abs(basis.directions).max(1) / 127, np.float32(1e-30)).astype(np.float32)
    width = vectors.shape[1]
    quantised = np.full((len(basis.directions), -(-width // LINE) * LINE), 128, np.uint8)
    quantised[:, :width] = np.rint(basis.directions / steps[:, None]) + 128
    return Sketch(
        codes,
        hubs,
        codes[hubs],
        basis.mean,
        quantised,
        steps,
        *_fitted(vectors, graph, basis, codes),
        basis.explained,
        (0, 0, 0),
        metric is not Metric.DOT,
    )
