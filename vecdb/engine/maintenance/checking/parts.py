"""Runs the deep checks of the parts of segments, which their kinds define (``PartKind.check``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.engine.maintenance.checking.findings import Findings
from vecdb.engine.maintenance.checking.walk import Facts, Rows, Walk
from vecdb.engine.segments.part_check import PartCheck, PartFinding, is_among
from vecdb.engine.segments.part_kind import CheckedSegment, PartKind
from vecdb.engine.segments.parts import part_checks
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store.rows import RowReader
from vecdb.errors import DataLossError
from vecdb.types import CollectionConfig

__all__ = ["PartChecks"]


class PartChecks:
    """The deep checks of the parts of all segments of a collection.

    Args:
        segments: those that could be opened.
        findings: what is found is reported to it.
    """

    def __init__(
        self, segments: list[Segment], config: CollectionConfig, findings: Findings
    ) -> None:
        self._findings = findings
        self._dim = config.dim
        self._checks: list[tuple[Segment, dict[str, PartCheck]]] = [
            (segment, _checks_of(segment, config)) for segment in segments
        ]
        self._unusable: set[tuple[int, str]] = set()

    def __bool__(self) -> bool:
        """Whether there are segments to check."""
        return bool(self._checks)

    def compare_vectors(self, rows: Rows, vectors: npt.NDArray[np.float32]) -> None:
        """Compare with some of the store's vectors, prepared as for a segment.

        Args:
            rows: int64, ascending; not empty. Later calls have later ones.
            vectors: float32 (len(rows), width).
        """
        for segment, checks in self._checks:
            own = segment.content.rows
            low, high = np.searchsorted(own, (rows[0], rows[-1] + 1))
            held = is_among(rows, own[low:high])
            if not held.any():
                continue
            chosen = rows[held]
            nodes = low + np.searchsorted(own[low:high], chosen)
            of_chosen = vectors[held]
            for check in checks.values():
                check.compare_vectors(chosen, nodes, of_chosen)

    def compare_records(self, facts: Facts, walk: Walk) -> None:
        """Compare with the store's records, in the transaction of the walk."""
        records = replace(facts.records(), read=partial(_metadata, walk, self._dim))
        for segment, checks in self._checks:
            for name, check in checks.items():
                self._report(segment, name, check.compare_records(records))

    def examine(self, facts: Facts) -> None:
        """Compare the parts of each segment with each other. Takes long; needs no transaction."""
        records = facts.records()
        for segment, checks in self._checks:
            for name, check in checks.items():
                self._report(segment, name, check.examine(records))

    def is_usable(self, segment: Segment, kind: PartKind[Any]) -> bool:
        """Return whether a segment has a part that searches can use, as far as is known now."""
        return segment.parts.has(kind) and (segment.number, kind.name) not in self._unusable

    def _report(self, segment: Segment, name: str, found: Iterable[PartFinding]) -> None:
        for each in found:
            if each.unusable:
                self._unusable.add((segment.number, name))
            if each.rows is None:
                self._findings.add(each.kind, each.text, each.severity, segment=segment.number)
            else:
                self._findings.many(
                    each.kind, each.text, each.rows, each.severity, segment=segment.number
                )


def _metadata(
    walk: Walk, dim: int, first_row: int, end_row: int, seq: int
) -> Iterator[tuple[int, bytes]]:
    """Yield row and metadata of an interval as of a seq; rows with a damaged record are left out.
    The walk has reported these."""
    reader = RowReader(walk.environment, dim)
    if "records" in walk.incomplete:
        return
    while first_row < end_row:
        row = first_row - 1
        with contextlib.suppress(DataLossError):
            for row, _, metadata in reader.iterate_records(
                walk.transaction, first_row, end_row, seq
            ):
                yield row, metadata
            return
        # The record of one of the next rows is damaged.
        first_row = row + 2


def _checks_of(segment: Segment, config: CollectionConfig) -> dict[str, PartCheck]:
    return part_checks(
        CheckedSegment(segment.number, segment.first_row, segment.end_row, config, segment.parts)
    )
