"""The report of a check of a data folder: kinds and severities of problems.

Each problem has one of the kinds below and a severity:

    error      stored data is lost, or contradicts other stored data
    warning    a cache or a counter is damaged: nothing is lost, and a repair can rebuild it
    note       not a defect: a leftover that takes space, or unfinished work

``CheckReport.content`` is True if no error and no warning is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "ERROR",
    "KINDS",
    "NOTE",
    "WARNING",
    "CheckReport",
    "CheckedCollection",
    "Problem",
]

ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"

KINDS: Final = {
    # The folder and its catalogue.
    "FORMAT": "the file FORMAT is missing or has other content",
    "CATALOG": "a catalogue entry contradicts its store",
    "CATALOG_LOST": "the catalogue is missing, empty or truncated, and collections are on disk",
    "COLLECTION_MISSING": "the catalogue names a collection that has no store",
    "COLLECTION_ORPHAN": "a collection's folder is not in the catalogue",
    "COLLECTION_UNFINISHED": "the creation or drop of a collection did not finish",
    "TRASH": "files of a dropped collection are not removed yet",
    # The file of a store.
    "STORE_CRASHED": "the process that read the store's file crashed",
    "STORE_DAMAGED": "LMDB reports a damaged file, or entries are missing or out of order",
    "CHECKSUM": "values do not match their checksum",
    "VALUE": "values match their checksum but are invalid",
    # The store's databases, compared with each other.
    "META": "state or configuration is missing or contradicts the rest",
    "COUNTERS": "a counter differs from the number of entries that it counts",
    "IDS": "ids and records contradict each other",
    "RECORDS": "records that should not exist, or not at their seq",
    "VECTORS": "vectors are missing, duplicate, not finite, or belong to no row",
    "DEATHS": "tombstones with a seq in the future",
    "LOG": "the log has gaps, or contradicts rows and tombstones",
    "PINS": "a snapshot lease on a seq in the future",
    "REQUESTS": "request ids with a seq in the future, or missing from one of their two indexes",
    "SEGMENT_ENTRIES": "the segment table contradicts itself",
    "COMPACTION_LEFTOVER": "files of a compaction that was killed",
    # Segments and graphs.
    "SEGMENT_MISSING": "files of a segment are missing",
    "SEGMENT_DAMAGED": "files of a segment do not match their checksums",
    "SEGMENT_ROWS": "a segment holds other rows than the store, or not all",
    "SEGMENT_LOST": "a quarantined segment: its rows are read from the store until it is rebuilt",
    "SEGMENT_LEFTOVER": "files of an unknown or unfinished segment",
    "GRAPH": "the arrays of a graph contradict each other",
    "SKETCH": "sketches do not match their vectors",
    "BYTE_CODES": "8-bit codes do not match their vectors",
    "COLUMNS": "the metadata index does not match the records",
    "GRAPH_UNREACHABLE": "live rows that no walk through the graph reaches",
    "NOT_FINDABLE": "self-recall is below --findable",
    # The check itself.
    "CHECK_FAILED": "a part of the folder could not be checked",
}
"""Kind → meaning, as in docs/operations.md. Programs may compare kinds; meanings may change."""


@dataclass(frozen=True)
class Problem:
    """One problem of a data folder.

    Attributes:
        collection: name of the collection, or its id if the catalogue has no name for it; empty if
            the problem concerns the whole folder.
        kind: one of ``KINDS``.
        detail: a sentence with numbers: how many occurrences there are, and the first few.
        severity: "error", "warning" or "note"; see the module docstring.
        segment: number of the segment concerned, or None.
        repaired: True if the check found the problem and a repair fixed it.
    """

    collection: str
    kind: str
    detail: str
    severity: str = ERROR
    segment: int | None = None
    repaired: bool = False


@dataclass(frozen=True)
class CheckedCollection:
    """One collection that could be read.

    Attributes:
        name, id: its name and the name of its folder.
        seq: seq of the checked state.
        live_count: live rows.
        segments: live segments.
        findable: self-recall: the share of a sample of live rows that were found by their own
            vector. None if it was not requested, or no row is live.
    """

    name: str
    id: str
    seq: int
    live_count: int
    segments: int
    findable: float | None = None


@dataclass(frozen=True)
class CheckReport:
    """The result of ``vecdb.check``.

    Attributes:
        path: the folder.
        collections: the collections that could be read completely.
        problems: the most severe first; repaired ones last.
        elapsed_s: duration in seconds.
    """

    path: str
    collections: tuple[CheckedCollection, ...]
    problems: tuple[Problem, ...]
    elapsed_s: float

    @property
    def content(self) -> bool:
        """True if every error and every warning was repaired, or there is none."""
        return all(p.severity == NOTE or p.repaired for p in self.problems)

    @property
    def complete(self) -> bool:
        """True if every part of the folder could be checked."""
        return all(p.kind != "CHECK_FAILED" for p in self.problems)
