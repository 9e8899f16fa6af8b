"""Rows in the form of a segment, and the two parts that hold them.

vectors.npy         float32 (n, width): dim padded with zeros to a multiple of 16, unit length
                    under cosine
rows.npy            int64 (n,), ascending row numbers
id_offsets.npy      int64 (n + 1,): the id of node i is
id_bytes.npy        uint8: id_bytes[id_offsets[i]:id_offsets[i + 1]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.array_files import SegmentDamagedError
from vecdb.engine.segments.part_check import PartCheck, PartFinding, StoreRecords, is_among
from vecdb.engine.segments.part_kind import CheckedSegment, PartData, PartFiles, PartKind, Parts
from vecdb.reasons import Reason

__all__ = ["ROW_IDS", "VECTORS", "RowArrays", "RowIds"]

_GATHERED_IDS_MIN: Final = 64
"""From this many ids on, decoding them in one piece is faster than one by one."""


_HASHED_IDS: Final = 65_536
"""Ids that a check hashes at once, to bound the memory for their texts."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowIds:
    """Row numbers and ids; the module docstring describes the arrays."""

    rows: npt.NDArray[np.int64]
    id_offsets: npt.NDArray[np.int64]
    id_bytes: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RowArrays:
    """Vectors, row numbers and ids; the module docstring describes the arrays."""

    vectors: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    id_offsets: npt.NDArray[np.int64]
    id_bytes: npt.NDArray[np.uint8]

    @staticmethod
    def joined(parts: Sequence[RowArrays], width: int) -> RowArrays:
        """Return copies of parts, one after the other; ``width`` counts if there are none."""
        if not parts:
            return RowArrays(
                np.zeros((0, width), np.float32),
                np.zeros(0, np.int64),
                np.zeros(1, np.int64),
                np.zeros(0, np.uint8),
            )
        starts = np.cumsum([0] + [int(part.id_offsets[-1]) for part in parts])
        offsets = [part.id_offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
        return RowArrays(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([*offsets, starts[-1:]]),
            np.concatenate([part.id_bytes for part in parts]),
        )

    @staticmethod
    def of_parts(parts: Parts, folder: Path) -> RowArrays:
        """Return the rows in the parts of a segment.

        Raises:
            SegmentDamagedError: a part is not there.
        """
        vectors, ids = parts.get(VECTORS), parts.get(ROW_IDS)
        if vectors is None or ids is None:
            raise SegmentDamagedError(
                f"{folder}: expected the parts {VECTORS.name} and {ROW_IDS.name}, got "
                f"{', '.join(sorted(parts.names)) or 'none'}",
                Reason.SEGMENT,
            )
        return RowArrays(vectors, ids.rows, ids.id_offsets, ids.id_bytes)

    @property
    def parts(self) -> Parts:
        """The parts of a segment of these rows."""
        parts = Parts()
        parts.put(VECTORS, self.vectors)
        parts.put(ROW_IDS, RowIds(self.rows, self.id_offsets, self.id_bytes))
        return parts

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        arrays = (self.vectors, self.rows, self.id_offsets, self.id_bytes)
        return sum(array.nbytes for array in arrays)

    def ids_of(self, nodes: npt.NDArray[np.int64]) -> list[str]:
        """Return the ids of nodes.

        Raises:
            SegmentDamagedError: the offsets or the bytes of an id are damaged.
        """
        starts, ends = self.id_offsets.take(nodes), self.id_offsets[1:].take(nodes)
        try:
            return self._texts(starts, ends)
        except UnicodeDecodeError as error:
            raise SegmentDamagedError(
                f"an id is not UTF-8 text ({error})", Reason.SEGMENT
            ) from error

    def _texts(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[str]:
        size = len(self.id_bytes)
        if len(starts) < _GATHERED_IDS_MIN:
            text = memoryview(self.id_bytes)  # type: ignore[arg-type]
            pairs = list(zip(starts.tolist(), ends.tolist(), strict=True))
            for start, end in pairs:
                if not 0 <= start <= end <= size:
                    raise _offsets_damaged(start, end, size)
            return [str(text[start:end], "utf-8") for start, end in pairs]
        wrong = np.flatnonzero((starts < 0) | (starts > ends) | (ends > size))
        if len(wrong):
            raise _offsets_damaged(int(starts[wrong[0]]), int(ends[wrong[0]]), size)
        # Decoding all ids in one piece and slicing the text is faster. If they are not all ASCII,
        # offsets of bytes are not offsets of characters, so each slice is decoded.
        lengths = ends - starts
        cuts = np.cumsum(lengths)
        source = np.arange(cuts[-1]) + np.repeat(starts - (cuts - lengths), lengths)
        joined = self.id_bytes[source].tobytes()
        edges = [0, *cuts.tolist()]
        if joined.isascii():
            whole = joined.decode()
            return [whole[start:end] for start, end in pairwise(edges)]
        return [joined[start:end].decode() for start, end in pairwise(edges)]

    def without(self, deleted: npt.NDArray[np.int64]) -> RowArrays:
        """Return the rows that are not in ``deleted`` (ascending); itself if all remain."""
        gone = np.isin(self.rows, deleted, assume_unique=True)
        if not gone.any():
            return self
        kept = np.flatnonzero(~gone)
        lengths = np.diff(self.id_offsets)
        return RowArrays(
            self.vectors[kept],
            self.rows[kept],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[kept])]),
            self.id_bytes[np.repeat(~gone, lengths)],
        )


