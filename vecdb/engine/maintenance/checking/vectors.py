"""Checks vectors: blocks against records and tombstones, and segments against all three.

The blocks are read once, ascending, a few thousand rows at a time. These are compared with the
segments that hold them, whose vectors must be bit-identical to what a flush prepares.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.checking import WARNING
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.maintenance.checking.findings import EXAMPLES_MAX, Examples, Findings
from vecdb.engine.maintenance.checking.walk import (
    BAD_VALUE,
    Facts,
    Rows,
    Walk,
    is_among,
    named_rows,
)
from vecdb.engine.segments.segment import Segment, padded_width
from vecdb.engine.store import layout
from vecdb.types import CollectionConfig, Metric

__all__ = ["BlockWalk", "check_segment_rows"]

_SLICE_ROWS, _SLICE_BYTES = 4_096, 16 * 1024**2
_IDS_AT_ONCE: Final = 65_536

Floats = npt.NDArray[np.float32]


class BlockWalk:
    """Reads ``blocks`` once and checks them.

    Attributes:
        rows: int64: rows with a vector, ascending.
    """

    def __init__(
        self, walk: Walk, facts: Facts, config: CollectionConfig, segments: list[Segment]
    ) -> None:
        self._walk, self._facts, self._findings = walk, facts, walk.findings
        self._dim, self._unit = config.dim, config.metric is Metric.COSINE
        self._width = padded_width(config.dim)
        self._segments = segments
        self._slice_rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES // (4 * config.dim)))
        self._pending: list[tuple[Rows, Floats]] = []
        self._pending_rows = 0
        self._not_finite, self._zero = Examples(), Examples()
        self._differing = {segment.number: Examples() for segment in segments}
        self._parts: list[Rows] = [np.zeros(0, np.int64)]
        self._firsts: list[int] = []
        self._unreadable: list[int] = []
        self.rows = self._parts[0]

    def run(self) -> None:
        """Read all blocks, and report problems of blocks and of the segments' vectors."""
        self._read()
        self._compare_pending()
        self.rows = np.concatenate(self._parts)
        del self._parts
        findings = self._findings
        self._not_finite.report(findings, "VECTORS", "vectors are not finite")
        self._zero.report(findings, "VECTORS", "vectors are zero under cosine")
        for number, differing in self._differing.items():
            findings.many(
                "SEGMENT_ROWS",
                f"vectors of segment {number} differ from the store's, at rows",
                differing.first,
                WARNING,
                count=differing.count,
                segment=number,
            )
        self._compare_rows()

    def _read(self) -> None:
        bad, disorder = Examples(), Examples()
        last = -1

        def on_bad(key: bytes) -> None:
            if len(key) == 8:
                self._firsts.append(int.from_bytes(key, "big"))
                self._unreadable.append(self._firsts[-1])

        for key, payload in self._walk.values("blocks", _shown_block, on_bad):
            try:
                rows, vectors = layout.parse_block(key, payload, self._dim)
                whole = len(rows) > 0 and bool((rows[1:] > rows[:-1]).all())
            except BAD_VALUE:
                whole = False
            if not whole:
                bad.add(_shown_block(key))
                on_bad(key)
                continue
            self._firsts.append(int.from_bytes(key, "big"))
            if int(rows[0]) <= last:
                disorder.add(f"{rows[0]}, after row {last}")
                rows, vectors = rows[rows > last], vectors[rows > last]
            last = max(last, int(rows[-1]) if len(rows) else last)
            self._parts.append(rows)
            self._pending.append((rows, vectors))
            self._pending_rows += len(rows)
            if self._pending_rows >= self._slice_rows:
                self._compare_pending()
        bad.report(self._findings, "VALUE", "blocks are invalid")
        disorder.report(self._findings, "VECTORS", "blocks repeat rows of earlier blocks")

    def _compare_pending(self) -> None:
        if not self._pending:
            return
        rows = np.concatenate([rows for rows, _ in self._pending])
        raw = np.concatenate([vectors for _, vectors in self._pending])
        self._pending, self._pending_rows = [], 0
        finite = np.isfinite(raw).all(axis=1)
        _add(self._not_finite, rows[~finite])
        if self._unit:
            _add(self._zero, rows[~raw.any(axis=1)])
        if not self._segments or len(rows) == 0:
            return
        prepared = np.empty((len(raw), self._width), np.float32)
        load_kernels().prepare_rows(raw, prepared, self._unit)
        bits = prepared.view(np.uint32)
        for segment in self._segments:
            own = segment.content.rows
            low, high = np.searchsorted(own, (rows[0], rows[-1] + 1))
            held = is_among(rows, own[low:high])
            if not held.any():
                continue
            nodes = low + np.searchsorted(own[low:high], rows[held])
            stored = segment.content.vectors[nodes].view(np.uint32)
            differ = (stored != bits[held]).any(axis=1)
            _add(self._differing[segment.number], rows[held][differ])

    def _compare_rows(self) -> None:
        """Compare the rows that have a vector with those that should have one."""
        facts, findings = self._facts, self._findings
        if facts.counters is not None:
            past = self.rows[np.searchsorted(self.rows, facts.counters.next_row) :]
            what = f"vectors of rows at or after next_row {facts.counters.next_row:,}"
            findings.many("VECTORS", what, past)
        if facts.incomplete & {"records", "dead", "blocks"}:
            return
        recorded = np.union1d(facts.record_rows, facts.bad_record_rows)
        missing = recorded[~is_among(recorded, self.rows)]
        dead = is_among(missing, facts.deleted_rows)
        hidden = self._in_unreadable(missing)
        lost = missing[hidden & ~dead]
        what = "vectors of live rows are in damaged blocks"
        findings.many("VECTORS", what, named_rows(self._walk, lost), count=len(lost))
        missing, dead = missing[~hidden], dead[~hidden]
        findings.many("VECTORS", "live rows without a vector", missing[~dead])
        findings.many("VECTORS", "deleted rows with a record and without a vector", missing[dead])
        unknown = ~is_among(self.rows, recorded) & ~is_among(self.rows, facts.deleted_rows)
        what = "vectors of rows with neither record nor tombstone"
        findings.many("VECTORS", what, self.rows[unknown])

    def _in_unreadable(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Return which rows may be in unreadable blocks: those up to the next block's first row."""
        hidden = np.zeros(len(rows), bool)
        firsts = np.array(sorted(self._firsts), np.int64)
        for first in self._unreadable:
            after = np.searchsorted(firsts, first, side="right")
            end = firsts[after] if after < len(firsts) else np.iinfo(np.int64).max
            hidden |= (rows >= first) & (rows < end)
        return hidden


def check_segment_rows(segment: Segment, facts: Facts, findings: Findings) -> None:
    """Compare the rows and ids of a segment with the store."""
    number, rows = segment.number, segment.content.rows

    def report(what: str, examples: Rows) -> None:
        findings.many("SEGMENT_ROWS", f"{what} segment {number}", examples, WARNING, segment=number)

    if len(rows) and not (
        bool((rows[1:] > rows[:-1]).all())
        and segment.first_row <= rows[0]
        and rows[-1] < segment.end_row
    ):
        what = f"the rows of segment {number} do not ascend within its interval"
        findings.add("SEGMENT_ROWS", what, WARNING, segment=number)
        return
    if facts.incomplete & {"records", "dead"}:
        return
    live = facts.live_rows
    inside = slice(*np.searchsorted(live, (segment.first_row, segment.end_row)))
    report("live rows are missing in", live[inside][~is_among(live[inside], rows)])
    recorded = is_among(rows, facts.record_rows)
    known = recorded | is_among(rows, facts.deleted_rows) | is_among(rows, facts.bad_record_rows)
    report("rows that the store does not know are in", rows[~known])
    hashes = _id_hashes(segment)
    if hashes is None:
        what = f"the id offsets of segment {number} do not fit its id bytes"
        findings.add("SEGMENT_ROWS", what, WARNING, segment=number)
        return
    at = np.searchsorted(facts.record_rows, rows[recorded])
    differ = hashes[recorded] != facts.record_hashes[at]
    report("rows have a different id in", rows[recorded][differ])


def _id_hashes(segment: Segment) -> Rows | None:
    """Return the hash of each node's id, or None if the offsets are invalid."""
    offsets, text = segment.content.id_offsets, segment.content.id_bytes
    if offsets[0] != 0 or offsets[-1] != len(text) or (offsets[1:] < offsets[:-1]).any():
        return None
    hashes = np.empty(segment.count, np.int64)
    for start in range(0, segment.count, _IDS_AT_ONCE):
        stop = min(segment.count, start + _IDS_AT_ONCE)
        cuts = (offsets[start : stop + 1] - offsets[start]).tolist()
        raw = text[offsets[start] : offsets[stop]].tobytes()
        hashes[start:stop] = [hash(raw[a:b]) for a, b in pairwise(cuts)]
    return hashes


def _add(few: Examples, rows: Rows) -> None:
    for row in rows[:EXAMPLES_MAX].tolist():
        few.add(str(row))
    few.count += max(0, len(rows) - EXAMPLES_MAX)


def _shown_block(key: bytes) -> str:
    return f"block of row {int.from_bytes(key, 'big')}"
