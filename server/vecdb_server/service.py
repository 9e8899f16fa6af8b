"""The calls of the service: check, call the engine, translate. Each method stands for one rpc.

Messages in, messages out, synchronous, errors as exceptions of ``vecdb.errors``: nothing here knows
the transport, of which it needs two questions (``Call``). ``transport`` puts gRPC around it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import vecdb
from vecdb import checks, limits
from vecdb.engine.interchange.export.export import CHUNK_BYTES, export
from vecdb.engine.interchange.importing.incoming import receive_import
from vecdb.engine.maintenance.backup.process import back_up
from vecdb.engine.search.lookup import get_records
from vecdb.engine.search.search import SearchRequest
from vecdb.engine.store.batch import (
    DeleteBatch,
    UpsertBatch,
    make_batch,
    make_delete,
    make_write_options,
)
from vecdb.engine.store.layout import FORMAT_NUMBER
from vecdb.engine.store.scroll import PageRequest, end_scroll, read_page
from vecdb.engine.system.call_memory import CallMemory, MemoryBudget
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import CancelledError, DeadlineExceededError, UnavailableError
from vecdb.reasons import Reason
from vecdb.types import Receipt
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import decode_matrix
from vecdb_server import translation
from vecdb_server.backup_folder import BackupFolder, no_backup_folder

if TYPE_CHECKING:
    from vecdb.engine.runtime.open_collection import OpenCollection
    from vecdb.engine.runtime.runtime import Runtime

__all__ = ["Call", "Service"]

_FEATURES = ("request_id", "conditions", "rename", "export", "import")
_UNCOUNTED = MemoryBudget(sys.maxsize)
"""For calls that are refused, as no folder is open."""

_PAGE_MARGIN_BYTES = 1_024
"""Of a message, for what a page of a scroll holds beside its rows."""


class Call(Protocol):
    """What a handler may ask of the call that it serves; gRPC's ServicerContext is one."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, None without one."""

    def is_active(self) -> bool:
        """False once the caller has cancelled or gone."""


class _Within:
    """A part of a call that has a deadline of its own, in seconds from now."""

    def __init__(self, call: Call, timeout_s: float) -> None:
        self.is_active = call.is_active
        self._ends = time.monotonic() + timeout_s

    def time_remaining(self) -> float:
        return self._ends - time.monotonic()


