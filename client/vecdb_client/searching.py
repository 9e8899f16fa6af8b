"""Searches of a client: one call, or several if messages would be too large, with one deadline.

If the answer to a single query exceeds a message, its metadata and vectors are read by id after the
search. They are returned only if both reads are of the same seq.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from vecdb import limits
from vecdb.checks import Vectors
from vecdb.errors import ResourceExhaustedError, UnsupportedError
from vecdb.filters import Filter
from vecdb.reasons import Reason
from vecdb.types import Hits, Records
from vecdb_client import translation
from vecdb_client.cutting import in_pieces
from vecdb_client.filters import filter_to_wire
from vecdb_client.translation import SearchFields
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix

if TYPE_CHECKING:
    from vecdb_client.calls import Calls

__all__ = ["search"]

_ATTEMPTS: Final = 5
"""Attempts of a search with a separate read of its rows, while other clients write."""

Get = Callable[[list[str], float | None], list[Records]]


def search(
    calls: Calls,
    wanted: SearchFields,
    queries: Vectors | None,
    filters: Filter | list[Filter] | None,
    get: Get,
    timeout_s: float | None,
) -> list[Hits]:
    """Return the hits of each query.

    Args:
        calls: the client's calls.
        wanted: checked fields of the request except for the queries.
        queries: float32 (q, dim); None for one query by examples.
        filters: one for all queries, or q.
        get: returns rows by id, within a number of seconds.
        timeout_s: timeout of the whole search; None for the client's.

    Raises:
        ResourceExhaustedError: MESSAGE_TOO_LARGE: the ids for a single query exceed a message; or
            its rows do, and concurrent writes prevented that they were read at the search's seq.
    """
    limit_s = calls.limit_of(timeout_s)
    pending = _Search(calls, wanted, queries, filters, get, limit_s)
    if queries is None:
        return pending.some(slice(0, 1))
    dim = queries.shape[1]
    hit_bytes = 8 + (4 * dim if wanted["include_vectors"] else 0)
    query_bytes = 4 * dim + max([each.ByteSize() for each in pending.filters], default=0)
    entry_bytes = max(query_bytes, (wanted["k"] or limits.K.maximum) * hit_bytes)
    parts = in_pieces(calls, len(queries), entry_bytes, pending.some, limit_s)
    return [hits for part in parts for hits in part]


class _Search:
    """One call of ``search``. filters: one for each query, or none."""

    def __init__(
        self,
        calls: Calls,
        wanted: SearchFields,
        queries: Vectors | None,
        filters: Filter | list[Filter] | None,
        get: Get,
        limit_s: float | None,
    ) -> None:
        self._of_all = filter_to_wire(filters) if isinstance(filters, Filter) else None
        of_each = filters if isinstance(filters, list) else []
        self.filters = [filter_to_wire(each) for each in of_each]
        self._calls, self._wanted, self._queries, self._get = calls, wanted, queries, get
        self._ends = None if limit_s is None else time.monotonic() + limit_s

    def some(self, rows: slice) -> list[Hits]:
        """Return the hits of some of the queries."""
        queries = None if self._queries is None else self._queries[rows]
        filters, wanted = self.filters[rows], self._wanted
        try:
            return self._ask(queries, filters, wanted)
        except ResourceExhaustedError as error:
            divisible = wanted["include_metadata"] or wanted["include_vectors"]
            single = queries is None or len(queries) == 1
            if error.reason != Reason.MESSAGE_TOO_LARGE or not (single and divisible):
                raise
            return [self._completed(queries, filters, error)]

    def _left_s(self) -> float | None:
        return None if self._ends is None else max(1e-3, self._ends - time.monotonic())

    def _ask(
        self, queries: Vectors | None, filters: list[wire.Filter], wanted: SearchFields
    ) -> list[Hits]:
        matrix = None if queries is None else encode_matrix(queries)
        request = wire.SearchRequest(**wanted, queries=matrix, filter=self._of_all, filters=filters)
        response = self._calls.search(request, self._left_s())
        translation.check_variant_known(response, wanted)
        if filters and not response.gated:
            raise UnsupportedError(
                "the server does not know filters per query; it is too old", Reason.RESERVED
            )
        return translation.hits_of(
            response,
            1 if queries is None else len(queries),
            with_metadata=wanted["include_metadata"],
            with_vectors=wanted["include_vectors"],
        )

    def _completed(
        self, query: Vectors | None, filters: list[wire.Filter], too_large: ResourceExhaustedError
    ) -> Hits:
        bare: SearchFields = {**self._wanted, "include_metadata": False, "include_vectors": False}
        size = limits.BATCH_ROWS.maximum
        for _ in range(_ATTEMPTS):
            (hits,) = self._ask(query, filters, bare)
            parts = [
                part
                for start in range(0, len(hits), size)
                for part in self._get(hits.ids[start : start + size], self._left_s())
            ]
            if all(part.seq == hits.info.seq for part in parts):
                return self._joined(hits, parts)
        raise too_large

    def _joined(self, hits: Hits, parts: list[Records]) -> Hits:
        raw = vectors = None
        if self._wanted["include_metadata"]:
            raw = [text for part in parts for text in part.raw_metadata]
        if self._wanted["include_vectors"]:
            vectors = np.concatenate([part.vectors for part in parts])
        return Hits(hits.ids, hits.distances, raw, vectors, hits.info, hits.group_sizes)
