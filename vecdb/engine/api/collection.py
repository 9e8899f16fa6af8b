"""A collection of an embedded database: the public surface.

``Collection`` is a handle: a name bound to an id. All handles of a process on one collection share
an ``OpenCollection``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb import checks, limits
from vecdb.engine.api.ingest import ingest
from vecdb.engine.interchange.export.export import ExportRequest, export
from vecdb.engine.runtime.changing import change_rows
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.search.filters.facets import facet, fields
from vecdb.engine.search.filters.listing import list_ids
from vecdb.engine.search.search import SearchRequest
from vecdb.engine.search.snapshots.lookup import get_records
from vecdb.engine.store.batch import make_batch, make_delete, make_patch, make_write_options
from vecdb.engine.store.scroll import PageRequest, end_scroll, read_page
from vecdb.engine.system.deadline import Deadline
from vecdb.export_files import SIDE_PAGE_ROWS, save_export
from vecdb.filters import Filter
from vecdb.metadata_patches import check_mode, check_patches
from vecdb.row_names import RowNames
from vecdb.scrolling import Scroll
from vecdb.search_variants import PLAIN, Variant
from vecdb.surface import CollectionSurface
from vecdb.surface.arguments import (
    FilterLike,
    Ids,
    Metadata,
    MetadataEntry,
    Patch,
    StrPath,
    Vector,
    Vectors,
)
from vecdb.surface.searching import SearchFlags
from vecdb.types import (
    CollectionConfig,
    CollectionStats,
    ExportReport,
    Facet,
    FieldInfo,
    Hits,
    IngestProgress,
    Receipt,
    Records,
    ScrollPage,
)

__all__ = ["Collection"]


class Collection(CollectionSurface):
    """A handle on a collection of an embedded database. Safe to use from many threads.

    It is bound to the collection that had the name when the handle was created: it stays valid
    after a rename. After a drop every call raises NotFoundError, also if another collection gets
    the name.
    """

    def __init__(self, runtime: Runtime, name: str, opened: OpenCollection) -> None:
        self._runtime = runtime
        self._name = name
        self._opened = opened
        self._dim = opened.store.config.dim
        self._metadata_bytes_max = runtime.options.metadata_bytes_max

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def name(self) -> str:
        return self._name

    @property
    def collection_id(self) -> str:
        """The permanent id, which is the name of the collection's folder."""
        return self._opened.id

    @property
    def config(self) -> CollectionConfig:
        return self._opened.store.config

    @property
    def metadata(self) -> dict[str, Any]:
        self._check()
        return self._runtime.catalog.describe(self._opened.id).metadata

    def set_collection_metadata(self, metadata: MetadataEntry) -> None:
        raw = checks.check_collection_metadata(metadata)
        self._check()
        self._runtime.set_collection_metadata(self._opened, raw)

    def upsert(
        self,
        ids: Ids,
        vectors: Vectors | None = None,
        metadata: Metadata | None = None,
        *,
        insert_only: bool = False,
        on_existing: str = "replace",
        if_seq: int | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        write_options = make_write_options(insert_only, if_seq, request_id, on_existing)
        rows = checks.check_rows(ids, vectors, metadata, self.config, 0, self._metadata_bytes_max)
        return self._runtime.write(self._opened, make_batch(*rows, write_options))

    def upsert_many(
        self,
        ids: Ids,
        vectors: Vectors | Iterable[Vector],
        metadata: Iterable[MetadataEntry] | None = None,
        *,
        batch_rows: int = 1000,
        on_existing: str = "replace",
        progress: Callable[[IngestProgress], None] | None = None,
        request_id: str | None = None,
    ) -> IngestProgress:
        self._check()
        rows, submit = (ids, vectors, metadata), partial(self._runtime.submit_delayed, self._opened)
        most = self._metadata_bytes_max
        return ingest(
            submit, self.config, rows, batch_rows, progress, request_id, on_existing, most
        )

    def get(self, ids: Ids) -> Records:
        self._runtime.check_usable()
        texts = checks.check_ids(ids, unique=False)
        return get_records(self._opened.store, texts)

    def delete(
        self,
        ids: Ids | None = None,
        *,
        filter: FilterLike | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        if_seq: int | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        write_options = make_write_options(False, if_seq, request_id)
        target = checks.check_target(ids, filter, limit, dry_run)
        texts = None if ids is None else checks.check_ids(ids, unique=False)
        batch = make_delete(texts, write_options, filter=target.filter, limit=target.limit)
        return change_rows(self._runtime, self._opened, batch, target, Deadline())

    def set_metadata(
        self,
        ids: Ids | None = None,
        patch: Patch | None = None,
        mode: str = "merge",
        *,
        filter: FilterLike | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        if_seq: int | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        write_options = make_write_options(False, if_seq, request_id)
        target, how = checks.check_target(ids, filter, limit, dry_run), check_mode(mode)
        texts = None
        if ids is not None:
            texts = checks.check_ids(ids, unique=True, limit=limits.CHANGED_ROWS)
        count = None if texts is None else len(texts)
        batch = make_patch(
            texts,
            check_patches(patch, how, count, RowNames(0, texts or ()), self._metadata_bytes_max),
            how,
            self._metadata_bytes_max,
            write_options,
            filter=target.filter,
            limit=target.limit,
        )
        return change_rows(self._runtime, self._opened, batch, target, Deadline())

    def count(self, filter: FilterLike | None = None) -> int:
        self._runtime.check_usable()
        checked = checks.check_filter(filter)
        if checked is None:
            return self._opened.count()
        return self._opened.matched.count(checked, Deadline())

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
        self._runtime.check_usable()
        searcher = self._opened.searcher
        deadline = None if timeout_s is None else Deadline(timeout_s)
        unusual = flags["exact"] or flags["include_vectors"] or flags["explain"]
        is_plain = (variant is PLAIN or variant.is_bound_only) and not unusual
        if is_plain and queries is not None and k is not None and queries.ndim == 1:
            wish = k, ef, flags["target_recall"], flags["include_metadata"]
            hits = searcher.short(queries, *wish, filters, deadline)
            if hits is not None:
                return [hits if variant is PLAIN else variant.cut(hits)]
        request = SearchRequest(queries, k, ef, **flags, filter=filters, variant=variant)
        return searcher.run_general(request, deadline or Deadline()).hits()

    def list_ids(
        self,
        prefix: str = "",
        *,
        filter: FilterLike | None = None,
        limit: int = 1000,
        after: str | None = None,
    ) -> list[str]:
        self._runtime.check_usable()
        return list_ids(
            self._opened.store,
            self._opened.matched,
            checks.check_id_text("prefix", prefix).encode(),
            checks.check_filter(filter),
            checks.check_limit(limits.BATCH_ROWS, limit, "limit"),
            checks.check_id_text("after", "" if after is None else after).encode(),
            Deadline(),
        )

    def facet(self, field: str, filter: FilterLike | None = None, *, limit: int = 100) -> Facet:
        self._runtime.check_usable()
        return facet(
            self._opened.store,
            self._opened.matched,
            checks.check_field(field),
            checks.check_filter(filter),
            checks.check_limit(limits.BATCH_ROWS, limit, "limit"),
            Deadline(),
        )

    def fields(self) -> list[FieldInfo]:
        self._runtime.check_usable()
        return fields(self._opened.store, self._opened.matched, Deadline())

    def scroll(
        self,
        batch: int = 1000,
        *,
        filter: FilterLike | None = None,
        include_metadata: bool = True,
        include_vectors: bool = True,
    ) -> Scroll:
        asked = self._page_request(batch, include_metadata, include_vectors, filter)

        def fetch(token: str | None) -> Callable[[], ScrollPage]:
            return lambda: self._read_page(token, asked, Deadline())

        return Scroll(fetch, self.end_scroll)

    def scroll_page(
        self,
        token: str | None = None,
        batch: int = 1000,
        *,
        filter: FilterLike | None = None,
        include_metadata: bool = True,
        include_vectors: bool = True,
    ) -> ScrollPage:
        asked = self._page_request(batch, include_metadata, include_vectors, filter)
        return self._read_page(token, asked, Deadline())

    def end_scroll(self, token: str) -> None:
        self._check()
        end_scroll(self._opened.store, self._opened.id, token)

    @staticmethod
    def _page_request(
        batch: object, include_metadata: object, include_vectors: object, filter: object = None
    ) -> PageRequest:
        return PageRequest(
            checks.check_limit(limits.BATCH_ROWS, batch, "batch"),
            checks.check_flag("include_metadata", include_metadata),
            checks.check_flag("include_vectors", include_vectors),
            filter=checks.check_filter(filter),
        )

    def stats(self) -> CollectionStats:
        return self._runtime.stats(self._opened)

    def optimize(self, timeout_s: float | None = None) -> CollectionStats:
        self._check()
        self._runtime.optimize(self._opened, Deadline(timeout_s))
        return self.stats()

    def export_faiss(
        self,
        path: StrPath,
        *,
        flat: bool = False,
        normalize_queries: bool = False,
        overwrite: bool = False,
        timeout_s: float | None = None,
    ) -> ExportReport:
        is_flat = checks.check_flag("flat", flat)
        normalizes = checks.check_flag("normalize_queries", normalize_queries)
        asked = ExportRequest("faiss_flat" if is_flat else "faiss", normalizes)
        return self._save(path, asked, overwrite, timeout_s)

    def export_hnswlib(
        self,
        path: StrPath,
        *,
        overwrite: bool = False,
        timeout_s: float | None = None,
    ) -> ExportReport:
        return self._save(path, ExportRequest("hnswlib"), overwrite, timeout_s)

    def _save(
        self,
        path: StrPath,
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
        opened = self._opened
        find = opened.matched.candidates
        return read_page(opened.store, opened.id, token, asked, deadline, candidates=find)

    def __repr__(self) -> str:
        return f"Collection({self._name!r}, dim={self.dim}, metric={self.metric.value!r})"
