"""Variants of a search (``vecdb/search_variants.py``), over the ways of a plain one.

A variant asks for more candidates than it returns and keeps the right ones:

    near, away     the examples' own rows are left out, so k more are asked for by their number
                   (``examples``)
    max_distance   candidates that are farther are left out (``within_distance``)
    group_by       candidates are put into groups by a field of their metadata (``grouping``)

Candidates come from walks and scans as planned for their number (``candidates``), so recall is that
of a plain search.
"""

from __future__ import annotations

import numpy as np

from vecdb import checks, limits
from vecdb.engine.search.filtered import by_filter, groups_of
from vecdb.engine.search.hits import Wanted
from vecdb.engine.search.plan import Wish
from vecdb.engine.search.request import SearchRequest
from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.search.variants.candidates import CandidateSearch, PlainSearch, Queries
from vecdb.engine.search.variants.examples import query_by_examples
from vecdb.engine.search.variants.grouping import grouped_hits
from vecdb.engine.search.variants.within_distance import hits_within
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import Filter
from vecdb.search_variants import check_group_count
from vecdb.types import HitColumns

__all__ = ["VariantSearch"]


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
        check_group_count(k, variant, count)
        wish = Wish(
            None if request.ef is None else checks.check_ef(request.ef, k or 1),
            checks.check_target_recall(request.target_recall, self._store.config.target_recall),
            request.exact,
        )
        flags = request.include_metadata, request.include_vectors
        wanted = Wanted(k or limits.K.maximum, *flags, memory, request.explain)

        def answer(snapshot: Snapshot, until: Deadline) -> HitColumns:
            queries, own_rows = given, np.zeros(0, np.int64)
            if queries is None:
                snapshot, derived, own_rows = query_by_examples(
                    self._store, snapshot, self._plain.newest, variant.near, variant.away
                )
                queries = self._plain.checked(derived)
            filters = groups_of(request.filter, len(queries))

            def some(prepared: Queries, filter: Filter | None) -> HitColumns:
                search = CandidateSearch(
                    self._store, self._plain, snapshot, prepared, wanted, wish, filter, until
                )
                bound = variant.max_distance
                if variant.group_by is None:
                    return hits_within(search, own_rows, bound, first=k)
                return grouped_hits(search, own_rows, bound, variant.group_by, variant.group_size)

            return by_filter(self._plain.prepared(queries), filters, some)

        return self._plain.attempt(answer, deadline, memory)
