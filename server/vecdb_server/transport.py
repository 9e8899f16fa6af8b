"""The gRPC handlers around the service: bytes in, bytes out, errors to statuses.

Messages are parsed and built in the thread of the call, not on grpcio's single serving thread. An
unreadable message gets INVALID_ARGUMENT. There are no interceptors, since grpcio would run them
under the server's lock.

Every rpc is registered in grpcio as one with a stream of requests, also if the contract has one
request. So its handler runs before its message has arrived, can wait for the message without a
worker, and can be made to stop waiting (``admission.py``).

The concurrent writes, the concurrent Optimize, Backup, Export and Import calls, and the open
streams are limited to a quarter of the workers each. A call beyond the limit is rejected at once
with RESOURCE_EXHAUSTED (TOO_MANY_WRITES, TOO_MANY_OPTIMIZES, TOO_MANY_STREAMS). It has written
nothing, so callers can retry; vecdb's client does. If a stream, an Import or an Export has waited
for its caller for a while, a new one takes its slot, since its client may hang or have lost it.

A stream of searches is one call in which each message is handled like a call. To gRPC a search then
costs one message, which takes a third of the time of a call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import grpc
from google.protobuf.message import Message

from vecdb.engine.system.call_memory import CallMemory
from vecdb.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.access.callers import Access
from vecdb_server.admission import Activity, OpenCalls, Slot, Slots, UnreadAnswers, Workers
from vecdb_server.metrics.registry import Metrics
from vecdb_server.rpcs import AdmittedCall, Rpc, StreamRpc
from vecdb_server.service import Service
from vecdb_server.translation.searches import failure_answer
from vecdb_server.translation.statuses import REASON_KEY, Status

__all__ = ["SERVICE_NAME", "service_handler"]

SERVICE_NAME: Final = "vecdb.v1.Vecdb"

_IDLE_STREAM_S: Final = 5.0
"""A stream that has been idle for so long may be ended. Its client makes the next search by a call
of its own, and then opens another stream."""

_LARGE_BYTES: Final = 8 * 1024
"""Answers larger than this are counted until they are sent."""

_IDLE_TRANSFER_S: Final = 10.0
"""An Import that has received no bytes for so long, or an Export whose caller has read none, may be
ended."""

_UNREAD_S: Final = 30.0
"""If memory is short, a call whose answer has been unread for so long is ended."""

Handler = Callable[[Iterator[bytes], grpc.ServicerContext], bytes]
StreamHandler = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]


def service_handler(
    service: Service,
    access: Access,
    metrics: Metrics,
    activity: Activity,
    open_calls: OpenCalls,
    threads: int,
    message_bytes: int,
) -> grpc.GenericRpcHandler:
    """Return the handler of ``vecdb.v1.Vecdb`` for a ``grpc.Server``.

    Args:
        service: the rpcs.
        access: decides who may call which rpc.
        metrics: counts the calls that have ended.
        activity: counts the running calls.
        open_calls: counts the open calls.
        threads: maximum of calls that run at once. A quarter of it is the limit of writes; of
            Optimize, Backup, Export and Import; and of open streams.
        message_bytes: maximum size of an answer. A larger one is rejected with a reason, which
            gRPC would not give.
    """
    share = max(1, threads // 4)
    writes, optimizes = _writes(share), _optimizes(share)
    table = _unary_calls(service, writes, optimizes)
    workers = Workers(threads)
    intake = _Intake(service, open_calls)

    def rpc(
        name: str,
        request_type: type[Message],
        method: Callable[..., Message],
        kind: type[Rpc] = Rpc,
    ) -> Rpc:
        counts = metrics.of_call(name)
        return kind(name, request_type, method, access, counts, activity, message_bytes)

    handlers = {
        name: grpc.stream_unary_rpc_method_handler(
            _handler(
                rpc(name, request_type, method),
                intake,
                None if slots is optimizes else workers,
                slots,
            )
        )
        for name, (request_type, method, slots) in table.items()
    }
    searches = rpc("SearchStream", wire.SearchRequest, service.search_in_stream)
    handlers["SearchStream"] = grpc.stream_stream_rpc_method_handler(
        _stream_handler(searches, intake, _streams(share))
    )
    exports = rpc("Export", wire.ExportRequest, service.export)
    handlers["Export"] = grpc.stream_stream_rpc_method_handler(
        _export_handler(exports, intake, optimizes)
    )
    imports = rpc("Import", wire.ImportRequest, service.import_index, StreamRpc)
    handlers["Import"] = grpc.stream_unary_rpc_method_handler(
        _import_handler(imports, intake, optimizes)
    )
    return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)


def _unary_calls(
    service: Service, writes: Slots, optimizes: Slots
) -> dict[str, tuple[type[Message], Callable[..., Message], Slots | None]]:
    """Return the type of the request, the method and the limit of each unary rpc."""
    return {
        "ServerInfo": (wire.ServerInfoRequest, service.server_info, None),
        "CreateCollection": (wire.CreateCollectionRequest, service.create_collection, writes),
        "GetCollection": (wire.GetCollectionRequest, service.get_collection, None),
        "ListCollections": (wire.ListCollectionsRequest, service.list_collections, None),
        "RenameCollection": (wire.RenameCollectionRequest, service.rename_collection, writes),
        "DropCollection": (wire.DropCollectionRequest, service.drop_collection, writes),
        "Upsert": (wire.UpsertRequest, service.upsert, writes),
        "Delete": (wire.DeleteRequest, service.delete, writes),
        "SetMetadata": (wire.SetMetadataRequest, service.set_metadata, writes),
        "Get": (wire.GetRequest, service.get, None),
        "ScrollPage": (wire.ScrollPageRequest, service.scroll_page, None),
        "EndScroll": (wire.EndScrollRequest, service.end_scroll, None),
        "Count": (wire.CountRequest, service.count, None),
        "ListIds": (wire.ListIdsRequest, service.list_ids, None),
        "Facet": (wire.FacetRequest, service.facet, None),
        "Fields": (wire.FieldsRequest, service.fields, None),
        "SetCollectionMetadata": (
            wire.SetCollectionMetadataRequest,
            service.set_collection_metadata,
            writes,
        ),
        "Search": (wire.SearchRequest, service.search, None),
        "Stats": (wire.StatsRequest, service.stats, None),
        "Optimize": (wire.OptimizeRequest, service.optimize, optimizes),
        "Backup": (wire.BackupRequest, service.backup, optimizes),
    }


def _writes(count: int) -> Slots:
    return Slots(Reason.TOO_MANY_WRITES, "writes", count)


def _optimizes(count: int) -> Slots:
    calls = "Optimize, Backup, Export and Import calls"
    return Slots(Reason.TOO_MANY_OPTIMIZES, calls, count, _IDLE_TRANSFER_S)


def _streams(count: int) -> Slots:
    return Slots(Reason.TOO_MANY_STREAMS, "streams", count, _IDLE_STREAM_S, hint="use Search")


class _Intake:
    """The first steps of each call: count it as open, receive its message, account its memory."""

    def __init__(self, service: Service, open_calls: OpenCalls) -> None:
        self.memory = service.memory
        self.unread = UnreadAnswers(_UNREAD_S)
        self._open_calls = open_calls

    def make_room(self, refusal: Exception) -> None:
        """If a call was rejected for lack of memory, end calls with old unread answers, so that the
        next call may succeed."""
        if isinstance(refusal, ResourceExhaustedError) and refusal.reason == Reason.CALL_MEMORY:
            self.unread.end_old()

    @contextlib.contextmanager
    def first(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes | None]:
        """Yield the first message of a call, None if there is none. The call is open until the end
        of the block."""
        self._open_calls.enter(context)
        try:
            yield self._open_calls.receive(requests, context)
        finally:
            self._open_calls.leave(context)

    @contextlib.contextmanager
    def message(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Yield the single message of a call.

        Raises:
            InvalidArgumentError: BAD_MESSAGE: the call ended without a message.
        """
        with self.first(requests, context) as data:
            if data is None:
                raise InvalidArgumentError("the call ended without a message", Reason.BAD_MESSAGE)
            yield data