def _offsets_damaged(start: int, end: int, size: int) -> SegmentDamagedError:
    return SegmentDamagedError(
        f"expected an id within {size} bytes, got offsets {start} to {end}: they are damaged",
        Reason.SEGMENT,
    )


class _VectorsCheck(PartCheck):
    """Compares vectors with the store's: they must be bit-identical to what a flush prepares."""

    def __init__(self, vectors: npt.NDArray[np.float32], segment: CheckedSegment) -> None:
        self._vectors, self._number = vectors, segment.number
        self._differing: list[Rows] = [np.zeros(0, np.int64)]

    def compare_vectors(self, rows: Rows, nodes: Rows, vectors: npt.NDArray[np.float32]) -> None:
        stored = self._vectors[nodes].view(np.uint32)
        differ = (stored != vectors.view(np.uint32)).any(axis=1)
        self._differing.append(rows[differ])

    def compare_records(self, records: StoreRecords) -> Iterator[PartFinding]:
        what = f"vectors of segment {self._number} differ from the store's, at rows"
        yield PartFinding("SEGMENT_ROWS", what, rows=np.concatenate(self._differing))


class _RowIdsCheck(PartCheck):
    """Compares row numbers and ids with the store's records and tombstones."""

    def __init__(self, ids: RowIds, segment: CheckedSegment) -> None:
        self._ids, self._segment = ids, segment

    def compare_records(self, records: StoreRecords) -> Iterator[PartFinding]:
        rows, segment = self._ids.rows, self._segment

        def differ(what: str, some: Rows) -> PartFinding:
            return PartFinding("SEGMENT_ROWS", f"{what} segment {segment.number}", rows=some)

        if len(rows) and not (
            bool((rows[1:] > rows[:-1]).all())
            and segment.first_row <= rows[0]
            and rows[-1] < segment.end_row
        ):
            what = f"the rows of segment {segment.number} do not ascend within its interval"
            yield PartFinding("SEGMENT_ROWS", what)
            return
        if not records.complete:
            return
        live = records.live_rows
        live = live[slice(*np.searchsorted(live, (segment.first_row, segment.end_row)))]
        yield differ("live rows are missing in", live[~is_among(live, rows)])
        recorded = is_among(rows, records.record_rows)
        known = recorded | is_among(rows, records.deleted_rows)
        known |= is_among(rows, records.bad_record_rows)
        yield differ("rows that the store does not know are in", rows[~known])
        hashes = self._id_hashes()
        if hashes is None:
            what = f"the id offsets of segment {segment.number} do not fit its id bytes"
            yield PartFinding("SEGMENT_ROWS", what)
            return
        at = np.searchsorted(records.record_rows, rows[recorded])
        other = hashes[recorded] != records.record_hashes[at]
        yield differ("rows have a different id in", rows[recorded][other])

    def _id_hashes(self) -> Rows | None:
        """Return the hash of each node's id, or None if the offsets are invalid."""
        offsets, text = self._ids.id_offsets, self._ids.id_bytes
        if offsets[0] != 0 or offsets[-1] != len(text) or (offsets[1:] < offsets[:-1]).any():
            return None
        count = len(offsets) - 1
        hashes = np.empty(count, np.int64)
        for start in range(0, count, _HASHED_IDS):
            stop = min(count, start + _HASHED_IDS)
            cuts = (offsets[start : stop + 1] - offsets[start]).tolist()
            raw = text[offsets[start] : offsets[stop]].tobytes()
            hashes[start:stop] = [hash(raw[a:b]) for a, b in pairwise(cuts)]
        return hashes


class _VectorsPart(PartKind[npt.NDArray[np.float32]]):
    name = "vectors"
    arrays = ("vectors",)

    def write(self, value: npt.NDArray[np.float32]) -> PartData:
        return PartData({"vectors": value})

    def read(self, files: PartFiles) -> npt.NDArray[np.float32]:
        vectors = files.arrays["vectors"]
        files.check(fit=vectors.shape == (files.count, files.width))
        return vectors

    def check(self, value: npt.NDArray[np.float32], segment: CheckedSegment) -> PartCheck:
        return _VectorsCheck(value, segment)


class _RowIdsPart(PartKind[RowIds]):
    name = "ids"
    arrays = ("rows", "id_offsets", "id_bytes")

    def write(self, value: RowIds) -> PartData:
        return PartData(
            {"rows": value.rows, "id_offsets": value.id_offsets, "id_bytes": value.id_bytes}
        )

    def read(self, files: PartFiles) -> RowIds:
        ids = RowIds(**{name: files.arrays[name] for name in self.arrays})
        n = files.count
        files.check(fit=ids.rows.shape == (n,) and ids.id_offsets.shape == (n + 1,))
        return ids

    def check(self, value: RowIds, segment: CheckedSegment) -> PartCheck:
        return _RowIdsCheck(value, segment)


VECTORS = _VectorsPart()
ROW_IDS = _RowIdsPart()
