"""Methods of a collection that list and count rows, embedded and remote."""

from __future__ import annotations

from typing import Protocol

from vecdb.scrolling import Scroll
from vecdb.surface.arguments import FilterLike
from vecdb.types import Facet, FieldInfo, ScrollPage

__all__ = ["ListingSurface"]


class ListingSurface(Protocol):
    """Lists and counts of a collection; part of ``CollectionSurface``."""

    def count(self, filter: FilterLike | None = None) -> int:
        """Return the number of live rows, or of those that match a filter.

        Raises:
            InvalidArgumentError: BAD_FILTER.
            NotFoundError.
        """

    def list_ids(
        self,
        prefix: str = "",
        *,
        filter: FilterLike | None = None,
        limit: int = 1000,
        after: str | None = None,
    ) -> list[str]:
        """Return ids of live rows in the order of their UTF-8 bytes, page by page.

        A page sees the latest state. An id that is live throughout is on exactly one page.

        Args:
            prefix: list only ids that begin with it.
            filter: list only rows that match.
            limit: most ids to return, 1 to 10,000, as many as ``get`` takes.
            after: list ids after this one, which need not exist: the last id of the page before;
                None for the first page.

        Returns:
            list of str; fewer than ``limit`` on the last page only.

        Raises:
            InvalidArgumentError: BAD_FILTER, BAD_ID.
            NotFoundError.
        """

    def facet(self, field: str, filter: FilterLike | None = None, *, limit: int = 100) -> Facet:
        """Count the values of a field of the metadata, in all live rows or those that match.

        A row counts once for each value by which ``{field: value}`` finds it: the field's value, or
        the distinct elements of a list. Equal numbers are one value: 1 and 1.0. Objects, and lists
        in lists, do not count.

        Args:
            field: a path as in filters, "author.name"; a key that contains a dot is "a\\.b".
            filter: only rows that match.
            limit: most values to return, 1 to 10,000.

        Raises:
            InvalidArgumentError: BAD_FILTER; also if the field is not a path.
            ResourceExhaustedError: CALL_MEMORY: the field has too many different values.
            NotFoundError.
        """

    def fields(self) -> list[FieldInfo]:
        """Return the fields of the metadata of all live rows, by name, at any depth of objects.

        Each has its types, numbers of values, and how many different ones it has. All records are
        read, so this takes seconds for a million rows.

        Raises:
            NotFoundError.
        """

    def scroll(
        self,
        batch: int = 1000,
        *,
        filter: FilterLike | None = None,
        include_metadata: bool = True,
        include_vectors: bool = True,
    ) -> Scroll:
        """Return an iterator over all live rows as of the first page, whatever is written later, or
        over those that match a filter.

        Every row comes once, in the order in which rows were added. To leave it early, use
        ``close`` or a with-statement. Each page must be asked for within 60 s of the one before.

        Args:
            batch: rows of a page, 1 to 10,000; fewer if they would exceed 8 MiB, or with a filter.
            filter: only rows that match.
            include_metadata, include_vectors: what pages carry beside ids.

        Returns:
            An iterator of ``Records``, all of one seq.

        Raises:
            FailedPreconditionError: from the iterator: PIN_EXPIRED, after a pause of more than
                60 s.
            InvalidArgumentError, NotFoundError.
            ResourceExhaustedError: too many scrolls are open.

        Remote: the next page is fetched while the caller works on the current one. A page never
            exceeds a message.
        """

    def scroll_page(
        self,
        token: str | None = None,
        batch: int = 1000,
        *,
        filter: FilterLike | None = None,
        include_metadata: bool = True,
        include_vectors: bool = True,
    ) -> ScrollPage:
        """Return one page of a scroll, for callers that can't hold an iterator.

        Args:
            token: ``next_token`` of the page before, None for the first. It is valid for 60 s from
                that page on, and may be used again.
            filter: only rows that match; the same for all pages. A page then may be shorter than
                ``batch`` or empty, also if it is not the last.
            batch, include_metadata, include_vectors: as for ``scroll``.

        Returns:
            ScrollPage: ``next_token`` is None after the last page.

        Raises:
            FailedPreconditionError: PIN_EXPIRED: too late, or the scroll has ended.
            InvalidArgumentError: BAD_TOKEN: of another collection, or no token.
            ResourceExhaustedError, NotFoundError.
        """

    def end_scroll(self, token: str) -> None:
        """End a scroll before its last page, so that the rows it holds can be purged.

        Args:
            token: ``next_token`` of the last page read. Ending a scroll twice has no effect.

        Raises:
            InvalidArgumentError: BAD_TOKEN.
        """