def _handler(rpc: Rpc, intake: _Intake, workers: Workers | None, slots: Slots | None) -> Handler:
    """Return the handler of an rpc with one request and one answer; an error is its status."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        outcome: bytes | Exception
        call = None
        try:
            call = rpc.admit(context)
            with intake.message(requests, context) as data, intake.memory() as memory:
                memory.request(len(data))
                if slots is None:
                    outcome = run(data, call)
                else:
                    with slots.taken(context):
                        outcome = run(data, call)
                if isinstance(outcome, bytes) and len(outcome) > _LARGE_BYTES:
                    # gRPC sends the answer after this function has returned, as fast as the caller
                    # reads it. Its memory stays reserved until then.
                    memory.outlive(len(outcome))
                    sent = contextlib.ExitStack()
                    sent.callback(memory.close)
                    sent.enter_context(intake.unread.answer(context))
                    if not context.add_callback(sent.close):
                        sent.close()
        except VecdbError as refusal:
            outcome = refusal
        if call is not None:
            rpc.audit(call, outcome)
        if isinstance(outcome, Exception):
            intake.make_room(outcome)
            _abort(rpc.status(outcome), context)
        return outcome

    def run(data: bytes, call: AdmittedCall) -> bytes | Exception:
        if workers is None:
            return rpc.attempt(data, call)
        workers.take(call.context)
        try:
            return rpc.attempt(data, call)
        finally:
            workers.release()

    return handle


def _stream_handler(rpc: Rpc, intake: _Intake, streams: Slots) -> StreamHandler:
    """Return the handler of a stream of requests and answers. An error is the answer to its
    message, and the stream continues."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            call = rpc.admit(context)
            with intake.message(requests, context) as first, streams.taken(context) as stream:
                data: bytes | None = first
                while data is not None:
                    stream.set_busy()
                    with intake.memory() as memory:
                        answer = answer_to(data, call, memory)
                        stream.set_idle()  # The caller may read the answer slowly, or never.
                        with intake.unread.answer(context):
                            yield answer
                    data = next(requests, None)
                    if data is not None:
                        call = rpc.admit(context)  # The token may have been removed since.
        except VecdbError as refusal:
            _abort(rpc.status(refusal), context)

    def answer_to(data: bytes, call: AdmittedCall, memory: CallMemory) -> bytes:
        outcome: bytes | Exception
        try:
            memory.request(len(data))
            outcome = rpc.attempt(data, call)
        except ResourceExhaustedError as full:
            outcome = full
        if isinstance(outcome, bytes):
            return outcome
        rpc.audit(call, outcome)
        intake.make_room(outcome)
        failure: bytes = failure_answer(rpc.status(outcome)).SerializeToString()
        return failure

    return handle


