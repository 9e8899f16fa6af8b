"""What a check of a data folder finds: problems by their kinds, and the report of them all.

A **problem** is of one of the kinds below. Its severity says what it is about:

    error      the truth: something that was stored is gone, or contradicts something else
    warning    a cache or a sum: everything is there, and what is wrong can be built again
    note       nothing is wrong: a leftover that takes room, or work that goes on by itself

The **report** is content if no error and no warning is left.
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
    "FORMAT": "the file FORMAT is gone or says something else",
    "CATALOG": "an entry of the catalogue contradicts the store that it stands for",
    "CATALOG_LOST": "the catalogue is gone, empty or cut short, and collections are on disk",
    "COLLECTION_MISSING": "the catalogue names a collection that has no store",
    "COLLECTION_ORPHAN": "a collection's folder that the catalogue does not name",
    "COLLECTION_UNFINISHED": "a collection half made or half dropped",
    "TRASH": "a dropped collection whose files are still there",
    # A store as such.
    "STORE_CRASHED": "reading the store's file ended the process that did it",
    "STORE_DAMAGED": "LMDB finds its file damaged, or entries are missing or out of order in it",
    "CHECKSUM": "values whose checksum is wrong",
    "VALUE": "values whose checksum is right and which say nothing that could be",
    # What the store's databases say of each other.
    "META": "the state or the configuration is missing or contradicts the rest",
    "COUNTERS": "a counter differs from what there is to count",
    "IDS": "ids and records contradict each other",
    "RECORDS": "records that should not be there, or not at that seq",
    "VECTORS": "vectors that are missing, there twice, not finite, or of no known row",
    "DEATHS": "deaths at a seq that has not been yet",
    "LOG": "the log has gaps, or contradicts rows and deaths",
    "PINS": "a pin on a state that has not been yet",
    "REQUESTS": "requests at a seq that has not been yet, or not found both by id and by age",
    "SEGMENT_ENTRIES": "the entries of segments don't fit each other",
    "COMPACTION_LEFTOVER": "what a compaction was writing beside the store when it was killed",
    # Segments and graphs.
    "SEGMENT_MISSING": "files of a segment are gone",
    "SEGMENT_DAMAGED": "files of a segment are not what was written",
    "SEGMENT_ROWS": "a segment holds something else than the store, or not all",
    "SEGMENT_LOST": "a segment known as lost: the store answers for it until it is rebuilt",
    "SEGMENT_LEFTOVER": "files of a segment that the store does not know, or of an unfinished one",
    "GRAPH": "the arrays of a graph contradict each other",
    "GRAPH_UNREACHABLE": "live rows that no walk through the graph can come to",
    "NOT_FINDABLE": "too few rows are found when they are searched for by their own vector",
    # The check itself.
    "CHECK_FAILED": "it could not be checked",
}
"""Kind → what it means. Kinds are constants that programs may compare; meanings may change."""


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be.

    Attributes:
        collection: its name, its id where the catalogue has no name for it; empty if the problem is
            the whole folder's.
        kind: one of ``KINDS``.
        detail: a sentence with numbers: how many there are of it and which are the first few.
        severity: "error", "warning" or "note"; see the module docstring.
        segment: number of the segment that it is about, or None.
        repaired: it was there and is not any more.
    """

    collection: str
    kind: str
    detail: str
    severity: str = ERROR
    segment: int | None = None
    repaired: bool = False


@dataclass(frozen=True)
class CheckedCollection:
    """One collection as far as it could be read.

    Attributes:
        name, id: its name and the name of its folder.
        seq: the state that was checked.
        live_count: rows that are live. segments: those in place.
        findable: share of a sample of the live rows that were found by their own vector; None if
            that was not asked for, or nothing is live.
    """

    name: str
    id: str
    seq: int
    live_count: int
    segments: int
    findable: float | None = None


@dataclass(frozen=True)
class CheckReport:
    """What ``vecdb.check`` found.

    Attributes:
        path: the folder.
        collections: those that could be read to the end.
        problems: the worst first; those that were repaired last.
        elapsed_s: seconds that it took.
    """

    path: str
    collections: tuple[CheckedCollection, ...]
    problems: tuple[Problem, ...]
    elapsed_s: float

    @property
    def content(self) -> bool:
        """True if there is no error and no warning that was not repaired."""
        return all(p.severity == NOTE or p.repaired for p in self.problems)

    @property
    def complete(self) -> bool:
        """True if all of it could be checked."""
        return all(p.kind != "CHECK_FAILED" for p in self.problems)
