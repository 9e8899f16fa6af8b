"""The rpcs of the service, one method each: check, call the engine, translate.

Methods are synchronous, take and return messages, and raise errors of ``vecdb.errors``. This module
is independent of gRPC; it needs only the deadline and the state of a call (``Call``). ``transport``
connects it to gRPC.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import Message

import vecdb
from vecdb import checks, limits
from vecdb.engine.interchange.export.export import CHUNK_BYTES, export
from vecdb.engine.interchange.importing.incoming import receive_import
from vecdb.engine.maintenance.backup.process import back_up
from vecdb.engine.runtime.changing import change_rows
from vecdb.engine.search.filters.facets import facet, fields
from vecdb.engine.search.filters.listing import list_ids
from vecdb.engine.search.search import SearchRequest
from vecdb.engine.search.snapshots.lookup import get_records
from vecdb.engine.store.batch import (
    UpsertBatch,
    make_batch,
    make_delete,
    make_patch,
    make_write_options,
)
from vecdb.engine.store.layout import FORMAT_NUMBER
from vecdb.engine.store.scroll import PageRequest, end_scroll, read_page
from vecdb.engine.system.call_memory import CallMemory, MemoryBudget
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import CancelledError, DeadlineExceededError, UnavailableError
from vecdb.metadata_checks import DEFAULT_BYTES
from vecdb.metadata_patches import check_raw_patches
from vecdb.reasons import Reason
from vecdb.row_names import RowNames
from vecdb.types import Receipt
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import decode_matrix
from vecdb_server.access.callers import Caller
from vecdb_server.backup_folder import BackupFolder, no_backup_folder
from vecdb_server.translation import descriptions, records, searches, transfers, writes
from vecdb_server.translation.filters import filter_of, filters_of
from vecdb_server.translation.requests import refuse_reserved

if TYPE_CHECKING:
    from vecdb.engine.runtime.open_collection import OpenCollection
    from vecdb.engine.runtime.runtime import Runtime

__all__ = ["Call", "Service"]

_FEATURES = (
    *("request_id", "conditions", "rename", "export", "import", "target_recall", "filter"),
    *("on_existing", "set_metadata", "dry_run", "listing", "collection_metadata"),
    *("index_fields", "collection_target_recall"),
)
_UNCOUNTED = MemoryBudget(sys.maxsize)
"""The memory budget of calls that are rejected since no folder is open."""

_PAGE_MARGIN_BYTES = 1_024
"""Bytes of a message that are reserved for the fields of a page beside its rows."""


class Call(Protocol):
    """The state of a call that a method may read."""

    caller: Caller

    def check_collection(self, name: str) -> None:
        """Check that the caller may use a collection of this name.

        Raises:
            PermissionDeniedError: SCOPE.
        """

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None without one."""

    def is_active(self) -> bool:
        """Return False once the caller has cancelled the call or disconnected."""


class _PartOfCall:
    """A part of a call with a deadline of its own, in seconds from now."""

    def __init__(self, call: Call, timeout_s: float) -> None:
        self.caller, self.check_collection = call.caller, call.check_collection
        self.is_active = call.is_active
        self._ends = time.monotonic() + timeout_s

    def time_remaining(self) -> float:
        return self._ends - time.monotonic()