class Service:
    """The rpcs of ``vecdb.v1.Vecdb``. Safe to use from many threads.

    Attributes:
        runtime: set when the folder is open; before that and while draining, ``refusal`` is set.
        refusal: what every call but ServerInfo is answered with, None when calls are welcome.
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
            # A new one each time: a raised exception grows a traceback and would be shared.
            raise UnavailableError(self.refusal.message, self.refusal.reason)
        assert self.runtime is not None
        return self.runtime

    def memory(self) -> CallMemory:
        """That of a call which begins."""
        runtime = self.runtime
        budget = _UNCOUNTED if runtime is None else runtime.call_memory
        return budget.call(self._message_bytes)

    def server_info(self, request: wire.ServerInfoRequest, call: Call) -> wire.ServerInfoResponse:
        """Version and limits; answered in every state of the server."""
        return wire.ServerInfoResponse(
            version=vecdb.__version__,
            data_format=FORMAT_NUMBER,
            limits=translation.limits_message(self._message_bytes),
            features=_FEATURES,
        )

    def create_collection(
        self, request: wire.CreateCollectionRequest, call: Call
    ) -> wire.CreateCollectionResponse:
        """A new collection, fsynced."""
        runtime = self.check_ready()
        translation.refuse_reserved(request)
        config = translation.collection_config(request.config)
        made = runtime.create_collection(checks.check_name(request.collection), config)
        return wire.CreateCollectionResponse(
            collection=translation.description_message(request.collection, config, made.id)
        )

    def get_collection(
        self, request: wire.GetCollectionRequest, call: Call
    ) -> wire.GetCollectionResponse:
        """Its configuration."""
        collection = self._collection(request)
        return wire.GetCollectionResponse(
            collection=translation.description_message(
                request.collection, collection.store.config, collection.id
            )
        )

    def list_collections(
        self, request: wire.ListCollectionsRequest, call: Call
    ) -> wire.ListCollectionsResponse:
        """All of them."""
        runtime = self.check_ready()
        translation.refuse_reserved(request)
        return translation.descriptions_message(runtime.list_collections())

    def rename_collection(
        self, request: wire.RenameCollectionRequest, call: Call
    ) -> wire.RenameCollectionResponse:
        """Another name."""
        runtime = self.check_ready()
        translation.refuse_reserved(request)
        runtime.rename_collection(request.collection, request.new_name)
        return wire.RenameCollectionResponse()

    def drop_collection(
        self, request: wire.DropCollectionRequest, call: Call
    ) -> wire.DropCollectionResponse:
        """Gone, with all rows."""
        runtime = self.check_ready()
        translation.refuse_reserved(request)
        runtime.drop_collection(request.collection)
        return wire.DropCollectionResponse()

    def upsert(self, request: wire.UpsertRequest, call: Call) -> wire.UpsertResponse:
        """One batch; the engine checks its rows and answers once they are on disk."""
        collection = self._collection(request)
        _check_still_wanted(call)
        vectors = decode_matrix(request.vectors)
        terms = make_write_options(*translation.upsert_options(request))
        rows = checks.check_raw_rows(
            request.ids, vectors, request.metadata, collection.store.config
        )
        receipt = self._write(collection, make_batch(*rows, terms))
        return translation.upsert_response(receipt)

    def delete(self, request: wire.DeleteRequest, call: Call) -> wire.DeleteResponse:
        """One batch of ids."""
        collection = self._collection(request, "filter")
        _check_still_wanted(call)
        terms = make_write_options(*translation.delete_options(request))
        batch = make_delete(checks.check_ids(request.ids, unique=False), terms)
        receipt = self._write(collection, batch)
        return translation.delete_response(receipt)

    def get(self, request: wire.GetRequest, call: Call) -> wire.GetResponse:
        """Rows by id."""
        collection = self._collection(request)
        ids = checks.check_ids(request.ids, unique=False)
        return translation.records_response(get_records(collection.store, ids))

    def scroll_page(self, request: wire.ScrollPageRequest, call: Call) -> wire.ScrollPageResponse:
        """Some rows, as many as are asked for and fit into a message."""
        collection = self._collection(request, "filter")
        asked = PageRequest(
            checks.check_limit(limits.BATCH_ROWS, request.batch),
            request.include_metadata,
            request.include_vectors,
            min(limits.SCROLL_PAGE_BYTES_MAX, self._message_bytes - _PAGE_MARGIN_BYTES),
        )
        token, deadline = request.token or None, _deadline(call)
        page = read_page(collection.store, collection.id, token, asked, deadline)
        return translation.page_response(page)

    def end_scroll(self, request: wire.EndScrollRequest, call: Call) -> wire.EndScrollResponse:
        """What it held may be purged."""
        collection = self._collection(request)
        end_scroll(collection.store, collection.id, request.token)
        return wire.EndScrollResponse()

    def count(self, request: wire.CountRequest, call: Call) -> wire.CountResponse:
        """Live rows."""
        return wire.CountResponse(count=self._collection(request, "filter").count())

    def search(self, request: wire.SearchRequest, call: Call) -> wire.SearchResponse:
        """The nearest rows of each query, under the caller's deadline."""
        collection = self._collection(request, "filter", "target_recall")
        asked = SearchRequest(
            decode_matrix(request.queries),
            request.k,
            request.ef if request.HasField("ef") else None,
            request.exact,
            request.include_metadata,
            request.include_vectors,
        )
        return translation.search_response(collection.searcher.run(asked, _deadline(call)))

    def search_in_stream(self, request: wire.SearchRequest, call: Call) -> wire.SearchResponse:
        """One search of a stream, under a deadline of its own."""
        return self.search(
            request, _Within(call, request.timeout_us / 1e6) if request.timeout_us else call
        )

    def stats(self, request: wire.StatsRequest, call: Call) -> wire.StatsResponse:
        """The state of a collection."""
        collection = self._collection(request)
        stats = self.check_ready().stats(collection)
        return wire.StatsResponse(stats=translation.stats_message(stats))

    def optimize(self, request: wire.OptimizeRequest, call: Call) -> wire.OptimizeResponse:
        """Waits for the end state; the caller's leaving and a drain end the wait, not the work."""
        collection = self._collection(request)
        with self._drained(call) as gone:
            runtime = self.check_ready()
            runtime.optimize(collection, gone)
            stats = runtime.stats(collection)
        return wire.OptimizeResponse(stats=translation.stats_message(stats))

    def backup(self, request: wire.BackupRequest, call: Call) -> wire.BackupResponse:
        """A backup on this machine; the caller's leaving and a drain end it, with nothing left."""
        runtime = self.check_ready()
        if self._backups is None:
            raise no_backup_folder()
        path = self._backups.path_of(request.path)
        include_segments = request.include_segments or not request.HasField("include_segments")
        with self._drained(call) as gone:
            report = back_up(runtime, path, gone, include_segments=include_segments)
        return wire.BackupResponse(report=translation.report_message(report))

    def export(self, request: wire.ExportRequest, call: Call) -> Iterator[wire.ExportResponse]:
        """A file in chunks; the caller's leaving and a drain end it."""
        collection = self._collection(request)
        runtime = self.check_ready()
        chunk_bytes = min(CHUNK_BYTES, self._message_bytes - _PAGE_MARGIN_BYTES)
        asked = translation.export_request(request, chunk_bytes)
        with (
            self._drained(call) as gone,
            contextlib.closing(export(runtime, collection, asked, gone)) as pieces,
        ):
            for piece in pieces:
                yield translation.export_response(piece)

    def import_index(
        self, requests: Iterator[wire.ImportRequest], call: Call
    ) -> wire.ImportResponse:
        """A file in chunks becomes rows; the caller's leaving and a drain end it between two
        batches, and nothing is left of the file."""
        runtime = self.check_ready()
        with self._drained(call) as gone:
            asked, announced = translation.import_begin(requests)
            parts = translation.import_parts(requests)
            report = receive_import(runtime, asked, announced, parts, gone)
        return wire.ImportResponse(report=translation.import_report_message(report))

    @contextlib.contextmanager
    def _drained(self, call: Call) -> Iterator[Deadline]:
        """Give a deadline for long work which a leaving caller or a draining server end too. After
        a drain the caller gets DRAINING instead of CANCELLED."""
        left_s = _check_still_wanted(call)
        try:
            yield Deadline(left_s, lambda: self.refusal is not None or not call.is_active())
        except CancelledError:
            self.check_ready()
            raise

    def _collection(self, request: Any, *reserved: str) -> OpenCollection:
        """Return the collection of the id, or without one the collection that has the name now."""
        runtime = self.check_ready()
        translation.refuse_reserved(request, *reserved)
        collection_id = getattr(request, "collection_id", "")
        if collection_id:
            return runtime.collection_of_id(collection_id)
        return runtime.collection(request.collection)

    def _write(self, collection: OpenCollection, batch: UpsertBatch | DeleteBatch) -> Receipt:
        return self.check_ready().write(collection, batch)


def _check_still_wanted(call: Call) -> float | None:
    """Seconds that are left, None for any; before a write, as nothing can be taken back after it.

    Raises:
        DeadlineExceededError, CancelledError: nothing was done.
    """
    left = call.time_remaining()
    if left is not None and left <= 0:
        raise DeadlineExceededError("the deadline passed while the call waited for its turn")
    if not call.is_active():
        raise CancelledError("the caller has gone")
    return left


def _deadline(call: Call) -> Deadline:
    return Deadline(_check_still_wanted(call), lambda: not call.is_active())
