"""8-bit codes: rows in a quarter of their bytes, to be scanned exactly.

A scan reads the codes, which give a lower bound of each row's score. Rows whose bound is over the
worst score found so far are ruled out; few are left, and those are scored in float32. What is found
is what a scan of the float32 rows finds, bit for bit: bounds hold with certainty, for all rows and
queries (``kernels/byte_codes.py`` has the layout and the proof). Blunt bounds cost time only. How
many rows they rule out depends on the data, so it is measured on a sample, and segments that would
gain too little go without.

byte_codes.npy           uint8 (blocks, 16 * width): 16 rows in a block
byte_code_factors.npy    float32 (blocks, 4, 16)
byte_code_mean.npy       float32 (width,): subtracted from rows before they are coded

The part takes ``width + 16`` bytes a row, beside 4 * width of its float32 components.

Sources: codes of 8 bits with bounds as in VA-files (Weber, Schek and Blott 1998); one scale a row
of centred rows as in LVQ (Aguerrebere et al. 2023, arXiv 2304.04759).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.segments.part_check import PartCheck, PartFinding, StoreRecords
from vecdb.engine.segments.part_kind import (
    CheckedSegment,
    LeftOut,
    PartData,
    PartFiles,
    PartKind,
    PartSource,
)
from vecdb.engine.segments.row_arrays import ROW_IDS, VECTORS
from vecdb.types import Metric

__all__ = [
    "BYTE_CODES",
    "ByteCodes",
    "codes_of",
    "differing",
    "encode",
    "factors_of",
    "scored_share",
]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK_ROWS: Final = 16

ROWS_MIN: Final = 1_024
BYTES_MIN: Final = 2**20
"""Smaller segments are scanned in microseconds anyway, and much of that is finding k rows at all,
all of which have to be scored."""

WIDTH_MIN: Final = 32
"""Rows of one cache line gain next to nothing."""

SCORED_MAX: Final = 0.04
"""Share of the rows that bounds may fail to rule out. Scoring a single row costs as much as
scanning some ten in sequence, so codes stop paying at about twice this share."""

_TRIAL_QUERIES: Final = 16
_TRIAL_ROWS: Final = 8_192
_TRIAL_K: Final = 10

_MEAN_ROWS: Final = 256
_CUT: Final = 2.0
"""Rows longer than so many times the median are cut to it: a few huge ones would move the mean away
from all others."""

_LENGTH_MAX: Final = 2.0**63
"""Longer rows are not coded; as in the kernel."""

_BLOCK: Final = 4_096
_SLACK: Final = 1e-6
"""By how much numbers that were rounded to the safe side may exceed the exact ones."""


@dataclass(frozen=True)
class ByteCodes:
    """The codes of a segment; the module docstring describes the arrays."""

    codes: Bytes
    factors: Floats
    mean: Floats


def encode(vectors: Floats, metric: Metric, mean: Floats | None = None) -> ByteCodes:
    """Return the codes of rows, float32 (n, width); any ``mean`` gives bounds that hold."""
    mean = _mean_of(vectors) if mean is None else mean
    blocks = -(-len(vectors) // BLOCK_ROWS)
    codes = np.empty((blocks, BLOCK_ROWS * vectors.shape[1] // 4), np.uint32)
    factors = np.empty((blocks, 4, BLOCK_ROWS), np.float32)
    load_kernels().encode_rows(vectors, mean, _code_of(metric), codes, factors)
    return ByteCodes(codes.view(np.uint8), factors, mean)


def _mean_of(vectors: Floats) -> Floats:
    """Return about the mean of rows."""
    sample = vectors[:: -(-len(vectors) // _MEAN_ROWS) or 1].astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", sample, sample))
    cut = _CUT * np.median(lengths)
    sample *= (np.minimum(lengths, cut) / np.where(lengths > 0, lengths, 1))[:, None]
    mean: Floats = sample.mean(0).astype(np.float32)
    return mean


def _code_of(metric: Metric) -> int:
    kernels = load_kernels()
    code: int = kernels.EUCLIDEAN if metric is Metric.EUCLIDEAN else kernels.INNER
    return code


def scored_share(vectors: Floats, coded: ByteCodes, metric: Metric) -> float:
    """Return the share of rows that bounds fail to rule out, measured with some rows as queries.

    Not counted are those that any scan has to score, since it must find the nearest first.
    """
    stop, k = min(len(vectors), _TRIAL_ROWS), min(len(vectors), _TRIAL_K)
    queries = vectors[:: -(-len(vectors) // _TRIAL_QUERIES)]
    count = len(queries)
    heaps = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
    scored = np.zeros(count, np.int64)
    load_kernels().scan_by_codes(
        vectors, coded, np.zeros(0, np.uint8), 0, stop, np.ascontiguousarray(queries), 0, count,
        _code_of(metric), k, *heaps, np.zeros(count, np.int64), scored,
    )  # fmt: skip
    # The i-th row of a random order is among the k nearest so far with probability k / i.
    certain = k * (1 + np.log(stop / k))
    return float(max(0.0, np.median(scored) - certain) / stop)


class _ByteCodesPart(PartKind[ByteCodes]):
    name = "byte_codes"
    arrays = ("byte_codes", "byte_code_factors", "byte_code_mean")
    needed = False
    derived_from = (VECTORS,)
    codes = True

    def write(self, value: ByteCodes) -> PartData:
        arrays = (value.codes, value.factors, value.mean)
        return PartData(dict(zip(self.arrays, arrays, strict=True)))

    def read(self, files: PartFiles) -> ByteCodes:
        codes, factors, mean = (files.arrays[name] for name in self.arrays)
        blocks = -(-files.count // BLOCK_ROWS)
        files.check(
            fit=codes.shape == (blocks, BLOCK_ROWS * files.width)
            and factors.shape == (blocks, 4, BLOCK_ROWS)
            and mean.shape == (files.width,)
        )
        return ByteCodes(codes, factors, mean)

    def described(self, value: ByteCodes) -> str:
        return "8-bit codes"

    def applies_to(self, source: PartSource) -> bool:
        return super().applies_to(source) and not _too_small(source.parts[VECTORS])

    def derive(self, source: PartSource) -> ByteCodes | LeftOut:
        vectors, metric = source.parts[VECTORS], source.config.metric
        coded = encode(vectors, metric)
        share = scored_share(vectors, coded, metric)
        if share > SCORED_MAX:
            return LeftOut(f"bounds by 8 bits would leave {share:.0%} of the rows to be scored")
        return coded

    def check(self, value: ByteCodes, segment: CheckedSegment) -> PartCheck:
        return _ByteCodesCheck(value, segment)


class _ByteCodesCheck(PartCheck):
    """Checks that codes and factors are those of the rows, so that bounds hold."""

    def __init__(self, coded: ByteCodes, segment: CheckedSegment) -> None:
        self._coded, self._segment = coded, segment

    def examine(self, records: StoreRecords) -> Iterator[PartFinding]:
        segment = self._segment
        off = differing(segment.parts[VECTORS], self._coded, segment.config.metric)
        what = (
            f"rows of segment {segment.number} have 8-bit codes that are not those of their vectors"
        )
        yield PartFinding("BYTE_CODES", what, rows=segment.parts[ROW_IDS].rows[off])


BYTE_CODES = _ByteCodesPart()


def _too_small(vectors: Floats) -> bool:
    return len(vectors) < ROWS_MIN or vectors.nbytes < BYTES_MIN or vectors.shape[1] < WIDTH_MIN


def differing(vectors: Floats, coded: ByteCodes, metric: Metric) -> npt.NDArray[np.int64]:
    """Return the nodes whose codes or factors are not those of their vectors.

    Factors are rounded to the safe side, and sums may differ between processors: they are right if
    they are on the safe side of the exact numbers, and hardly farther than need be.
    """
    found, mean = [np.zeros(0, np.int64)], coded.mean.astype(np.float64)
    mean_length = float(np.sqrt(mean @ mean))
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK].astype(np.float64) - mean
        scale, constant, error, length = factors_of(coded, start, len(rows))
        with np.errstate(invalid="ignore"):  # inf - inf, where a planted number is infinite.
            coded_rows = scale[:, None] * codes_of(coded, start, len(rows))
            lengths = np.sqrt((rows * rows).sum(1))
            if metric is Metric.EUCLIDEAN:
                true, terms = lengths * lengths, lengths * lengths
            else:
                true, terms = -(rows @ mean), lengths * mean_length
            left = rows - coded_rows
            right = _is_just_above(error, np.sqrt((left * left).sum(1)), lengths)
            right &= _is_just_above(length, np.sqrt((coded_rows * coded_rows).sum(1)), lengths)
            right &= _is_just_above(-constant, -true, terms)
        uncoded = np.isinf(error) & (scale == 0) & (constant == 0) & (length == 0)
        too_long = lengths + mean_length > _LENGTH_MAX * (1 - _SLACK)
        found.append(start + np.flatnonzero(~(right | (uncoded & too_long))))
    return np.concatenate(found)


def _is_just_above(
    rounded: npt.NDArray[np.float64], exact: npt.NDArray[np.float64], size: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    # Far below the slack that the kernel adds, and far above the rounding of these sums.
    tolerance = 1e-10 * size
    return (rounded >= exact - tolerance) & (
        rounded <= exact + _SLACK * (np.abs(exact) + size) + 1e-44
    )


def factors_of(coded: ByteCodes, start: int, count: int) -> list[npt.NDArray[np.float64]]:
    """Return scale, constant, error and length of some rows; ``start`` begins a block."""
    blocks = coded.factors[start // BLOCK_ROWS : -(-(start + count) // BLOCK_ROWS)]
    by_factor = blocks.transpose(1, 0, 2).reshape(4, -1)[:, :count]
    return list(by_factor.astype(np.float64))


def codes_of(coded: ByteCodes, start: int, count: int) -> npt.NDArray[np.float64]:
    """Return the codes of some rows, (count, width), -127 to 127; ``start`` begins a block."""
    blocks = coded.codes[start // BLOCK_ROWS : -(-(start + count) // BLOCK_ROWS)]
    width = coded.mean.shape[0]
    rows = blocks.reshape(len(blocks), -1, BLOCK_ROWS, 4).transpose(0, 2, 1, 3).reshape(-1, width)
    codes: npt.NDArray[np.float64] = rows[:count].astype(np.float64) - 128
    return codes