class Service:
    """The rpcs of ``vecdb.v1.Vecdb``. Thread-safe.

    Attributes:
        runtime: set while the folder is open.
        refusal: the error for every call but ServerInfo while the server is starting or draining;
            None while it is ready.
    """

    def __init__(self, message_bytes: int, backups: BackupFolder | None = None) -> None:
        self._backups = backups
        self.runtime: Runtime | None = None
        self.refusal: UnavailableError | None = UnavailableError(
            "the server is starting", Reason.STARTING
        )
        self._message_bytes = message_bytes

    def check_ready(self) -> Runtime:
        """Return the open folder.

        Raises:
            UnavailableError: STARTING or DRAINING.
        """
        if self.refusal is not None:
            # A new exception per call: a shared one would collect tracebacks of all threads.
            raise UnavailableError(self.refusal.message, self.refusal.reason)
        assert self.runtime is not None
        return self.runtime

    def memory(self) -> CallMemory:
        """Return the memory account of a new call."""
        runtime = self.runtime
        budget = _UNCOUNTED if runtime is None else runtime.call_memory
        return budget.call(self._message_bytes)

    def server_info(self, request: wire.ServerInfoRequest, call: Call) -> wire.ServerInfoResponse:
        """Return version and limits, in every state of the server."""
        runtime = self.runtime
        metadata_bytes_max = (
            DEFAULT_BYTES if runtime is None else runtime.options.metadata_bytes_max
        )
        return wire.ServerInfoResponse(
            version=vecdb.__version__,
            data_format=FORMAT_NUMBER,
            limits=descriptions.limits_message(self._message_bytes, metadata_bytes_max),
            features=_FEATURES,
        )

    def create_collection(
        self, request: wire.CreateCollectionRequest, call: Call
    ) -> wire.CreateCollectionResponse:
        """Create a collection; it is on disk when this returns."""
        runtime = self.check_ready()
        refuse_reserved(request)
        config = descriptions.collection_config(request.config)
        raw, name = checks.check_raw_collection_metadata(request.metadata), request.collection
        call.check_collection(name)
        created = runtime.create_collection(checks.check_name(name), config, raw)
        described = runtime.catalog.describe(created.id)
        return wire.CreateCollectionResponse(
            collection=descriptions.description_message(described, created.id)
        )

    def get_collection(
        self, request: wire.GetCollectionRequest, call: Call
    ) -> wire.GetCollectionResponse:
        """Return the configuration of a collection."""
        collection = self._collection(request, call)
        described = self.check_ready().catalog.describe(collection.id)
        return wire.GetCollectionResponse(
            collection=descriptions.description_message(described, collection.id)
        )

    def set_collection_metadata(
        self, request: wire.SetCollectionMetadataRequest, call: Call
    ) -> wire.SetCollectionMetadataResponse:
        """Replace the metadata of a collection."""
        collection = self._collection(request, call)
        raw = checks.check_raw_collection_metadata(request.metadata)
        self.check_ready().set_collection_metadata(collection, raw)
        return wire.SetCollectionMetadataResponse()

    def list_collections(
        self, request: wire.ListCollectionsRequest, call: Call
    ) -> wire.ListCollectionsResponse:
        """Return all collections, or a page of them."""
        runtime = self.check_ready()
        refuse_reserved(request)
        found = [each for each in runtime.list_collections() if call.caller.permits(each.name)]
        return descriptions.descriptions_message(found, request.page_size, request.after)

    def rename_collection(
        self, request: wire.RenameCollectionRequest, call: Call
    ) -> wire.RenameCollectionResponse:
        """Rename a collection."""
        runtime = self.check_ready()
        refuse_reserved(request)
        call.check_collection(request.collection)
        call.check_collection(request.new_name)
        runtime.rename_collection(request.collection, request.new_name)
        return wire.RenameCollectionResponse()

    def drop_collection(
        self, request: wire.DropCollectionRequest, call: Call
    ) -> wire.DropCollectionResponse:
        """Drop a collection with all rows."""
        runtime = self.check_ready()
        refuse_reserved(request)
        call.check_collection(request.collection)
        runtime.drop_collection(request.collection)
        return wire.DropCollectionResponse()

    def upsert(self, request: wire.UpsertRequest, call: Call) -> wire.UpsertResponse:
        """Write one batch; it is on disk when this returns."""
        collection = self._collection(request, call)
        _check_still_wanted(call)
        vectors = decode_matrix(request.vectors)
        write_options = make_write_options(*writes.upsert_options(request))
        rows = checks.check_raw_rows(
            request.ids,
            vectors,
            request.metadata,
            collection.store.config,
            collection.store.metadata_bytes_max,
        )
        receipt = self._write(collection, make_batch(*rows, write_options))
        return writes.upsert_response(receipt, request.ids)

    def delete(self, request: wire.DeleteRequest, call: Call) -> wire.DeleteResponse:
        """Delete one batch of ids, or the rows of a filter; it is on disk when this returns."""
        collection, deadline = self._collection(request, call), _deadline(call)
        write_options = make_write_options(*writes.change_options(request))
        target = writes.target_of(request)
        ids = checks.check_ids(request.ids, unique=False)
        batch = make_delete(ids, write_options, filter=target.filter, limit=target.limit)
        receipt = change_rows(self.check_ready(), collection, batch, target, deadline)
        return writes.delete_response(receipt)

    def set_metadata(
        self, request: wire.SetMetadataRequest, call: Call
    ) -> wire.SetMetadataResponse:
        """Change the metadata of one batch of ids, or of the rows of a filter; it is on disk when
        this returns."""
        collection, deadline = self._collection(request, call), _deadline(call)
        write_options = make_write_options(*writes.change_options(request))
        target, mode = (
            writes.target_of(request),
            writes.metadata_mode(request),
        )
        ids = checks.check_ids(request.ids, unique=True, limit=limits.CHANGED_ROWS)
        count = len(ids) if target.filter is None else None
        most = collection.store.metadata_bytes_max
        patches = check_raw_patches(request.patches, mode, count, RowNames(0, ids), most)
        batch = make_patch(
            ids,
            patches,
            mode,
            most,
            write_options,
            filter=target.filter,
            limit=target.limit,
        )
        receipt = change_rows(self.check_ready(), collection, batch, target, deadline)
        return writes.set_metadata_response(receipt, request.ids)

    def get(self, request: wire.GetRequest, call: Call) -> wire.GetResponse:
        """Return rows by id."""
        collection = self._collection(request, call)
        ids = checks.check_ids(request.ids, unique=False)
        return records.records_response(get_records(collection.store, ids))

    def scroll_page(self, request: wire.ScrollPageRequest, call: Call) -> wire.ScrollPageResponse:
        """Return a page: as many rows as requested, or fewer if more would not fit a message."""
        collection = self._collection(request, call)
        asked = PageRequest(
            checks.check_limit(limits.BATCH_ROWS, request.batch),
            request.include_metadata,
            request.include_vectors,
            min(limits.SCROLL_PAGE_BYTES_MAX, self._message_bytes - _PAGE_MARGIN_BYTES),
            filter_of(request),
        )
        token, deadline = request.token or None, _deadline(call)
        find = collection.matched.candidates
        page = read_page(collection.store, collection.id, token, asked, deadline, candidates=find)
        return records.page_response(page)

    def end_scroll(self, request: wire.EndScrollRequest, call: Call) -> wire.EndScrollResponse:
        """End a scroll, so that rows it kept can be purged."""
        collection = self._collection(request, call)
        end_scroll(collection.store, collection.id, request.token)
        return wire.EndScrollResponse()

    def count(self, request: wire.CountRequest, call: Call) -> wire.CountResponse:
        """Return the number of live rows, or of those that match a filter."""
        collection, filter = self._collection(request, call), filter_of(request)
        if filter is None:
            return wire.CountResponse(count=collection.count())
        return wire.CountResponse(count=collection.matched.count(filter, _deadline(call)))

    def list_ids(self, request: wire.ListIdsRequest, call: Call) -> wire.ListIdsResponse:
        """Return a page of ids."""
        collection = self._collection(request, call)
        ids = list_ids(
            collection.store,
            collection.matched,
            checks.check_id_text("prefix", request.prefix).encode(),
            filter_of(request),
            checks.check_limit(limits.BATCH_ROWS, request.limit, "limit"),
            checks.check_id_text("after", request.after).encode(),
            _deadline(call),
        )
        return wire.ListIdsResponse(ids=ids)

    def facet(self, request: wire.FacetRequest, call: Call) -> wire.FacetResponse:
        """Return the values of a field with their numbers of rows."""
        collection = self._collection(request, call)
        found = facet(
            collection.store,
            collection.matched,
            checks.check_field(request.field),
            filter_of(request),
            checks.check_limit(limits.BATCH_ROWS, request.limit, "limit"),
            _deadline(call),
        )
        return records.facet_response(found)

    def fields(self, request: wire.FieldsRequest, call: Call) -> wire.FieldsResponse:
        """Return the fields of the metadata."""
        collection = self._collection(request, call)
        found = fields(collection.store, collection.matched, _deadline(call))
        return records.fields_response(found)

    def search(self, request: wire.SearchRequest, call: Call) -> wire.SearchResponse:
        """Return the nearest rows of each query, within the caller's deadline."""
        collection = self._collection(request, call)
        variant = searches.variant_of(request, collection.store.config.metric)
        asked = SearchRequest(
            None if variant.near else decode_matrix(request.queries),
            request.k or (0 if variant.max_distance is None else None),
            request.ef if request.HasField("ef") else None,
            request.target_recall if request.HasField("target_recall") else None,
            request.exact,
            request.include_metadata,
            request.include_vectors,
            request.explain,
            filters_of(request),
            variant,
        )
        return searches.search_response(collection.searcher.run(asked, _deadline(call)))

    def search_in_stream(self, request: wire.SearchRequest, call: Call) -> wire.SearchResponse:
        """Run one search of a stream, within the deadline of that search."""
        return self.search(
            request, _PartOfCall(call, request.timeout_us / 1e6) if request.timeout_us else call
        )

    def stats(self, request: wire.StatsRequest, call: Call) -> wire.StatsResponse:
        """Return the state of a collection."""
        collection = self._collection(request, call)
        stats = self.check_ready().stats(collection)
        return wire.StatsResponse(stats=descriptions.stats_message(stats))

    def optimize(self, request: wire.OptimizeRequest, call: Call) -> wire.OptimizeResponse:
        """Wait until the collection is optimized. If the caller disconnects or the server drains,
        the wait ends, but not the work."""
        collection = self._collection(request, call)
        with self._drained(call) as gone:
            runtime = self.check_ready()
            runtime.optimize(collection, gone)
            stats = runtime.stats(collection)
        return wire.OptimizeResponse(stats=descriptions.stats_message(stats))

    def backup(self, request: wire.BackupRequest, call: Call) -> wire.BackupResponse:
        """Write a backup on the server's machine. If the caller disconnects or the server drains,
        the backup ends and its files are removed."""
        runtime = self.check_ready()
        call.caller.check_all_collections()
        if self._backups is None:
            raise no_backup_folder()
        path = self._backups.path_of(request.path)
        include_segments = request.include_segments or not request.HasField("include_segments")
        with self._drained(call) as gone:
            report = back_up(runtime, path, gone, include_segments=include_segments)
        return wire.BackupResponse(report=transfers.report_message(report))

    def export(self, request: wire.ExportRequest, call: Call) -> Iterator[wire.ExportResponse]:
        """Return a file in chunks. A disconnected caller or a drain ends the export."""
        collection = self._collection(request, call)
        runtime = self.check_ready()
        chunk_bytes = min(CHUNK_BYTES, self._message_bytes - _PAGE_MARGIN_BYTES)
        asked = transfers.export_request(request, chunk_bytes)
        with (
            self._drained(call) as gone,
            contextlib.closing(export(runtime, collection, asked, gone)) as pieces,
        ):
            for piece in pieces:
                yield transfers.export_response(piece)

    def import_index(
        self, requests: Iterator[wire.ImportRequest], call: Call
    ) -> wire.ImportResponse:
        """Import a file received in chunks. If the caller disconnects or the server drains, the
        import ends between two batches. The received file is removed in any case."""
        runtime = self.check_ready()
        with self._drained(call) as gone:
            asked, announced = transfers.import_begin(requests)
            call.check_collection(asked.collection)
            parts = transfers.import_parts(requests)
            report = receive_import(runtime, asked, announced, parts, gone)
        return wire.ImportResponse(report=transfers.import_report_message(report))

    @contextlib.contextmanager
    def _drained(self, call: Call) -> Iterator[Deadline]:
        """Yield the deadline of long work; it is also cancelled if the caller disconnects or the
        server drains. After a drain raise DRAINING instead of CANCELLED."""
        left_s = _check_still_wanted(call)
        try:
            yield Deadline(left_s, lambda: self.refusal is not None or not call.is_active())
        except CancelledError:
            self.check_ready()
            raise

    def _collection(self, request: Message, call: Call) -> OpenCollection:
        """Return the collection of the request's id, or without an id that of its name.

        Raises:
            PermissionDeniedError: SCOPE: the caller's token does not permit it.
        """
        runtime = self.check_ready()
        refuse_reserved(request)
        collection_id = getattr(request, "collection_id", "")
        if not collection_id:
            call.check_collection(request.collection)
            return runtime.collection(request.collection)
        found = runtime.collection_of_id(collection_id)
        if call.caller.collections:
            call.check_collection(runtime.catalog.describe(found.id).name)
        return found

    def _write(self, collection: OpenCollection, batch: UpsertBatch) -> Receipt:
        return self.check_ready().write(collection, batch)


def _check_still_wanted(call: Call) -> float | None:
    """Return the seconds left, None without a deadline. Called before work, since a write cannot be
    undone.

    Raises:
        DeadlineExceededError, CancelledError: nothing was done.
    """
    left = call.time_remaining()
    if left is not None and left <= 0:
        raise DeadlineExceededError("the deadline passed while the call waited for a worker")
    if not call.is_active():
        raise CancelledError("the caller has gone")
    return left


def _deadline(call: Call) -> Deadline:
    return Deadline(_check_still_wanted(call), lambda: not call.is_active())
