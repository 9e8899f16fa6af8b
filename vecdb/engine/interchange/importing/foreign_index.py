"""The common form of another library's index file, as returned by the readers.

Ids and the graph are small: they are in memory, and were checked when the file was read. Vectors
are read from the file in pieces. ``survey`` reads and checks all of them before anything is
written, so that an invalid file changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import Metric

__all__ = ["ForeignIndex", "Lengths", "Measure", "Rows", "check_ids_unique"]

Measure = Literal["l2", "inner product", "cosine"]
"""How the file's index compares vectors; "cosine": inner product, with normalised queries."""

UNIT_TOLERANCE: Final = 1e-3
"""Maximum deviation of a vector's length from 1 that still counts as unit length."""

_PIECE_BYTES: Final = 4 * 1024**2


@dataclass(frozen=True)
class Rows:
    """The vectors in a file: float32 at byte ``start + stride * row``, some rows skipped.

    Attributes:
        dim: components of a vector. count: number of rows that are not skipped.
        kept: int64 (count,): these rows' numbers in the file, ascending; None: all rows.
    """

    file: UntrustedFile
    start: int
    stride: int
    dim: int
    count: int
    kept: npt.NDArray[np.int64] | None = None

    def read(self, first: int, end: int) -> npt.NDArray[np.float32]:
        """Return rows first to end as float32 (end - first, dim), C-contiguous."""
        out = np.empty((end - first, self.dim), np.float32)
        if end == first:
            return out
        if self.kept is None and self.stride == 4 * self.dim:
            place = self.start + first * self.stride
            self.file.read_into(place, out.data.cast("B"), "vectors")
            return out
        numbers = np.arange(first, end) if self.kept is None else self.kept[first:end]
        for at in range(0, len(numbers), self._step):
            some = numbers[at : at + self._step]
            # Skipped rows between kept ones are read along, at most a piece at once.
            for part in np.split(some, np.flatnonzero(np.diff(some // self._step)) + 1):
                low, high = int(part[0]), int(part[-1]) + 1
                place = self.start + low * self.stride
                size = (high - low - 1) * self.stride + 4 * self.dim
                raw = np.frombuffer(self.file.read(place, size, "vectors"), np.uint8)
                row_of = np.searchsorted(numbers, part)
                strided = np.lib.stride_tricks.as_strided(
                    raw, (high - low, 4 * self.dim), (self.stride, 1)
                )
                out[row_of] = np.ascontiguousarray(strided[part - low]).view("<f4")
        return out

    def pieces(self, rows_max: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (first, end) of pieces of ``rows_max`` rows, or of a few megabytes, in order."""
        step = rows_max or self._step
        for first in range(0, self.count, step):
            yield first, min(first + step, self.count)

    def place_of(self, row: int, component: int = 0) -> int:
        """Return the byte offset of a component."""
        number = row if self.kept is None else int(self.kept[row])
        return self.start + number * self.stride + 4 * component

    @property
    def _step(self) -> int:
        return max(1, _PIECE_BYTES // max(1, self.stride))


@dataclass(frozen=True)
class Lengths:
    """The result of a survey.

    Attributes:
        oddest_row, oddest: the row whose length deviates most from 1, and that length.
        zero_row: a row of length 0, -1 if there is none.
        short_row: a row too short for any metric but cosine, -1 if there is none.
    """

    oddest_row: int
    oddest: float
    zero_row: int
    short_row: int

    @property
    def unit(self) -> bool:
        """Whether all vectors have length 1 within ``UNIT_TOLERANCE``."""
        return abs(self.oddest - 1) <= UNIT_TOLERANCE


@dataclass(frozen=True)
class ForeignIndex:
    """A parsed index file.

    Attributes:
        kind: type of the index in its library, for example "IndexIDMap2(IndexHNSWFlat)".
        dim, count: dimension and number of the vectors.
        measure: how the index compares vectors; None if the file does not store it.
        ids: int64 or uint64 (count,), unique; None if the ids are the row numbers.
        rows: the vectors.
        graph: the links, in the order of the rows; None without a graph.
        M, ef_construction: parameters of the graph, or None.
        no_graph: why there is no graph, for people.
        skipped: number of rows that are marked deleted in the file and skipped.
    """

    kind: str
    dim: int
    count: int
    measure: Measure | None
    ids: npt.NDArray[Any] | None
    rows: Rows
    graph: Graph | None
    M: int | None
    ef_construction: int | None
    no_graph: str = ""
    skipped: int = 0

    def number_of(self, row: int) -> int:
        """Return the id of a row in the file."""
        return row if self.ids is None else int(self.ids[row])

    def numbers(self, first: int, end: int) -> list[int]:
        """Return the ids of rows first to end in the file."""
        return list(range(first, end)) if self.ids is None else self.ids[first:end].tolist()

    def survey(self, check: Callable[[], None] = lambda: None) -> Lengths:
        """Read all vectors and check their components and lengths.

        Args:
            check: called before each piece; may raise to end the survey.

        Raises:
            InvalidArgumentError: BAD_FILE: a component is NaN, infinite, or too large for any
                metric.
        """
        oddest_row, oddest, zero_row, short_row = -1, 1.0, -1, -1
        for first, end in self.rows.pieces():
            check()
            vectors = self.rows.read(first, end)
            with np.errstate(over="ignore", invalid="ignore"):
                squares = np.einsum("ij,ij->i", vectors, vectors)
            bad = np.flatnonzero(~(squares <= np.float32(limits.SQUARED_NORM_MAX)))
            if len(bad):
                raise self._bad_vector(first + int(bad[0]), vectors[bad[0]])
            # In float64, as squares of small numbers underflow in float32.
            small = np.flatnonzero(squares <= np.float32(2 * limits.SQUARED_NORM_MIN))
            exact = np.square(vectors[small].astype(np.float64)).sum(axis=1)
            short = small[(exact > 0) & (exact < limits.SQUARED_NORM_MIN)]
            if len(short) and short_row < 0:
                short_row = first + int(short[0])
            if len(small) and zero_row < 0:
                zeros = small[~vectors[small].any(axis=1)]
                zero_row = first + int(zeros[0]) if len(zeros) else -1
            lengths = np.sqrt(squares)
            at = int(np.argmax(np.abs(lengths - 1)))
            if abs(lengths[at] - 1) > abs(oddest - 1):
                oddest_row, oddest = first + at, float(lengths[at])
        return Lengths(oddest_row, oddest, zero_row, short_row)

    def _bad_vector(self, row: int, vector: npt.NDArray[np.float32]) -> InvalidArgumentError:
        odd = np.flatnonzero(~np.isfinite(vector))
        if len(odd):
            component, what = int(odd[0]), f"{vector[odd[0]]}"
        else:
            component = int(np.argmax(np.abs(vector)))
            what = f"{vector[component]}, too large for a squared distance in float32"
        place = self.rows.place_of(row, component)
        return self.rows.file.wrong(place, "vectors", f"row {row}, component {component} is {what}")

    def metric_for(self, wanted: Metric | None, by: str = "") -> Metric:
        """Return the metric under which a collection returns the same neighbours as the index.

        Args:
            wanted: the metric of caller, sidecar or existing collection; None: the index's own.
            by: the source of ``wanted``, for the end of a message.

        Raises:
            InvalidArgumentError: METRIC_MISMATCH: ``wanted`` orders neighbours differently.
                BAD_METRIC: neither file nor caller has a metric.
        """
        usual = {
            "l2": Metric.EUCLIDEAN,
            "inner product": Metric.DOT,
            "cosine": Metric.COSINE,
            None: wanted,
        }[self.measure]
        if usual is None:
            raise InvalidArgumentError(
                f"{self.rows.file.called}: the file does not store its metric; pass metric",
                Reason.BAD_METRIC,
            )
        if wanted in (None, usual):
            return usual
        if wanted is not Metric.COSINE:
            raise InvalidArgumentError(
                f"{self.rows.file.called}: {self.kind} compares by {self.measure}: expected metric "
                f"{usual}, got {wanted}{by}",
                Reason.METRIC_MISMATCH,
            )
        return Metric.COSINE

    def check_lengths(self, metric: Metric, lengths: Lengths) -> None:
        """Check that the lengths fit the metric: unit length for cosine, else not too short.

        Raises:
            InvalidArgumentError: METRIC_MISMATCH: a vector has no unit length; BAD_FILE: a vector
                is zero or too short.
        """
        file = self.rows.file
        if metric is not Metric.COSINE:
            if lengths.short_row >= 0:
                place = self.rows.place_of(lengths.short_row)
                least = limits.SQUARED_NORM_MIN**0.5
                what = f"row {lengths.short_row} is not zero but shorter than {least:.3g}"
                raise file.wrong(place, "vectors", what)
            return
        if lengths.zero_row >= 0:
            place = self.rows.place_of(lengths.zero_row)
            what = f"row {lengths.zero_row} has length 0, for which cosine is not defined"
            raise file.wrong(place, "vectors", what)
        if not lengths.unit:
            raise InvalidArgumentError(
                f"{file.called}: metric cosine needs vectors of length 1, as the index does not "
                f"normalise them; row {lengths.oddest_row} has length {lengths.oddest:.6g}",
                Reason.METRIC_MISMATCH,
            )


def check_ids_unique(
    file: UntrustedFile, ids: npt.NDArray[np.generic], start: int, stride: int, field: str
) -> None:
    """Check that all ids are different.

    Args:
        start, stride: the id of row i is at byte start + stride * i.

    Raises:
        InvalidArgumentError: BAD_FILE, with the byte of the duplicate.
    """
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(again):
        row = int(order[again + 1].min())
        raise file.wrong(start + stride * row, field, f"duplicate id {ids[row]} at row {row}")