def _export_handler(rpc: Rpc, intake: _Intake, slots: Slots) -> StreamHandler:
    """Return the handler of an rpc with one request and many answers; an error is the status of the
    call. gRPC takes the next answer when it has room, so a slow caller slows down the export."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        call = None
        try:
            call = rpc.admit(context)
            with (
                intake.message(requests, context) as data,
                slots.taken(context) as slot,
                contextlib.closing(rpc.answers(data, call)) as answers,
            ):
                for answer in answers:
                    slot.set_idle()
                    yield answer
                    slot.set_busy()
                    rpc.admit(context)  # The token may have been removed since.
        except grpc.RpcError:
            raise
        except Exception as error:
            failure = error
        else:
            return
        if call is not None:
            rpc.audit(call, failure)
        _abort(rpc.status(failure), context)

    return handle


def _import_handler(rpc: Rpc, intake: _Intake, slots: Slots) -> Handler:
    """Return the handler of an rpc with many requests and one answer."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        outcome: bytes | Exception
        call = None

        def admit_again() -> None:
            rpc.admit(context)  # The token may have been removed since the last message.

        try:
            call = rpc.admit(context)
            with intake.first(requests, context) as first, slots.taken(context) as slot:
                messages: Iterator[bytes] = iter(())
                if first is not None:
                    messages = _received(first, requests, slot, admit_again)
                outcome = rpc.attempt(messages, call)
        except VecdbError as refusal:
            outcome = refusal
        if call is not None:
            rpc.audit(call, outcome)
        if isinstance(outcome, Exception):
            _abort(rpc.status(outcome), context)
        return outcome

    return handle


def _received(
    first: bytes, requests: Iterator[bytes], slot: Slot, on_message: Callable[[], None]
) -> Iterator[bytes]:
    """Yield the first message and the following ones, after a call of ``on_message`` for each of
    these. The slot is idle while waiting for one."""
    data: bytes | None = first
    while data is not None:
        yield data
        slot.set_idle()
        data = next(requests, None)
        slot.set_busy()
        if data is not None:
            on_message()


def _abort(status: Status, context: grpc.ServicerContext) -> NoReturn:
    """End a call with a status."""
    context.set_trailing_metadata(((REASON_KEY, status.reason),))
    context.abort(status.code, status.message or status.reason)
    raise AssertionError("abort raises")
