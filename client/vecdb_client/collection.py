"""A collection of a server, with the types and errors of an embedded one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vecdb import checks, limits
from vecdb.export_files import SIDE_PAGE_ROWS, save_export
from vecdb.scrolling import Scroll
from vecdb.types import (
    CollectionConfig,
    CollectionStats,
    ExportReport,
    IngestProgress,
    Metric,
    Receipt,
    Records,
    ScrollPage,
)
from vecdb.vector_arrays import as_queries
from vecdb_client import cutting, translation
from vecdb_client.exports import export_stream
from vecdb_client.ingest import ingest, upsert_request
from vecdb_client.searching import search
from vecdb_client.translation import wire_write_options
from vecdb_proto import vecdb_pb2 as wire

if TYPE_CHECKING:
    from vecdb_client.calls import Calls

__all__ = ["Collection"]


class Collection:
    """A handle on a collection of a server. Thread-safe.

    Created by ``Client.collection`` and ``Client.create_collection``. It is bound to the collection
    that had the name at that time: it stays valid after a rename. After a drop every call raises
    NotFoundError, also if another collection gets the name. (With a server of an older version the
    name decides.)

    In addition to the errors of each method, every call may raise UnavailableError (no connection,
    or the server is starting or stopping) and DeadlineExceededError.
    """

    def __init__(
        self, calls: Calls, name: str, config: CollectionConfig, collection_id: str = ""
    ) -> None:
        self._calls = calls
        self._name = name
        self._config = config
        self._target: dict[str, Any] = {"collection": name, "collection_id": collection_id}

    @property
    def name(self) -> str:
        """The name that it was opened by."""
        return self._name

    @property
    def config(self) -> CollectionConfig:
        """What was fixed at its creation."""
        return self._config

    @property
    def dim(self) -> int:
        """Components of each vector."""
        return self._config.dim

    @property
    def metric(self) -> Metric:
        """How distances are measured."""
        return self._config.metric

    def upsert(
        self,
        ids: Any,
        vectors: Any = None,
        metadata: Any = None,
        *,
        insert_only: bool = False,
        if_seq: int | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Write one batch, whole or not at all: new ids are added, known ones replaced.

        An entry replaces all of what was stored under its id. Rows that are more than a message
        holds (16 MiB, unless the server was started with another limit) are sent as several
        batches, one after the other: each of them is whole or not at all, the call is not. The
        receipt has the last one's seq then.

        Args:
            ids: list of n str (or integers, which become their decimal text), no id twice.
            vectors: float32, shape (n, dim); n is at most 10,000. Without any ids nothing is
                written, and the receipt has the seq of the last batch.
            metadata: list of n dict or None; None for no metadata at all.
            insert_only: refuse the batch if any of its ids is live. With a condition, rows that a
                message can't hold are refused.
            if_seq: refuse the batch unless every id is as it was at this seq, at which it was read
                (``Records.seq``, ``info.seq``): live, and not changed since. 0: unless none of
                them is live. A batch that changed nothing does not count as a change; what was
                deleted and written again does.
            request_id: names this write, 1 to 64 bytes of UTF-8. Repeated within 24 hours, with the
                same arguments, it has one effect and gives the first one's receipt again, its
                ``repeated`` set; the conditions are those of the first time then. A write that was
                refused may be tried again under its id.
                If the connection breaks before the answer, it is sent again within the timeout.
                Where the rows are sent as several batches, these get "<request_id>/1" and so on, at
                most 48 bytes before that, and repeating the call has one effect as long as the
                server has the same limit.

        Returns:
            Receipt: the batch is fsynced, and every later read in any process sees it.

        Raises:
            InvalidArgumentError: nothing was written.
            ResourceExhaustedError: the server has no room; or, MESSAGE_TOO_LARGE, a message can't
                hold a single row, or all of them where there is a condition.
            Of several batches, all before the failed one were written: ``progress`` of the error
            says how many rows those were, a prefix of the input; it is None otherwise.
            ConditionFailedError: CONDITION_EXISTS, CONDITION_CHANGED: ``insert_only`` or ``if_seq``
                does not hold; nothing was written.
            FailedPreconditionError: REQUEST_ID_REUSED: another write had this id; nothing was
                written.
            OutcomeUnknownError: whole or not at all, but nobody knows which; with a request id, the
                same call again settles it.
            DeadlineExceededError: it may still have been applied.
            NotFoundError: the collection was dropped.
        """
        write_options = wire_write_options(insert_only, if_seq, request_id)
        texts, array, raw = checks.check_rows(ids, vectors, metadata, self.config)

        def build(rows: slice, write_options: dict[str, Any]) -> wire.UpsertRequest:
            some = None if raw is None else raw[rows]
            return upsert_request(self._target, texts[rows], array[rows], some, write_options)

        size = cutting.rows_bytes_max(texts, self.dim, raw)
        return cutting.write(self._calls, "Upsert", build, texts, size, write_options)

    def upsert_many(
        self,
        ids: Any,
        vectors: Any,
        metadata: Any = None,
        *,
        batch_rows: int = 1000,
        progress: Callable[[IngestProgress], None] | None = None,
        request_id: str | None = None,
    ) -> IngestProgress:
        """Write any number of rows in batches, two of them under way at a time.

        Batches are acknowledged in the order of the input; the later of two rows with the same id
        wins. A batch that would be larger than a message may be is cut further.

        Args:
            ids, vectors, metadata: as for ``upsert``, of any length, or iterables of rows.
            batch_rows: rows of a batch, 1 to 10,000.
            progress: called after each acknowledged batch, in this thread.
            request_id: at most 48 bytes; the batches get "<request_id>/1", "<request_id>/2" and so
                on. So the whole call has one effect, however often it is repeated within 24 hours
                with the same rows in the same order, the same ``batch_rows`` and a server of the
                same limit on messages; cut otherwise, it is refused with REQUEST_ID_REUSED.

        Returns:
            IngestProgress: all rows.

        Raises:
            VecdbError: as for ``upsert``; its ``progress`` says how far it got: a prefix of the
                input. The batch behind that may have been applied too.
        """
        rows = ids, vectors, metadata
        return ingest(self._calls, self, rows, batch_rows, progress, request_id)

    def get(self, ids: Any) -> Records:
        """Look up rows by id: vectors bit for bit as given, metadata, and which ids are missing.

        An answer that is more than a message holds comes in pieces, each of one committed state;
        ``seq`` is the least of theirs, so that ``if_seq`` at it refuses rather too much.

        Args:
            ids: list of at most 10,000 str or integers.

        Raises:
            ResourceExhaustedError: MESSAGE_TOO_LARGE: a single row is larger than a message.
            InvalidArgumentError, NotFoundError.
        """
        texts = checks.check_ids(ids, unique=False)
        return cutting.joined_records(self._get(texts, None))

    def _get(self, texts: list[str], timeout_s: float | None) -> list[Records]:
        def ask(some: slice) -> Records:
            request = wire.GetRequest(**self._target, ids=texts[some])
            return translation.records_of(self._calls.read("Get", request, timeout_s))

        entry_bytes = 4 * self.dim + 4 * max(map(len, texts), default=0)
        return cutting.in_pieces(self._calls, len(texts), entry_bytes, ask, timeout_s)

    def delete(
        self, ids: Any, *, if_seq: int | None = None, request_id: str | None = None
    ) -> Receipt:
        """Delete rows by id, one batch, whole or not at all; ids not there are passed over. What is
        more than a message holds is sent as several batches, as by ``upsert``.

        Args:
            ids: list of at most 10,000 str or integers.
            if_seq, request_id: as for ``upsert``; with an ``if_seq`` above 0, an id that is not
                there refuses the batch.

        Returns:
            Receipt: ``count`` is how many were there. Raises as ``upsert`` does.
        """
        write_options = wire_write_options(False, if_seq, request_id)
        texts = checks.check_ids(ids, unique=False)

        def build(rows: slice, write_options: dict[str, Any]) -> wire.DeleteRequest:
            return wire.DeleteRequest(**self._target, ids=texts[rows], **write_options)

        size = cutting.rows_bytes_max(texts, 0, None)
        return cutting.write(self._calls, "Delete", build, texts, size, write_options)

    def count(self) -> int:
        """Live rows."""
        request = wire.CountRequest(**self._target)
        count: int = self._calls.read("Count", request).count
        return count

    def search(
        self,
        query: Any,
        k: int = 10,
        *,
        ef: int | None = None,
        exact: bool = False,
        filter: Any = None,
        target_recall: float | None = None,
        include_metadata: bool = True,
        include_vectors: bool = False,
        timeout_s: float | None = None,
    ) -> Any:
        """The k nearest live rows of one query or of many; fewer only if fewer are live.

        Many queries are one call on the wire, or a few if queries or answers are more than a
        message holds; each call sees one committed state, whose seq is in ``info``.

        Args:
            query: float32, shape (dim,) for one ``Hits``, (q, dim) for a list of q; [] for [].
            k: rows a query, 1 to 16,384; q times k at most 1,000,000.
            ef: candidates that a graph walk keeps, at least k; more finds more and takes longer.
                None: 128, or 2k if that is more.
            exact: compare with every live row instead of walking graphs.
            filter, target_recall: reserved.
            include_metadata, include_vectors: what hits carry beside ids and distances.
            timeout_s: seconds; past it DeadlineExceededError. None: the client's.

        Returns:
            ``Hits`` or list of ``Hits``; each one's ``info`` says how it was found.

        Raises:
            InvalidArgumentError, UnsupportedError, NotFoundError, DeadlineExceededError.
            ResourceExhaustedError: MESSAGE_TOO_LARGE: the answer to a single query is larger than
                a message may be: ask for fewer, or without vectors or metadata.
        """
        checks.check_reserved(filter=filter, target_recall=target_recall)
        # The engine validates the values, with the same messages as here.
        query = as_queries(query, self.dim)
        queries = query if query.ndim == 2 else query.reshape(1, -1)
        wanted: dict[str, Any] = {
            **self._target,
            "k": checks.check_k(k, max(1, len(queries))),
            "ef": None if ef is None else checks.check_limit(limits.EF, ef),
            **checks.check_flags(
                exact=exact, include_metadata=include_metadata, include_vectors=include_vectors
            ),
        }
        answers = search(self._calls, wanted, queries, self._get, timeout_s)
        return answers[0] if query.ndim == 1 else answers

    def scroll(
        self, batch: int = 1000, *, include_metadata: bool = True, include_vectors: bool = True
    ) -> Scroll:
        """All live rows as they are when the first page is asked for, whatever is written later.

        Every row comes once, by the order in which rows were added. The next page is fetched while
        the present one is worked on. Leave it early with ``close`` or a with-statement; the next
        page must be asked for within 60 s.

        Args:
            batch: rows of a page, 1 to 10,000; fewer where they would take more than 8 MiB, or more
                than a message may have.
            include_metadata, include_vectors: what pages carry beside ids.

        Returns:
            An iterator of ``Records``, all of one seq.

        Raises:
            FailedPreconditionError: from the iterator: PIN_EXPIRED, after a pause of more than
                60 s.
            InvalidArgumentError, NotFoundError.
            ResourceExhaustedError: too many scrolls are under way.
        """
        self._page_request(None, batch, include_metadata, include_vectors)

        def fetch(token: str | None) -> Callable[[], ScrollPage]:
            request = self._page_request(token, batch, include_metadata, include_vectors)
            answer = self._calls.start_read("ScrollPage", request)
            return lambda: translation.page_of(answer())

        return Scroll(fetch, self.end_scroll)

    def scroll_page(
        self,
        token: str | None = None,
        batch: int = 1000,
        *,
        include_metadata: bool = True,
        include_vectors: bool = True,
    ) -> ScrollPage:
        """One page of a scroll, for those who can't hold an iterator.

        Args:
            token: ``next_token`` of the page before, None for the first. It is good for 60 s from
                that page on, also for asking again.
            batch, include_metadata, include_vectors: as for ``scroll``.

        Returns:
            ScrollPage: ``next_token`` is None if there is nothing more.

        Raises:
            FailedPreconditionError: PIN_EXPIRED: too late, or the scroll has come to its end.
            InvalidArgumentError: BAD_TOKEN: of another collection, or none at all.
            ResourceExhaustedError, NotFoundError.
        """
        request = self._page_request(token, batch, include_metadata, include_vectors)
        return translation.page_of(self._calls.read("ScrollPage", request))

    def end_scroll(self, token: str) -> None:
        """End a scroll before its last page: what it holds may be purged.

        Args:
            token: ``next_token`` of its last page. One that has ended already is fine.

        Raises:
            InvalidArgumentError: BAD_TOKEN.
        """
        request = wire.EndScrollRequest(**self._target, token=checks.check_token(token))
        self._calls.read("EndScroll", request)

    def _page_request(
        self, token: str | None, batch: Any, include_metadata: Any, include_vectors: Any
    ) -> wire.ScrollPageRequest:
        return wire.ScrollPageRequest(
            **self._target,
            token=None if token is None else checks.check_token(token),
            batch=checks.check_limit(limits.BATCH_ROWS, batch, "batch"),
            include_metadata=checks.check_flag("include_metadata", include_metadata),
            include_vectors=checks.check_flag("include_vectors", include_vectors),
        )

    def stats(self) -> CollectionStats:
        """Rows, segments and bytes at one seq."""
        request = wire.StatsRequest(**self._target)
        response = self._calls.read("Stats", request)
        return translation.stats_of(response.stats)

    def optimize(self, timeout_s: float | None = None) -> CollectionStats:
        """Bring everything into graphs, as few as the cap on segments allows, and wait for it.

        Never needed for correctness: the indexer gets there by itself. Writes and searches go on.

        Args:
            timeout_s: seconds to wait, None for as long as it takes; the work goes on after that.

        Raises:
            DeadlineExceededError: it takes longer.
            ResourceExhaustedError: the server waits for too many of these already.
            UnavailableError: the server runs no indexer.
        """
        request = wire.OptimizeRequest(**self._target)
        response = self._calls.wait("Optimize", request, timeout_s)
        return translation.stats_of(response.stats)

    def export_faiss(
        self,
        path: str | os.PathLike[str],
        *,
        flat: bool = False,
        normalize_queries: bool = False,
        overwrite: bool = False,
        timeout_s: float | None = None,
    ) -> ExportReport:
        """Write a file that ``faiss.read_index`` opens and searches at once, with this collection's
        graph in it: an IndexIDMap2 around an IndexHNSWFlat. Writes and searches go on.

        It holds all rows that are live at one seq, by the order in which they were added: vectors
        at unit length under cosine; inner products, or squared distances under Euclidean. The graph
        is taken as it is, healed on the way if nodes of it have died; if rows are in no graph or in
        several, they are brought into one first. So the seq is that of a moment between call and
        end, and what is written after that moment is not in the file.

        If all ids are decimal integers below 2^63, they are the ids in FAISS; if not, rows are
        counted from 0. A file beside it, ``PATH.meta.parquet`` (``PATH.meta.jsonl`` without
        pyarrow), has each row's faiss_id, id and metadata.

        Args:
            path: in a folder that is there; the file appears when it is whole.
            flat: vectors alone, as an IndexFlat; there is no graph job then.
            normalize_queries: under cosine, have FAISS bring queries to unit length.
            overwrite: replace what is there.
            timeout_s: seconds to wait, None for as long as it takes.

        Raises:
            AlreadyExistsError: PATH_TAKEN: the file, or the one beside it, is there already.
            NotFoundError: NO_FOLDER, or the collection was dropped.
            InvalidArgumentError: normalize_queries under another metric than cosine.
            ResourceExhaustedError: EXPORT_TOO_LARGE: the rows do not fit one graph, use ``flat``;
                or a disk is full.
            DataLossError: stored bytes fail their checksum, or some were lost on the way.
            DeadlineExceededError: it takes longer.
            UnavailableError, UnsupportedError: the server stops, or is too old.
        """
        is_flat = checks.check_flag("flat", flat)
        kind = wire.EXPORT_FORMAT_FAISS_FLAT if is_flat else wire.EXPORT_FORMAT_FAISS
        return self._save(path, kind, normalize_queries, overwrite, timeout_s)

    def export_hnswlib(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        timeout_s: float | None = None,
    ) -> ExportReport:
        """Write a file that ``hnswlib.Index(space, dim).load_index`` opens; the space is "cosine",
        "l2" or "ip" (for dot). Labels are what ``export_faiss`` has as FAISS ids, also in the file
        beside it, and all else is as there.
        """
        kind = wire.EXPORT_FORMAT_HNSWLIB
        return self._save(path, kind, False, overwrite, timeout_s)

    def _save(
        self,
        path: str | os.PathLike[str],
        kind: Any,
        normalize_queries: bool,
        overwrite: bool,
        timeout_s: float | None,
    ) -> ExportReport:
        request = wire.ExportRequest(
            **self._target,
            format=kind,
            normalize_queries=checks.check_flag("normalize_queries", normalize_queries),
        )
        limit_s = checks.check_timeout(timeout_s)
        return save_export(
            path,
            lambda: export_stream(self._calls, request, limit_s),
            lambda token: self.scroll_page(token, SIDE_PAGE_ROWS, include_vectors=False),
            self.end_scroll,
            overwrite=checks.check_flag("overwrite", overwrite),
        )

    def __repr__(self) -> str:
        return f"Collection({self._name!r}, dim={self.dim}, metric={self.metric.value!r})"
