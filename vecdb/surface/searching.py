"""The method ``search`` of a collection, embedded and remote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypedDict, overload

import numpy as np
import numpy.typing as npt

from vecdb.checks import check_flag, check_target_recall
from vecdb.filters import Filter, check_filter_count, parse_filter
from vecdb.search_variants import PLAIN, Variant, check_variant
from vecdb.surface.arguments import Array, Column, FilterLike, Ids
from vecdb.types import CollectionConfig, Hits, Metric
from vecdb.vector_arrays import as_queries

__all__ = ["SearchFlags", "SearchSurface"]


class SearchFlags(TypedDict):
    """The flags of a search, and its target, checked."""

    target_recall: float | None
    exact: bool
    include_metadata: bool
    include_vectors: bool
    explain: bool


class SearchSurface(Protocol):
    """A collection that can be searched."""

    @property
    def config(self) -> CollectionConfig:
        """The settings that were fixed when the collection was created."""

    @property
    def dim(self) -> int:
        """Components of each vector."""
        return self.config.dim

    @property
    def metric(self) -> Metric:
        """The distance between two vectors."""
        return self.config.metric

    @overload
    def search(
        self,
        query: Sequence[float],
        k: int | None = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: FilterLike | Sequence[FilterLike] | None = None,
        target_recall: float | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        group_size: int | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        explain: bool = False,
        timeout_s: float | None = None,
    ) -> Hits: ...
    @overload
    def search(
        self,
        query: Sequence[Sequence[float]] | Sequence[Array],
        k: int | None = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: FilterLike | Sequence[FilterLike] | None = None,
        target_recall: float | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        group_size: int | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        explain: bool = False,
        timeout_s: float | None = None,
    ) -> list[Hits]: ...
    @overload
    def search(
        self,
        query: Array | Column,
        k: int | None = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: FilterLike | Sequence[FilterLike] | None = None,
        target_recall: float | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        group_size: int | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        explain: bool = False,
        timeout_s: float | None = None,
    ) -> Hits | list[Hits]: ...
    @overload
    def search(
        self,
        query: None = None,
        k: int | None = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: FilterLike | Sequence[FilterLike] | None = None,
        target_recall: float | None = None,
        near: Ids,
        away: Ids | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        group_size: int | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        explain: bool = False,
        timeout_s: float | None = None,
    ) -> Hits: ...
    def search(
        self,
        query: object = None,
        k: int | None = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: object = None,
        target_recall: float | None = None,
        near: Ids | None = None,
        away: Ids | None = None,
        max_distance: float | None = None,
        group_by: str | None = None,
        group_size: int | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        explain: bool = False,
        timeout_s: float | None = None,
    ) -> Hits | list[Hits]:
        """Return the k nearest live rows of one query or of many; fewer only if fewer are live.

        Args:
            query: float32, shape (dim,) for one ``Hits``, (q, dim) for a list of q; [] for [].
            k: rows per query, 1 to 16,384; q times k at most 1,000,000. None: all within
                ``max_distance``, but the nearest 16,384 if there are more.
            ef: candidates that a graph walk keeps, at least k; more raises recall and latency.
                None: as many as ``target_recall`` takes.
            exact: compare with every live row instead of walking graphs.
            target_recall: recall@k to reach on average, above 0 to 1; None: that of the collection
                (``CollectionConfig``), 0.95 unless it was created with another. Each graph is
                walked with the effort that was measured to reach it, and scanned if none does.
                Not used with ef or exact. A graph that was not measured, as it is small or of an
                earlier version, is walked with an ef of 128, or 2k if that is more.
            filter: a dict such as ``{"year": {"$gte": 2020}}``, or a ``Filter``: return only rows
                whose metadata match; a list with one for each query.
            near: ids of stored rows, in place of a query: search with the mean of their vectors,
                under cosine of unit length. These rows and those in ``away`` are never hits.
            away: ids of stored rows; with m the mean of near, search with m + (m - mean(away)).
                In near and away at most 1,000 ids together.
            max_distance: leave out what is farther; a finite number, at least 0 but under dot.
            group_by: path of a field of the metadata, such as "author.name": return the k nearest
                groups of rows with the same value there (``Hits.groups``), in place of k rows.
            group_size: most hits of a group, 1 to 1,000; None: 1. k times group_size is at most
                16,384, and times q 1,000,000.
            include_metadata, include_vectors: what hits carry beside ids and distances.
            explain: ``info.explain`` says how each segment was searched, and the other ways' cost.
            timeout_s: seconds until DeadlineExceededError, None for no limit.

        Returns:
            ``Hits`` or list of ``Hits``; their ``info`` says how they were found. Type checkers
            know which if the query is a list; the type of an array does not have its axes.

        Raises:
            InvalidArgumentError, UnsupportedError, DeadlineExceededError.
            NotFoundError: NO_SUCH_ID: an example does not exist; or the collection was dropped.

        Remote: many queries are one call, or a few if queries or answers exceed a message; each
            call sees one committed state, whose seq is in ``info``. ``timeout_s`` None stands for
            the client's. ResourceExhaustedError: MESSAGE_TOO_LARGE: the answer to a single query
            exceeds a message; ask for fewer rows, or without vectors or metadata.
        """
        variant = _variant_of(
            query, k, near, away, max_distance, group_by, group_size, lambda: self.metric
        )
        queries = None if variant.near else as_queries(query, self.dim)
        flags = _flags_of(target_recall, exact, include_metadata, include_vectors, explain)
        single = queries is None or queries.ndim == 1
        filters = _filters_of(filter, 1 if queries is None or single else len(queries))
        answers = self._search(queries, k, ef, filters, variant, flags, timeout_s)
        return answers[0] if single else answers

    def _search(
        self,
        queries: npt.NDArray[np.float32] | None,
        k: int | None,
        ef: int | None,
        filters: Filter | list[Filter] | None,
        variant: Variant,
        flags: SearchFlags,
        timeout_s: float | None,
    ) -> list[Hits]:
        """Search with queries of shape (dim,) or (q, dim), or None for a query by examples; k, ef
        and timeout_s are unchecked.

        filters: one for all queries, or one for each.
        """


def _flags_of(
    target_recall: object,
    exact: object,
    include_metadata: object,
    include_vectors: object,
    explain: object,
) -> SearchFlags:
    return SearchFlags(
        target_recall=None if target_recall is None else check_target_recall(target_recall),
        exact=check_flag("exact", exact),
        include_metadata=check_flag("include_metadata", include_metadata),
        include_vectors=check_flag("include_vectors", include_vectors),
        explain=check_flag("explain", explain),
    )


def _variant_of(
    query: object, k: object, near: object, away: object, max_distance: object, group_by: object,
    group_size: object, metric: Callable[[], Metric],
) -> Variant:  # fmt: skip
    """Return the variant of a search: almost always the plain one, which is found at once."""
    # Spelled out, since a loop would cost a search a microsecond.
    is_nearest = near is None and away is None and query is not None and k is not None
    if is_nearest and max_distance is None and group_by is None and group_size is None:
        return PLAIN
    shape = {"max_distance": max_distance, "group_by": group_by, "group_size": group_size}
    return check_variant(query, k, metric(), near=near, away=away, **shape)


def _filters_of(given: object, queries: int) -> Filter | list[Filter] | None:
    if given is None:
        return None
    if not isinstance(given, list | tuple):
        return parse_filter(given)
    check_filter_count(len(given), queries)
    return [parse_filter({} if each is None else each) for each in given]
