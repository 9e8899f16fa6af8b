"""Methods of a collection, embedded and remote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypedDict, overload

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.errors import InvalidArgumentError
from vecdb.filters import Filter, parse_filter
from vecdb.reasons import Reason
from vecdb.scrolling import Scroll
from vecdb.surface.arguments import (
    Array,
    Column,
    FilterLike,
    Ids,
    Metadata,
    MetadataEntry,
    StrPath,
    Vector,
    Vectors,
)
from vecdb.types import (
    CollectionConfig,
    CollectionStats,
    ExportReport,
    Hits,
    IngestProgress,
    Metric,
    Receipt,
    Records,
    ScrollPage,
)
from vecdb.vector_arrays import as_queries

__all__ = ["CollectionSurface", "SearchFlags"]


class SearchFlags(TypedDict):
    """The flags of a search, and its target, checked."""

    target_recall: float | None
    exact: bool
    include_metadata: bool
    include_vectors: bool


class CollectionSurface(Protocol):
    """A handle on a collection. Safe to use from many threads.

    The handle is bound to the collection that had the name when the handle was created. It keeps
    working after a rename. After a drop every call raises NotFoundError, even if a new collection
    has the name.
    """

    @property
    def name(self) -> str:
        """The name by which the handle was opened."""

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

    def upsert(
        self,
        ids: Ids,
        vectors: Vectors | None = None,
        metadata: Metadata | None = None,
        *,
        insert_only: bool = False,
        if_seq: int | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Write one batch atomically: add new ids, replace known ones.

        An entry replaces everything stored under its id. If its vector equals the stored one bit
        for bit, only the metadata is written.

        Args:
            ids: list of n str (or integers, which become their decimal text), without duplicates.
            vectors: float32, shape (n, dim); n is at most 10,000. Without ids nothing is written,
                and the receipt has the seq of the last batch.
            metadata: list of n dict or None; None for no metadata at all.
            insert_only: refuse the batch if any of its ids is live.
            if_seq: refuse the batch unless every id is live and unchanged since this seq, at which
                it was read (``Records.seq``, ``info.seq``). 0: refuse it if any of them is live. A
                batch that writes the same row again is not a change; deleting an id and writing it
                again is.
            request_id: identifies this write, 1 to 64 bytes of UTF-8. Repeated within 24 hours with
                the same arguments, the write takes effect once. A repetition returns the first
                receipt with ``repeated`` set and does not evaluate the conditions again. A refused
                write may be tried again under its id.

        Returns:
            Receipt: the batch is fsynced, and every later read in any process sees it.

        Raises:
            InvalidArgumentError: nothing was written.
            ResourceExhaustedError, UnavailableError: nothing was written; retry later.
            ConditionFailedError: CONDITION_EXISTS, CONDITION_CHANGED: ``insert_only`` or ``if_seq``
                does not hold; nothing was written.
            FailedPreconditionError: REQUEST_ID_REUSED: another write had this id; nothing was
                written.
            OutcomeUnknownError: the batch was written whole or not at all; with a request id,
                repeat the call to find out.
            NotFoundError: the collection was dropped.

        Remote: rows that exceed one message (16 MiB, unless the server was started with another
            limit) are sent as several batches in order. Each batch is atomic, the call is not. The
            receipt has the seq of the last batch. If one fails, the error's ``progress`` says how
            many rows were written before it, a prefix of the input; otherwise it is None. With a
            condition such rows are refused (ResourceExhaustedError: MESSAGE_TOO_LARGE), as is a
            single row that exceeds a message. A write with a request id is sent again within the
            timeout if the connection breaks. Several batches get "<request_id>/1" and so on (then
            at most 48 bytes), and repeating the call takes effect once as long as the server has
            the same limit. After DeadlineExceededError the batch may still be applied.
        """

    def upsert_many(
        self,
        ids: Ids,
        vectors: Vectors | Iterable[Vector],
        metadata: Iterable[MetadataEntry] | None = None,
        *,
        batch_rows: int = 1000,
        progress: Callable[[IngestProgress], None] | None = None,
        request_id: str | None = None,
    ) -> IngestProgress:
        """Write any number of rows in batches, in the order of the input.

        If an id occurs twice, the later row wins.

        Args:
            ids, vectors, metadata: as for ``upsert``, of any length, or iterables of rows.
            batch_rows: rows of a batch, 1 to 10,000.
            progress: called in this thread after each acknowledged batch.
            request_id: at most 48 bytes; the batches get "<request_id>/1", "<request_id>/2" and so
                on. The call takes effect once, however often it is repeated within 24 hours with
                the same rows in the same order and the same ``batch_rows``. Split differently, it
                is refused with REQUEST_ID_REUSED.

        Returns:
            IngestProgress: all rows.

        Raises:
            VecdbError: as for ``upsert``; its ``progress`` says how many rows were acknowledged, a
                prefix of the input.

        Remote: two batches are in flight at a time; one that exceeds a message is split again.
            A request id also needs a server with the same limit on messages. After an error, the
            batch behind the acknowledged prefix may have been applied.
        """

    def get(self, ids: Ids) -> Records:
        """Return rows by id: vectors bit for bit as given, metadata, and the missing ids.

        Args:
            ids: list of at most 10,000 str or integers.

        Raises:
            InvalidArgumentError, NotFoundError.

        Remote: a response that exceeds one message is fetched in pieces, each of one committed
            state. ``seq`` is their minimum, so ``if_seq`` may refuse more than necessary.
            ResourceExhaustedError: MESSAGE_TOO_LARGE: a single row exceeds a message.
        """

    def delete(
        self, ids: Ids, *, if_seq: int | None = None, request_id: str | None = None
    ) -> Receipt:
        """Delete rows by id, as one atomic batch; ignore ids that are missing.

        Args:
            ids: list of at most 10,000 str or integers.
            if_seq, request_id: as for ``upsert``; with an ``if_seq`` above 0, a missing id refuses
                the batch.

        Returns:
            Receipt: ``count`` is the number of rows deleted.

        Raises:
            VecdbError: as for ``upsert``.

        Remote: ids that exceed one message are sent as several batches, as by ``upsert``.
        """

    def count(self) -> int:
        """Return the number of live rows."""

    @overload
    def search(
        self,
        query: Sequence[float],
        k: int = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: FilterLike | Sequence[FilterLike] | None = None,
        target_recall: float | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        timeout_s: float | None = None,
    ) -> Hits: ...
    @overload
    def search(
        self,
        query: Sequence[Sequence[float]] | Sequence[Array],
        k: int = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: FilterLike | Sequence[FilterLike] | None = None,
        target_recall: float | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        timeout_s: float | None = None,
    ) -> list[Hits]: ...
    @overload
    def search(
        self,
        query: Array | Column,
        k: int = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: FilterLike | Sequence[FilterLike] | None = None,
        target_recall: float | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        timeout_s: float | None = None,
    ) -> Hits | list[Hits]: ...
    def search(
        self,
        query: object,
        k: int = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: object = None,
        target_recall: float | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        timeout_s: float | None = None,
    ) -> Hits | list[Hits]:
        """Return the k nearest live rows of one query or of many; fewer only if fewer are live.

        Args:
            query: float32, shape (dim,) for one ``Hits``, (q, dim) for a list of q; [] for [].
            k: rows per query, 1 to 16,384; q times k at most 1,000,000.
            ef: candidates that a graph walk keeps, at least k; more raises recall and latency.
                None: as many as ``target_recall`` takes.
            exact: compare with every live row instead of walking graphs.
            target_recall: recall@k to reach on average, above 0 to 1; None: 0.95. Each graph is
                walked with the effort that was measured to reach it, and scanned if none does.
                Not used with ef or exact. A graph that was not measured, as it is small or of an
                earlier version, is walked with an ef of 128, or 2k if that is more.
            filter: a dict such as ``{"year": {"$gte": 2020}}``, or a ``Filter``: return only rows
                whose metadata match; a list with one for each query.
            include_metadata, include_vectors: what hits carry beside ids and distances.
            timeout_s: seconds until DeadlineExceededError, None for no limit.

        Returns:
            ``Hits`` or list of ``Hits``; their ``info`` says how they were found. Type checkers
            know which if the query is a list; the type of an array does not have its axes.

        Raises:
            InvalidArgumentError, UnsupportedError, NotFoundError, DeadlineExceededError.

        Remote: many queries are one call, or a few if queries or answers exceed a message; each
            call sees one committed state, whose seq is in ``info``. ``timeout_s`` None stands for
            the client's. ResourceExhaustedError: MESSAGE_TOO_LARGE: the answer to a single query
            exceeds a message; ask for fewer rows, or without vectors or metadata.
        """
        queries = as_queries(query, self.dim)
        if target_recall is not None:
            target_recall = checks.check_target_recall(target_recall)
        flags = SearchFlags(
            target_recall=target_recall,
            exact=checks.check_flag("exact", exact),
            include_metadata=checks.check_flag("include_metadata", include_metadata),
            include_vectors=checks.check_flag("include_vectors", include_vectors),
        )
        filters = _filters_of(filter, 1 if queries.ndim == 1 else len(queries))
        answers = self._search(queries, k, ef, filters, flags, timeout_s)
        return answers[0] if queries.ndim == 1 else answers

    def _search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        ef: int | None,
        filters: Filter | list[Filter] | None,
        flags: SearchFlags,
        timeout_s: float | None,
    ) -> list[Hits]:
        """Search with queries of shape (dim,) or (q, dim); k, ef and timeout_s are unchecked.

        filters: one for all queries, or one for each.
        """

    def scroll(
        self, batch: int = 1000, *, include_metadata: bool = True, include_vectors: bool = True
    ) -> Scroll:
        """Return an iterator over all live rows as of the first page, whatever is written later.

        Every row comes once, in the order in which rows were added. To leave it early, use
        ``close`` or a with-statement. Each page must be asked for within 60 s of the one before.

        Args:
            batch: rows of a page, 1 to 10,000; fewer if they would exceed 8 MiB.
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
        include_metadata: bool = True,
        include_vectors: bool = True,
    ) -> ScrollPage:
        """Return one page of a scroll, for callers that can't hold an iterator.

        Args:
            token: ``next_token`` of the page before, None for the first. It is valid for 60 s from
                that page on, and may be used again.
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

    def stats(self) -> CollectionStats:
        """Return rows, segments and bytes at one seq."""

    def optimize(self, timeout_s: float | None = None) -> CollectionStats:
        """Wait until all rows are in as few graphs as the limit on segment size allows.

        Results are correct without it. Writes and searches continue.

        Args:
            timeout_s: seconds to wait, None for no limit; the work continues after that.

        Raises:
            DeadlineExceededError: it takes longer.
            UnavailableError: there is no indexer (option ``indexer=False``).

        Remote: ResourceExhaustedError: too many of these calls are waiting on the server.
        """

    def export_faiss(
        self,
        path: StrPath,
        *,
        flat: bool = False,
        normalize_queries: bool = False,
        overwrite: bool = False,
        timeout_s: float | None = None,
    ) -> ExportReport:
        """Write a file for ``faiss.read_index``, with this collection's graph in it.

        The index is an IndexIDMap2 around an IndexHNSWFlat, ready to search. It holds all rows live
        at one seq, in the order in which they were added: vectors at unit length under cosine;
        inner products, or squared distances under Euclidean. The graph is the collection's own,
        repaired if some of its nodes are deleted. If rows are in no graph or in several, they are
        first brought into one. The seq therefore is one between call and end; later writes are not
        in the file. Writes and searches continue.

        If all ids are decimal integers below 2^63, they are the ids in FAISS; otherwise rows are
        numbered from 0. A sidecar, ``PATH.meta.parquet`` (``PATH.meta.jsonl`` without pyarrow), has
        each row's faiss_id, id and metadata.

        Args:
            path: in an existing folder; the file appears when it is complete.
            flat: vectors only, as an IndexFlat, without a graph.
            normalize_queries: under cosine, let FAISS normalize queries.
            overwrite: replace existing files.
            timeout_s: seconds to wait, None for no limit.

        Raises:
            AlreadyExistsError: PATH_TAKEN: the file or its sidecar exists.
            NotFoundError: NO_FOLDER, or the collection was dropped.
            InvalidArgumentError: normalize_queries under another metric than cosine.
            ResourceExhaustedError: EXPORT_TOO_LARGE: the rows do not fit one graph, use ``flat``;
                or a disk is full.
            DataLossError: stored bytes fail their checksum, or some were lost on the way.
            DeadlineExceededError: it takes longer.

        Remote: UnsupportedError: the server is too old.
        """

    def export_hnswlib(
        self, path: StrPath, *, overwrite: bool = False, timeout_s: float | None = None
    ) -> ExportReport:
        """Write a file for ``hnswlib.Index(space, dim).load_index``.

        The space is "cosine", "l2" or "ip" (for dot). Labels are the FAISS ids of ``export_faiss``;
        sidecar, arguments and errors are as there.
        """


def _filters_of(given: object, queries: int) -> Filter | list[Filter] | None:
    if given is None:
        return None
    if not isinstance(given, list | tuple):
        return parse_filter(given)
    if len(given) != queries:
        raise InvalidArgumentError(
            f"expected one filter for each of {queries} queries, got {len(given)} filters",
            Reason.BAD_FILTER,
        )
    return [parse_filter({} if each is None else each) for each in given]
