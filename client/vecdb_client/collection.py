"""A collection of a server, with the types and errors of an embedded one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vecdb import checks, limits
from vecdb.export_files import SIDE_PAGE_ROWS, save_export
from vecdb.filters import Filter
from vecdb.metadata_patches import check_mode, check_patches
from vecdb.row_names import RowNames
from vecdb.scrolling import Scroll
from vecdb.search_variants import Variant
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
from vecdb_client import cutting, translation
from vecdb_client.exports import export_stream
from vecdb_client.filters import optional_filter
from vecdb_client.ingest import ingest, upsert_request
from vecdb_client.searching import search
from vecdb_client.translation import SearchFields, Target, WriteFields, wire_write_options
from vecdb_proto import vecdb_pb2 as wire

if TYPE_CHECKING:
    from vecdb_client.calls import Calls

__all__ = ["Collection"]


class Collection(CollectionSurface):
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
        self._target: Target = {"collection": name, "collection_id": collection_id}

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> CollectionConfig:
        return self._config

    @property
    def metadata(self) -> dict[str, Any]:
        request = wire.GetCollectionRequest(**self._target)
        found = self._calls.read("GetCollection", request).collection
        return translation.description_of(found).metadata

    def set_collection_metadata(self, metadata: MetadataEntry) -> None:
        raw = checks.check_collection_metadata(metadata)
        request = wire.SetCollectionMetadataRequest(**self._target, metadata=raw)
        self._calls.write("SetCollectionMetadata", request)

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
        write_options = wire_write_options(insert_only, if_seq, request_id, on_existing)
        texts, array, raw = checks.check_rows(
            ids, vectors, metadata, self.config, 0, self._calls.metadata_bytes_max
        )
        if skips := on_existing == "skip":
            self._calls.require("on_existing")

        def build(rows: slice, write_options: WriteFields) -> wire.UpsertRequest:
            some = None if raw is None else raw[rows]
            columns = texts[rows], array[rows], some
            return upsert_request(self._target, *columns, write_options, skips)

        size = cutting.rows_bytes_max(texts, self.dim, raw)
        return cutting.write(self._calls, "Upsert", build, texts, size, write_options)

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
        source, target = (ids, vectors, metadata), self._target
        return ingest(
            self._calls, target, self._config, source, batch_rows, progress, request_id, on_existing
        )

    def get(self, ids: Ids) -> Records:
        texts = checks.check_ids(ids, unique=False)
        return cutting.joined_records(self._get(texts, None))

    def _get(self, texts: list[str], timeout_s: float | None) -> list[Records]:
        def ask(some: slice) -> Records:
            request = wire.GetRequest(**self._target, ids=texts[some])
            return translation.records_of(self._calls.read("Get", request, timeout_s))

        entry_bytes = 4 * self.dim + 4 * max(map(len, texts), default=0)
        return cutting.in_pieces(self._calls, len(texts), entry_bytes, ask, timeout_s)

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
        write_options = wire_write_options(False, if_seq, request_id)
        fields = translation.change_fields(checks.check_target(ids, filter, limit, dry_run))
        texts = [] if ids is None else checks.check_ids(ids, unique=False)
        if "dry_run" in fields:
            self._calls.require("dry_run")

        def build(rows: slice, write_options: WriteFields) -> wire.DeleteRequest:
            return wire.DeleteRequest(**self._target, ids=texts[rows], **fields, **write_options)

        size = cutting.rows_bytes_max(texts, 0, None)
        return cutting.write(self._calls, "Delete", build, texts, size, write_options)

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
        write_options = wire_write_options(False, if_seq, request_id)
        fields = translation.change_fields(checks.check_target(ids, filter, limit, dry_run))
        how, texts = check_mode(mode), list[str]()
        if ids is not None:
            texts = checks.check_ids(ids, unique=True, limit=limits.CHANGED_ROWS)
        count = None if ids is None else len(texts)
        patches = check_patches(
            patch, how, count, RowNames(0, texts), self._calls.metadata_bytes_max
        )

        def build(rows: slice, write_options: WriteFields) -> wire.SetMetadataRequest:
            return wire.SetMetadataRequest(
                **self._target,
                ids=texts[rows],
                patches=patches if len(patches) == 1 else patches[rows],
                mode=translation.MODES[how],
                **fields,
                **write_options,
            )

        size = cutting.rows_bytes_max(texts, 0, None) + sum(map(len, patches)) + 6 * len(patches)
        return cutting.write(self._calls, "SetMetadata", build, texts, size, write_options)

    def count(self, filter: FilterLike | None = None) -> int:
        request = wire.CountRequest(**self._target, filter=optional_filter(filter))
        count: int = self._calls.read("Count", request).count
        return count

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
        # The engine validates the values, with the same messages as here.
        if queries is not None and queries.ndim == 1:
            queries = queries.reshape(1, -1)
        count = 1 if queries is None else max(1, len(queries))
        wanted: SearchFields = {
            **self._target,
            "k": 0 if k is None else checks.check_k(k, count),
            "ef": None if ef is None else checks.check_limit(limits.EF, ef),
            **flags,
            **translation.variant_fields(variant),
        }
        return search(self._calls, wanted, queries, filters, self._get, timeout_s)

    def list_ids(
        self,
        prefix: str = "",
        *,
        filter: FilterLike | None = None,
        limit: int = 1000,
        after: str | None = None,
    ) -> list[str]:
        request = wire.ListIdsRequest(
            **self._target,
            prefix=checks.check_id_text("prefix", prefix),
            filter=optional_filter(filter),
            limit=checks.check_limit(limits.BATCH_ROWS, limit, "limit"),
            after=checks.check_id_text("after", "" if after is None else after),
        )
        return list(self._calls.read("ListIds", request).ids)

    def facet(self, field: str, filter: FilterLike | None = None, *, limit: int = 100) -> Facet:
        checks.check_field(field)
        request = wire.FacetRequest(
            **self._target,
            field=field,
            filter=optional_filter(filter),
            limit=checks.check_limit(limits.BATCH_ROWS, limit, "limit"),
        )
        return translation.facet_of(self._calls.read("Facet", request))

    def fields(self) -> list[FieldInfo]:
        request = wire.FieldsRequest(**self._target)
        return translation.fields_of(self._calls.read("Fields", request))

    def scroll(
        self,
        batch: int = 1000,
        *,
        filter: FilterLike | None = None,
        include_metadata: bool = True,
        include_vectors: bool = True,
    ) -> Scroll:
        self._page_request(None, batch, filter, include_metadata, include_vectors)

        def fetch(token: str | None) -> Callable[[], ScrollPage]:
            request = self._page_request(token, batch, filter, include_metadata, include_vectors)
            answer = self._calls.start_read("ScrollPage", request)
            return lambda: translation.page_of(answer())

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
        request = self._page_request(token, batch, filter, include_metadata, include_vectors)
        return translation.page_of(self._calls.read("ScrollPage", request))

    def end_scroll(self, token: str) -> None:
        request = wire.EndScrollRequest(**self._target, token=checks.check_token(token))
        self._calls.read("EndScroll", request)

    def _page_request(
        self,
        token: str | None,
        batch: object,
        filter: object,
        include_metadata: object,
        include_vectors: object,
    ) -> wire.ScrollPageRequest:
        return wire.ScrollPageRequest(
            **self._target,
            token=None if token is None else checks.check_token(token),
            batch=checks.check_limit(limits.BATCH_ROWS, batch, "batch"),
            filter=optional_filter(filter),
            include_metadata=checks.check_flag("include_metadata", include_metadata),
            include_vectors=checks.check_flag("include_vectors", include_vectors),
        )

    def stats(self) -> CollectionStats:
        request = wire.StatsRequest(**self._target)
        response = self._calls.read("Stats", request)
        return translation.stats_of(response.stats)

    def optimize(self, timeout_s: float | None = None) -> CollectionStats:
        request = wire.OptimizeRequest(**self._target)
        response = self._calls.wait("Optimize", request, timeout_s)
        return translation.stats_of(response.stats)

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
        kind = wire.EXPORT_FORMAT_FAISS_FLAT if is_flat else wire.EXPORT_FORMAT_FAISS
        return self._save(path, kind, normalize_queries, overwrite, timeout_s)

    def export_hnswlib(
        self,
        path: StrPath,
        *,
        overwrite: bool = False,
        timeout_s: float | None = None,
    ) -> ExportReport:
        kind = wire.EXPORT_FORMAT_HNSWLIB
        return self._save(path, kind, False, overwrite, timeout_s)

    def _save(
        self,
        path: StrPath,
        kind: wire.ExportFormat,
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
