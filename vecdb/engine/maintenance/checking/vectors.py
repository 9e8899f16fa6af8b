"""Checks blocks of vectors against records and tombstones.

The blocks are read once, ascending, a few thousand rows at a time. The parts of segments that hold
these rows are compared with them at the same time (``parts.py``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.maintenance.checking.findings import EXAMPLES_MAX, Examples
from vecdb.engine.maintenance.checking.parts import PartChecks
from vecdb.engine.maintenance.checking.walk import (
    BAD_VALUE,
    Facts,
    Rows,
    Walk,
    named_rows,
)
from vecdb.engine.segments.part_check import is_among
from vecdb.engine.segments.segment import padded_width
from vecdb.engine.store import layout
from vecdb.types import CollectionConfig, Metric

__all__ = ["BlockWalk"]

_SLICE_ROWS, _SLICE_BYTES = 4_096, 16 * 1024**2

Floats = npt.NDArray[np.float32]


class BlockWalk:
    """Reads ``blocks`` once and checks them.

    Args:
        parts: compared with the vectors as they are read.

    Attributes:
        rows: int64: rows with a vector, ascending.
    """

    def __init__(
        self, walk: Walk, facts: Facts, config: CollectionConfig, parts: PartChecks
    ) -> None:
        self._walk, self._facts, self._findings = walk, facts, walk.findings
        self._dim, self._unit = config.dim, config.metric is Metric.COSINE
        self._width = padded_width(config.dim)
        self._part_checks = parts
        self._slice_rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES // (4 * config.dim)))
        self._pending: list[tuple[Rows, Floats]] = []
        self._pending_rows = 0
        self._not_finite, self._zero = Examples(), Examples()
        self._parts: list[Rows] = [np.zeros(0, np.int64)]
        self._firsts: list[int] = []
        self._unreadable: list[int] = []
        self.rows = self._parts[0]

    def run(self) -> None:
        """Read all blocks, and report their problems."""
        self._read()
        self._compare_pending()
        self.rows = np.concatenate(self._parts)
        del self._parts
        findings = self._findings
        self._not_finite.report(findings, "VECTORS", "vectors are not finite")
        self._zero.report(findings, "VECTORS", "vectors are zero under cosine")
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
        if not self._part_checks or len(rows) == 0:
            return
        prepared = np.empty((len(raw), self._width), np.float32)
        load_kernels().prepare_rows(raw, prepared, self._unit)
        self._part_checks.compare_vectors(rows, prepared)

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
        deleted = is_among(missing, facts.deleted_rows)
        hidden = self._in_unreadable(missing)
        lost = missing[hidden & ~deleted]
        what = "vectors of live rows are in damaged blocks"
        findings.many("VECTORS", what, named_rows(self._walk, lost), count=len(lost))
        missing, deleted = missing[~hidden], deleted[~hidden]
        findings.many("VECTORS", "live rows without a vector", missing[~deleted])
        findings.many(
            "VECTORS", "deleted rows with a record and without a vector", missing[deleted]
        )
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


def _add(few: Examples, rows: Rows) -> None:
    for row in rows[:EXAMPLES_MAX].tolist():
        few.add(str(row))
    few.count += max(0, len(rows) - EXAMPLES_MAX)


def _shown_block(key: bytes) -> str:
    return f"block of row {int.from_bytes(key, 'big')}"
