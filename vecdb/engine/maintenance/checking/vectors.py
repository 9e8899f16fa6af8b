"""Checking vectors: blocks against records and deaths, and segments against all of them.

The blocks are read once, ascending; each few thousand rows are looked at together and compared with
the segments that hold them, which must have them to the bit as sealing prepares them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.checking import WARNING
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.maintenance.checking.findings import EXAMPLES_MAX, Few, Findings
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
    """Goes through ``blocks`` once.

    Attributes:
        rows: those with a vector, ascending.
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
        self._not_finite, self._zero = Few(), Few()
        self._differing = {segment.number: Few() for segment in segments}
        self._parts: list[Rows] = [np.zeros(0, np.int64)]
        self._firsts: list[int] = []
        self._unreadable: list[int] = []
        self.rows = self._parts[0]

    def run(self) -> None:
        """Read all blocks, and tell what is wrong with them and with the segments' vectors."""
        self._read()
        self._compare_pending()
        self.rows = np.concatenate(self._parts)
        del self._parts
        findings = self._findings
        self._not_finite.tell(findings, "VECTORS", "vectors are not finite")
        self._zero.tell(findings, "VECTORS", "vectors are zero under cosine")
        for number, differing in self._differing.items():
            findings.many(
                "SEGMENT_ROWS",
                f"vectors of segment {number} differ from the store's, of the rows",
                differing.first,
                WARNING,
                count=differing.count,
                segment=number,
            )
        self._compare_rows()

    def _read(self) -> None:
        bad, disorder = Few(), Few()
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
        bad.tell(self._findings, "VALUE", "blocks are no rows of vectors")
        disorder.tell(self._findings, "VECTORS", "blocks begin with rows that were there already")

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
            there = is_among(rows, own[low:high])
            if not there.any():
                continue
            nodes = low + np.searchsorted(own[low:high], rows[there])
            stored = segment.content.vectors[nodes].view(np.uint32)
            differ = (stored != bits[there]).any(axis=1)
            _add(self._differing[segment.number], rows[there][differ])

    def _compare_rows(self) -> None:
        """Which rows have a vector, against those that should."""
        facts, findings = self._facts, self._findings
        if facts.counters is not None:
            past = self.rows[np.searchsorted(self.rows, facts.counters.next_row) :]
            what = f"vectors of rows past next_row, {facts.counters.next_row:,}"
            findings.many("VECTORS", what, past)
        if facts.incomplete & {"records", "dead", "blocks"}:
            return
        recorded = np.union1d(facts.record_rows, facts.bad_record_rows)
        missing = recorded[~is_among(recorded, self.rows)]
        dead = is_among(missing, facts.deleted_rows)
        hidden = self._in_unreadable(missing)
        lost = missing[hidden & ~dead]
        what = "vectors of live rows can't be read, as their blocks are damaged"
        findings.many("VECTORS", what, named_rows(self._walk, lost), count=len(lost))
        missing, dead = missing[~hidden], dead[~hidden]
        findings.many("VECTORS", "live rows without a vector", missing[~dead])
        findings.many("VECTORS", "dead rows with a record and without a vector", missing[dead])
        unknown = ~is_among(self.rows, recorded) & ~is_among(self.rows, facts.deleted_rows)
        what = "vectors of rows with neither record nor death"
        findings.many("VECTORS", what, self.rows[unknown])

    def _in_unreadable(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows may be in blocks that can't be read: those up to the next block's first."""
        hidden = np.zeros(len(rows), bool)
        firsts = np.array(sorted(self._firsts), np.int64)
        for first in self._unreadable:
            after = np.searchsorted(firsts, first, side="right")
            end = firsts[after] if after < len(firsts) else np.iinfo(np.int64).max
            hidden |= (rows >= first) & (rows < end)
        return hidden


def check_segment_rows(segment: Segment, facts: Facts, findings: Findings) -> None:
    """Which rows a segment holds, and what it calls them, against the store."""
    number, rows = segment.number, segment.content.rows

    def tell(what: str, examples: Rows) -> None:
        findings.many("SEGMENT_ROWS", f"{what} segment {number}", examples, WARNING, segment=number)

    if len(rows) and not (
        bool((rows[1:] > rows[:-1]).all())
        and segment.first_row <= rows[0]
        and rows[-1] < segment.end_row
    ):
        what = f"the rows of segment {number} don't ascend within its interval"
        findings.add("SEGMENT_ROWS", what, WARNING, segment=number)
        return
    if facts.incomplete & {"records", "dead"}:
        return
    live = facts.live_rows
    inside = slice(*np.searchsorted(live, (segment.first_row, segment.end_row)))
    tell("live rows are not in", live[inside][~is_among(live[inside], rows)])
    recorded = is_among(rows, facts.record_rows)
    known = recorded | is_among(rows, facts.deleted_rows) | is_among(rows, facts.bad_record_rows)
    tell("rows that the store does not know are in", rows[~known])
    hashes = _id_hashes(segment)
    if hashes is None:
        what = f"the ids of segment {number} are no slices of their bytes"
        findings.add("SEGMENT_ROWS", what, WARNING, segment=number)
        return
    at = np.searchsorted(facts.record_rows, rows[recorded])
    differ = hashes[recorded] != facts.record_hashes[at]
    tell("rows have another id in", rows[recorded][differ])


def _id_hashes(segment: Segment) -> Rows | None:
    """The hash of each node's id; None if the offsets lead nowhere."""
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


def _add(few: Few, rows: Rows) -> None:
    for row in rows[:EXAMPLES_MAX].tolist():
        few.add(str(row))
    few.count += max(0, len(rows) - EXAMPLES_MAX)


def _shown_block(key: bytes) -> str:
    return f"block of row {int.from_bytes(key, 'big')}"
