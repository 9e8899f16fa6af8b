"""A collection of an embedded database: the public surface.

``Collection`` is a handle: a name bound to an id. What the handles of one process share is in
``open_collection``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from vecdb import checks, limits
from vecdb.engine.api.ingest import ingest
from vecdb.engine.interchange.export.export import ExportRequest, export
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.search.lookup import get_records
from vecdb.engine.search.search import SearchRequest
from vecdb.engine.store.batch import make_batch, make_delete, make_write_options
from vecdb.engine.store.scroll import PageRequest, end_scroll, read_page
from vecdb.engine.system.deadline import Deadline
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

__all__ = ["Collection"]


class Collection:
    """A handle on a collection of an embedded database. Safe to use from many threads.

    It is bound to the collection that had the name when it was made: it goes on working after a
    rename, and after a drop every call raises NotFoundError, also if the name was given again.
    """

    def __init__(self, runtime: Runtime, name: str, opened: OpenCollection) -> None:
        self._runtime = runtime
        self._name = name
        self._opened = opened

    @property
    def name(self) -> str:
        """The name that it was opened by."""
        return self._name

    @property
    def collection_id(self) -> str:
        """What the collection is known by for ever; for servers."""
        return self._opened.id

    @property
    def config(self) -> CollectionConfig:
        """What was fixed at its creation."""
        return self._opened.store.config

    @property
    def dim(self) -> int:
        """Components of each vector."""
        return self.config.dim

    @property
    def metric(self) -> Metric:
        """How distances are measured."""
        return self.config.metric

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

        An entry replaces all of what was stored under its id. If its vector is bit for bit the one
        that is stored, only its metadata is written.

        Args:
            ids: list of n str (or integers, which become their decimal text), no id twice.
            vectors: float32, shape (n, dim); n is at most 10,000. Without any ids nothing is
                written, and the receipt has the seq of the last batch.
            metadata: list of n dict or None; None for no metadata at all.
            insert_only: refuse the batch if any of its ids is live.
            if_seq: refuse the batch unless every id is as it was at this seq, at which it was read
                (``Records.seq``, ``info.seq``): live, and not changed since. 0: unless none of
                them is live. A batch that changed nothing does not count as a change; what was
                deleted and written again does.
            request_id: names this write, 1 to 64 bytes of UTF-8. Repeated within 24 hours, with the
                same arguments, it has one effect and gives the first one's receipt again, its
                ``repeated`` set; the conditions are those of the first time then. A write that was
                refused may be tried again under its id.

        Returns:
            Receipt: the batch is fsynced, and every later read in any process sees it.

        Raises:
            InvalidArgumentError: nothing was written.
            ResourceExhaustedError, UnavailableError: nothing was written; try again later.
            ConditionFailedError: CONDITION_EXISTS, CONDITION_CHANGED: ``insert_only`` or ``if_seq``
                does not hold; nothing was written.
            FailedPreconditionError: REQUEST_ID_REUSED: another write had this id; nothing was
                written.
            OutcomeUnknownError: whole or not at all, but nobody knows which; with a request id, the
                same call again settles it.
            NotFoundError: the collection was dropped.
        """
        write_options = make_write_options(insert_only, if_seq, request_id)
        rows = checks.check_rows(ids, vectors, metadata, self.config)
        return self._runtime.write(self._opened, make_batch(*rows, write_options))

    def upsert_many(
        self,
        ids: Iterable[Any],
        vectors: Any,
        metadata: Any = None,
        *,
        batch_rows: int = 1000,
        progress: Callable[[IngestProgress], None] | None = None,
        request_id: str | None = None,
    ) -> IngestProgress:
        """Write any number of rows in batches, one after the other.

        Args:
            ids, vectors, metadata: as for ``upsert``, of any length, or iterables of rows.
            batch_rows: rows of a batch, 1 to 10,000.
            progress: called after each acknowledged batch.
            request_id: at most 48 bytes; the batches get "<request_id>/1", "<request_id>/2" and so
                on. So the whole call has one effect, however often it is repeated within 24 hours
                with the same rows in the same order and the same ``batch_rows``; cut otherwise, it
                is refused with REQUEST_ID_REUSED.

        Returns:
            IngestProgress: all rows.

        Raises:
            VecdbError: as for ``upsert``; its ``progress`` says how far it got: a prefix of the
            input.
        """
        self._check()
        rows, submit = (ids, vectors, metadata), partial(self._runtime.submit_delayed, self._opened)
        return ingest(submit, self.config, rows, batch_rows, progress, request_id)

    def get(self, ids: Any) -> Records:
        """Look up rows by id: vectors bit for bit as given, metadata, and which ids are missing.

        Args:
            ids: list of at most 10,000 str or integers.
        """
        self._runtime.check_usable()
        texts = checks.check_ids(ids, unique=False)
        return get_records(self._opened.store, texts)

    def delete(
        self, ids: Any, *, if_seq: int | None = None, request_id: str | None = None
    ) -> Receipt:
        """Delete rows by id, one batch, whole or not at all; ids that are not there are passed
        over.

        Args:
            ids: list of at most 10,000 str or integers.
            if_seq, request_id: as for ``upsert``; with an ``if_seq`` above 0, an id that is not
                there refuses the batch.

        Returns:
            Receipt: ``count`` is how many were there. Raises as ``upsert`` does.
        """
        write_options = make_write_options(False, if_seq, request_id)
        batch = make_delete(checks.check_ids(ids, unique=False), write_options)
        return self._runtime.write(self._opened, batch)

    def count(self) -> int:
        """Live rows."""
        self._runtime.check_usable()
        return self._opened.count()

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

        Args:
            query: float32, shape (dim,) for one ``Hits``, (q, dim) for a list of q; [] for [].
            k: rows a query, 1 to 16,384; q times k at most 1,000,000.
            ef: candidates that a graph walk keeps, at least k; more finds more and takes longer.
                None: 128, or 2k if that is more.
            exact: compare with every live row instead of walking graphs.
            filter, target_recall: reserved.
            include_metadata, include_vectors: what hits carry beside ids and distances.
            timeout_s: seconds; past it DeadlineExceededError.

        Returns:
            ``Hits`` or list of ``Hits``; each one's ``info`` says how it was found.

        Raises:
            InvalidArgumentError, UnsupportedError, NotFoundError, DeadlineExceededError.
        """
        checks.check_reserved(filter=filter, target_recall=target_recall)
        queries = as_queries(query, self.dim)
        flags = checks.check_flags(
            exact=exact, include_metadata=include_metadata, include_vectors=include_vectors
        )
        request = SearchRequest(queries, k, ef, **flags)
        self._runtime.check_usable()
        answers = self._opened.searcher.run(request, Deadline(timeout_s)).hits()
        return answers[0] if queries.ndim == 1 else answers

    def scroll(
        self, batch: int = 1000, *, include_metadata: bool = True, include_vectors: bool = True
    ) -> Scroll:
        """All live rows as they are when the first page is asked for, whatever is written later.

        Every row comes once, by the order in which rows were added. Leave it early with ``close``
        or a with-statement; the next page must be asked for within 60 s.

        Args:
            batch: rows of a page, 1 to 10,000; fewer where they would take more than 8 MiB.
            include_metadata, include_vectors: what pages carry beside ids.

        Returns:
            An iterator of ``Records``, all of one seq.

        Raises:
            FailedPreconditionError: from the iterator: PIN_EXPIRED, after a pause of more than
                60 s.
            InvalidArgumentError, NotFoundError.
            ResourceExhaustedError: too many scrolls are under way.
        """
        asked = self._page_request(batch, include_metadata, include_vectors)

        def fetch(token: str | None) -> Callable[[], ScrollPage]:
            return lambda: self._read_page(token, asked, Deadline())

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
        asked = self._page_request(batch, include_metadata, include_vectors)
        return self._read_page(token, asked, Deadline())

    def end_scroll(self, token: str) -> None:
        """End a scroll before its last page: what it holds may be purged.

        Args:
            token: ``next_token`` of its last page. One that has ended already is fine.

        Raises:
            InvalidArgumentError: BAD_TOKEN.
        """
        self._check()
        end_scroll(self._opened.store, self._opened.id, token)

    @staticmethod
    def _page_request(batch: Any, include_metadata: Any, include_vectors: Any) -> PageRequest:
        rows = checks.check_limit(limits.BATCH_ROWS, batch, "batch")
        flags = checks.check_flags(
            include_metadata=include_metadata, include_vectors=include_vectors
        )
        return PageRequest(rows, **flags)

    def stats(self) -> CollectionStats:
        """Rows, segments and bytes at one seq."""
        return self._runtime.stats(self._opened)

    def optimize(self, timeout_s: float | None = None) -> CollectionStats:
        """Bring everything into graphs, as few as the cap on segments allows, and wait for it.

        Never needed for correctness: the indexer gets there by itself. Writes and searches go on.

        Args:
            timeout_s: seconds to wait; the work goes on after that.

        Raises:
            DeadlineExceededError: it takes longer.
            UnavailableError: this process runs no indexer (option ``indexer=False``).
        """
        self._check()
        self._runtime.optimize(self._opened, Deadline(timeout_s))
        return self.stats()

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
        """
        is_flat = checks.check_flag("flat", flat)
        normalizes = checks.check_flag("normalize_queries", normalize_queries)
        asked = ExportRequest("faiss_flat" if is_flat else "faiss", normalizes)
        return self._save(path, asked, overwrite, timeout_s)

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
        return self._save(path, ExportRequest("hnswlib"), overwrite, timeout_s)

    def _save(
        self,
        path: str | os.PathLike[str],
        asked: ExportRequest,
        overwrite: bool,
        timeout_s: float | None,
    ) -> ExportReport:
        deadline = Deadline(timeout_s)
        wanted = self._page_request(SIDE_PAGE_ROWS, True, False)
        return save_export(
            path,
            lambda: export(self._runtime, self._opened, asked, deadline),
            lambda token: self._read_page(token, wanted, deadline),
            self.end_scroll,
            overwrite=checks.check_flag("overwrite", overwrite),
        )

    def _check(self) -> None:
        self._runtime.check_usable()
        self._opened.check_not_dropped()

    def _read_page(self, token: str | None, asked: PageRequest, deadline: Deadline) -> ScrollPage:
        self._check()
        return read_page(self._opened.store, self._opened.id, token, asked, deadline)

    def __repr__(self) -> str:
        return f"Collection({self._name!r}, dim={self.dim}, metric={self.metric.value!r})"
