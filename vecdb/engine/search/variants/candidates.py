"""The nearest rows of some queries in one snapshot, from which a variant of a search picks hits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.call_bytes import candidates_bytes
from vecdb.engine.search.hits import (
    Best,
    Results,
    Wanted,
    columns_of,
    distances_of,
    merged,
    rows_of,
)
from vecdb.engine.search.plan import Wish
from vecdb.engine.search.snapshots.lookup import read_records
from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import Filter
from vecdb.types import HitColumns

__all__ = ["CandidateSearch", "Candidates", "Places", "PlainSearch", "Queries"]

_SCANNED_ROWS_A_HIT: Final = 32
_SCANNED_FLOATS_A_HIT: Final = 16_384
"""A graph is scanned if it has fewer rows for each candidate, or fewer floats. A walk for many
meets some 25 rows for each, and reads them in random order: with 64 dimensions 256 candidates of a
walk, and 80,000 rows of a scan by codes, took 0.4 ms."""

Queries = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


class PlainSearch(Protocol):
    """What a ``Searcher`` does for variants."""

    def checked(self, queries: object) -> Queries:
        """See ``Searcher``."""
        ...

    def prepared(self, queries: Queries) -> Queries:
        """See ``Searcher``."""
        ...

    def newest(self) -> Snapshot:
        """See ``Searcher``."""
        ...

    def find(
        self,
        snapshot: Snapshot,
        queries: Queries,
        k: int,
        wish: Wish,
        deadline: Deadline,
        filter: Filter | None = None,
    ) -> Results:
        """See ``Searcher``."""
        ...

    def attempt(
        self,
        answer: Callable[[Snapshot, Deadline], HitColumns],
        deadline: Deadline,
        memory: CallMemory,
    ) -> HitColumns:
        """See ``Searcher``."""
        ...


class Candidates(NamedTuple):
    """The nearest rows of some queries.

    Attributes:
        results: as found.
        best: merged. rows, owners: int64 (m,), row number and query of each.
        distances: float64 (m,).
    """

    results: Results
    best: Best
    rows: Places
    owners: Places
    distances: npt.NDArray[np.float64]


class CandidateSearch(NamedTuple):
    """A search on one snapshot; ``queries`` as the kernels need them."""

    store: Store
    plain: PlainSearch
    snapshot: Snapshot
    queries: Queries
    wanted: Wanted
    wish: Wish
    filter: Filter | None
    deadline: Deadline

    def matching(self, rows: Places) -> int:
        """Return how many of some rows match the filter."""
        if self.filter is None or not len(rows):
            return len(rows)
        records = read_records(self.store, rows.tolist(), self.snapshot.state.seq)
        return sum(self.filter.matches_json(each.id, each.metadata) for each in records)

    def scans(self, size: int) -> bool:
        """Return whether scans find this many candidates."""
        wish = self.wish
        if wish.exact or wish.target >= 1:
            return True
        a_hit = max(_SCANNED_ROWS_A_HIT, _SCANNED_FLOATS_A_HIT // self.store.config.dim)
        return size * a_hit > self.snapshot.live_count

    def candidates(
        self, pending: Places, size: int, *, scans: bool, filter: Filter | None = None
    ) -> Candidates | None:
        """Return the nearest rows of pending queries; None if there are no rows or no
        queries at all.

        scans: whether graphs are scanned, whatever the plan.
        filter: in place of that of the search.
        """
        snapshot, queries, memory = self.snapshot, self.queries[pending], self.wanted.memory
        memory.take(candidates_bytes(snapshot, len(queries), size))
        # With a filter the planner knows how many rows match, and what a scan costs.
        is_plain = filter is None and self.filter is None
        wish = self.wish._replace(exact=True) if scans and is_plain else self.wish
        results = self.plain.find(
            snapshot, queries, size, wish, self.deadline, filter or self.filter
        )
        parts = results.parts
        if not parts or not len(pending):
            return None
        best = merged(parts, size)
        distances = distances_of(best.scores, self.store.config.metric).astype(np.float64)
        owners = np.repeat(np.arange(len(pending)), best.counts)
        return Candidates(results, best, rows_of(parts, best), owners, distances)

    def nothing(self) -> HitColumns:
        """Return the answer of a collection without rows."""
        none = self.queries[:0]
        results = self.plain.find(self.snapshot, none, 1, self.wish, self.deadline, self.filter)
        return columns_of(
            *(self.store, self.snapshot, results._replace(parts=[]), None, len(self.queries)),
            *(self.wanted, self.deadline),
        )
