"""The arguments of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from vecdb.filters import Filter
from vecdb.search_variants import PLAIN, Variant

__all__ = ["SearchRequest"]


class SearchRequest(NamedTuple):
    """The arguments of one call of ``search``, not validated yet: ``Searcher.run`` does that.

    queries: anything that converts to float32 of shape (q, dim); None for a query by examples.
    k: None for all rows within ``variant.max_distance``.
    filter: one for all queries, or a list with one for each.
    """

    queries: Any
    k: int | None = 10
    ef: int | None = None
    target_recall: float | None = None
    exact: bool = False
    include_metadata: bool = True
    include_vectors: bool = False
    explain: bool = False
    filter: Filter | Sequence[Filter] | None = None
    variant: Variant = PLAIN
