"""The report of a check of a data folder: kinds and severities of problems.

Each problem has one of the kinds below and a severity:

    error      stored data: something is lost, or contradicts other stored data
    warning    a cache or a sum: no data are lost, and a repair can rebuild it
    note       not a defect: a leftover that takes space, or work that is still going on

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
    "FORMAT": "the file FORMAT is missing or has an unexpected content",
    "CATALOG": "an entry of the catalogue contradicts the collection's store",
    "CATALOG_LOST": "the catalogue is missing, empty or truncated, and collections are on disk",
    "COLLECTION_MISSING": "the catalogue names a collection that has no store",
    "COLLECTION_ORPHAN": "a collection's folder that the catalogue does not name",
    "COLLECTION_UNFINISHED": "a create or a drop of a collection did not finish",
    "TRASH": "files of a dropped collection that are not removed yet",
    # The file of a store.
    "STORE_CRASHED": "the process that read the store's file crashed",
    "STORE_DAMAGED": "LMDB reports its file as damaged, or entries are missing or out of order",
    "CHECKSUM": "values whose checksum is wrong",
    "VALUE": "values whose checksum is right and whose content is invalid",
    # The store's databases, compared with each other.
    "META": "the state or the configuration is missing or contradicts the rest",
    "COUNTERS": "a counter differs from the entries that it counts",
    "IDS": "ids and records contradict each other",
    "RECORDS": "unexpected records, or records at a wrong seq",
    "VECTORS": "vectors that are missing, duplicated, not finite, or of an unknown row",
    "DEATHS": "tombstones at a seq that does not exist yet",
    "LOG": "the log has gaps, or contradicts rows and tombstones",
    "PINS": "a snapshot lease on a seq that does not exist yet",
    "REQUESTS": "requests at a seq that does not exist yet, or missing by id or by age",
    "SEGMENT_ENTRIES": "the entries of segments contradict each other",
    "COMPACTION_LEFTOVER": "an unfinished file of a compaction that was killed",
    # Segments and graphs.
    "SEGMENT_MISSING": "files of a segment are missing",
    "SEGMENT_DAMAGED": "files of a segment differ from their checksums",
    "SEGMENT_ROWS": "the rows of a segment differ from those of the store",
    "SEGMENT_LOST": "a quarantined segment: its rows are read from the store until it is rebuilt",
    "SEGMENT_LEFTOVER": "files of a segment that the store does not list, or of an unfinished one",
    "GRAPH": "the arrays of a graph contradict each other",
    "SKETCH": "sketches that are not those of their vectors",
    "GRAPH_UNREACHABLE": "live rows that cannot be reached in the graph",
    "NOT_FINDABLE": "self-recall is too low: rows are not found by their own vector",
    # The check itself.
    "CHECK_FAILED": "the check could not be completed",
}
"""Kind → meaning. Kinds are constants that programs may compare; meanings may change."""


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
