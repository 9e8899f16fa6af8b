"""Variants of a search (``vecdb/search_variants.py``), over the ways of a plain one.

A variant asks for more candidates than it returns and keeps the right ones:

    near, away     the examples' own rows are left out, so k more are asked for by their number
    max_distance   candidates that are farther are left out. To find all that are within, k grows
                   until the last candidate is farther, so that nothing within can follow it

Candidates come from walks and scans as planned for their number, so recall is that of a plain
search; if a plain search for so many would cost more than a scan, the scan is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vecdb import checks, limits
from vecdb.engine.search.call_bytes import candidates_bytes, take_answer_memory
from vecdb.engine.search.examples import query_by_examples
from vecdb.engine.search.filtered import by_filter, groups_of, in_order
from vecdb.engine.search.hits import (
    Best,
    Results,
    Wanted,
    columns_of,
    distances_of,
    merged,
    rows_of,
)
from vecdb.engine.search.lookup import read_records
from vecdb.engine.search.plan import Wish
from vecdb.engine.search.request import SearchRequest
from vecdb.engine.search.snapshot import Snapshot
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import InvalidArgumentError
from vecdb.filters import Filter
from vecdb.reasons import Reason
from vecdb.types import HitColumns

__all__ = ["VariantSearch"]

_FIRST: Final = 256
_GROWTH: Final = 4
"""Candidates of the first round if all within a distance are wanted, and how they grow."""

_FIRST_SCANNED: Final = 1_024
"""The same for scans, whose second round asks for as many as there may be."""

_SCANNED_ROWS_A_HIT: Final = 32
"""A graph is scanned if it has fewer rows for each candidate: a walk meets about as many."""

Queries = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


class PlainSearch(Protocol):
    """What a ``Searcher`` does for variants."""

    def checked(self, queries: object) -> Queries: ...

    def prepared(self, queries: Queries) -> Queries: ...

    def newest(self) -> Snapshot: ...

    def find(
        self,
        snapshot: Snapshot,
        queries: Queries,
        k: int,
        wish: Wish,
        deadline: Deadline,
        filter: Filter | None = None,
    ) -> Results: ...

    def attempt(
        self,
        answer: Callable[[Snapshot, Deadline], HitColumns],
        deadline: Deadline,
        memory: CallMemory,
    ) -> HitColumns: ...


class VariantSearch:
    """Answers variants of searches of one collection. Thread-safe."""

    def __init__(self, store: Store, plain: PlainSearch) -> None:
        self._store, self._plain = store, plain

    def run(self, request: SearchRequest, deadline: Deadline, memory: CallMemory) -> HitColumns:
        """Return the hits of all queries. Raises as ``Searcher.run``, and NotFoundError with
        NO_SUCH_ID for examples that do not exist."""
        variant = request.variant
        given = None if variant.near else self._plain.checked(request.queries)
        count = 1 if given is None else max(1, len(given))
        k = None if request.k is None else checks.check_k(request.k, count)
        wish = Wish(
            None if request.ef is None else checks.check_ef(request.ef, k or 1),
            checks.check_target_recall(request.target_recall),
            request.exact,
        )
        wanted = Wanted(
            k or limits.K.maximum, request.include_metadata, request.include_vectors, memory
        )

        def answer(snapshot: Snapshot, until: Deadline) -> HitColumns:
            queries, own_rows = given, np.zeros(0, np.int64)
            if queries is None:
                snapshot, derived, own_rows = query_by_examples(
                    self._store, snapshot, self._plain.newest, variant.near, variant.away
                )
                queries = self._plain.checked(derived)
            filters = groups_of(request.filter, len(queries))

            def some(prepared: Queries, filter: Filter | None) -> HitColumns:
                search = _Call(
                    self._store, self._plain, snapshot, prepared, wanted, wish, filter, until
                )
                return search.within(own_rows, variant.max_distance, first=k)

            return by_filter(self._plain.prepared(queries), filters, some)

        return self._plain.attempt(answer, deadline, memory)


class _Candidates(NamedTuple):
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


class _Call(NamedTuple):
    """A search on one snapshot; ``queries`` as the kernels need them."""

    store: Store
    plain: PlainSearch
    snapshot: Snapshot
    queries: Queries
    wanted: Wanted
    wish: Wish
    filter: Filter | None
    deadline: Deadline

    def within(self, own_rows: Places, max_distance: float | None, first: int | None) -> HitColumns:
        """Return the hits of each query that are within a distance.

        Args:
            own_rows: rows that are never hits, int64, ascending.
            max_distance: None for no bound.
            first: how many, the nearest; None for all, up to ``wanted.k``.
        """
        everything = np.arange(len(self.queries))
        visited, passed = np.zeros_like(everything), np.zeros_like(everything)
        answered: list[HitColumns] = []
        done: list[Places] = []
        own_matching = self._matching(own_rows)
        most = self.wanted.k + len(own_rows)
        to_do = [(everything, most if first is not None else min(most, self._first_size()))]
        while to_do:
            pending, size = to_do.pop()
            at_once = max(1, limits.RESULTS_PER_CALL_MAX // size)
            if len(pending) > at_once:
                to_do.append((pending[at_once:], size))
                pending = pending[:at_once]
            scans = first is None and self._scans(size)
            candidates = self._candidates(pending, size, scans)
            if candidates is None:
                return self._nothing()
            is_last = first is not None or size >= min(most, self.snapshot.live_count)
            is_done = _is_done(candidates, len(pending), size, max_distance) | is_last
            for part in candidates.results.parts:
                visited[pending] += part.visited
                passed[pending] += part.deleted
            if is_done.any():
                kept = ~np.isin(candidates.rows, own_rows) & is_done[candidates.owners]
                if max_distance is not None:
                    kept &= candidates.distances <= max_distance
                columns = self._columns(candidates, np.flatnonzero(is_done), np.flatnonzero(kept))
                places = pending[is_done]
                counted = visited[places].tolist(), passed[places].tolist()
                answered.append(_with_counts(columns, *counted, own_matching))
                done.append(places)
            if not is_done.all():
                to_do.append((pending[~is_done], most if scans else min(most, size * _GROWTH)))
            self.wanted.memory.release(candidates_bytes(self.snapshot, len(pending), size))
        _check_results(answered)
        return in_order(answered, done)

    def _matching(self, rows: Places) -> int:
        """Return how many of some rows match the filter."""
        if self.filter is None or not len(rows):
            return len(rows)
        records = read_records(self.store, rows.tolist(), self.snapshot.state.seq)
        return sum(self.filter.matches_json(each.id, each.metadata) for each in records)

    def _first_size(self) -> int:
        return _FIRST_SCANNED if self._scans(_FIRST) else _FIRST

    def _scans(self, size: int) -> bool:
        """Return whether scans find this many candidates."""
        wish = self.wish
        if wish.exact or wish.target >= 1:
            return True
        return size * _SCANNED_ROWS_A_HIT > self.snapshot.live_count

    def _candidates(self, pending: Places, size: int, scans: bool) -> _Candidates | None:
        """Return the nearest rows of pending queries; None if there are no rows at all.

        scans: whether graphs are scanned, whatever the plan.
        """
        snapshot, queries, memory = self.snapshot, self.queries[pending], self.wanted.memory
        memory.take(candidates_bytes(snapshot, len(queries), size))
        wish = self.wish._replace(exact=True) if scans else self.wish
        results = self.plain.find(snapshot, queries, size, wish, self.deadline, self.filter)
        parts = results.parts
        if not parts:
            return None
        best = merged(parts, size)
        distances = distances_of(best.scores, self.store.config.metric).astype(np.float64)
        owners = np.repeat(np.arange(len(pending)), best.counts)
        return _Candidates(results, best, rows_of(parts, best), owners, distances)

    def _columns(self, candidates: _Candidates, done: Places, places: Places) -> HitColumns:
        """Return the first hits of some of the queries.

        Args:
            done: int64 (d,), ascending, the queries.
            places: int64, ascending, which candidates are hits.
        """
        owners = candidates.owners[places]
        ranks = np.arange(len(places)) - owners.searchsorted(owners)
        places = places[ranks < self.wanted.k]
        best, owners = candidates.best, done.searchsorted(candidates.owners[places])
        chosen = Best(
            best.scores[places],
            best.nodes[places],
            None if best.origins is None else best.origins[places],
            None if best.rows is None else best.rows[places],
            np.bincount(owners, minlength=len(done)),
        )
        take_answer_memory(self.snapshot, len(places), self.wanted, self.store.config.dim)
        return columns_of(
            self.store,
            self.snapshot,
            candidates.results,
            chosen,
            len(done),
            self.wanted,
            self.deadline,
        )

    def _nothing(self) -> HitColumns:
        """Return the answer of a collection without rows."""
        none = self.queries[:0]
        results = self.plain.find(self.snapshot, none, 1, self.wish, self.deadline, self.filter)
        return columns_of(
            *(self.store, self.snapshot, results._replace(parts=[]), None, len(self.queries)),
            *(self.wanted, self.deadline),
        )


def _check_results(answered: list[HitColumns]) -> None:
    total = sum(len(columns.ids) for columns in answered)
    if total > limits.RESULTS_PER_CALL_MAX:
        raise InvalidArgumentError(
            f"the hits of all queries must be at most {limits.RESULTS_PER_CALL_MAX}, got {total}; "
            "search with fewer queries at once, or a smaller max_distance",
            Reason.TOO_MANY_RESULTS,
        )


def _with_counts(
    columns: HitColumns, visited: list[int], passed: list[int], own_matching: int
) -> HitColumns:
    """Return the answer with its counts over all rounds; ``own_matching``: examples that match."""
    info = columns.info._replace(matches=columns.info.matches - own_matching)
    columns = columns._replace(info=info, visited=visited)
    if columns.gated:
        return columns._replace(gated=passed)
    return columns._replace(deleted_visited=passed)


def _is_done(
    candidates: _Candidates, count: int, size: int, max_distance: float | None
) -> npt.NDArray[np.bool_]:
    """Return for each query whether its candidates include all within a distance."""
    counts = candidates.best.counts
    is_done: npt.NDArray[np.bool_] = counts < size
    if max_distance is not None:
        ends = np.cumsum(counts)
        last = candidates.distances[ends[~is_done] - 1]
        is_done[~is_done] = last > max_distance
    return is_done
