"""gRPC around the service: bytes in, bytes out, and every error on its one way to the caller.

Messages are parsed and built in the thread of the call, not on grpcio's single serving thread, and
an unreadable one gets INVALID_ARGUMENT. No interceptors: they would run under the server's lock.

To grpcio every call is one that sends a stream of messages, also where the contract says that it
sends one: so its handler has it before its message is there, can wait for that without a worker,
and can be told to stop waiting (``admission.py``).

Writes, Optimize (with Backup, Export and Import) and open streams may each be as many as a quarter
of the workers; one more is refused at once with RESOURCE_EXHAUSTED (TOO_MANY_WRITES,
TOO_MANY_OPTIMIZES, TOO_MANY_STREAMS). Nothing of it was written, so that the caller can try again;
our client does. A stream, an Import or an Export whose caller has kept it waiting for a while makes
room for a new one: its client may be asleep, or may have lost it.

A stream of searches is one call in which each message is handled as a call would be: so to gRPC it
costs a message, which is a third of a call.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message

from vecdb.engine.system.call_memory import CallMemory
from vecdb.errors import (
    CancelledError,
    InvalidArgumentError,
    ResourceExhaustedError,
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server import log
from vecdb_server.admission import Place, Places, Reception, Unread, Workers
from vecdb_server.service import Call, Service
from vecdb_server.translation import REASON_KEY, Status, failure_answer, status_of

__all__ = ["SERVICE_NAME", "Activity", "service_handler"]

SERVICE_NAME: Final = "vecdb.v1.Vecdb"
_SLOW_CALL_S: Final = 1.0
_NEVER_SLOW: Final = frozenset({"Optimize", "Backup", "Import"})

_IDLE_STREAM_S: Final = 5.0
"""A stream that is idle for so long may be ended; its client's next search is a call, and then it
opens another."""

_LARGE_BYTES: Final = 8 * 1024
"""Answers that are counted until they were sent."""

_IDLE_TRANSFER_S: Final = 10.0
"""An Import that no bytes have come by for so long, or an Export that nobody has taken any from,
may be ended."""

_UNREAD_S: Final = 30.0
"""An answer that its caller has not taken by then may be let go where memory is short."""

_TRY_AGAIN: Final = "are under way, as many as may be; try again shortly"

Handler = Callable[[Iterator[bytes], grpc.ServicerContext], bytes]
StreamHandler = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]


class Activity:
    """Counts the calls that are being handled, for a drain to wait until there are none."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self.count = 0

    def enter(self) -> None:
        """A call began."""
        with self._changed:
            self.count += 1

    def leave(self) -> None:
        """A call ended."""
        with self._changed:
            self.count -= 1
            if self.count == 0:
                self._changed.notify_all()

    def wait_for_none(self, timeout_s: float) -> bool:
        """True as soon as no call is being handled, False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count == 0, timeout_s)


def service_handler(
    service: Service, activity: Activity, reception: Reception, threads: int, message_bytes: int
) -> grpc.GenericRpcHandler:
    """What a ``grpc.Server`` needs to serve ``vecdb.v1.Vecdb``.

    Args:
        activity: is told of each call.
        reception: where they wait for their messages.
        threads: calls that are worked on at once; as many as a quarter of it may be writes, and
            besides there may be a quarter of it in Optimize, Backup, Export and Import, and a
            quarter of it in open streams.
        message_bytes: an answer that is larger is refused by us, with a reason.
    """
    share = max(1, threads // 4)
    writes, optimizes = _writes(share), _optimizes(share)
    table: dict[str, tuple[type[Message], Callable[..., Message], Places | None]] = {
        "ServerInfo": (wire.ServerInfoRequest, service.server_info, None),
        "CreateCollection": (wire.CreateCollectionRequest, service.create_collection, writes),
        "GetCollection": (wire.GetCollectionRequest, service.get_collection, None),
        "ListCollections": (wire.ListCollectionsRequest, service.list_collections, None),
        "RenameCollection": (wire.RenameCollectionRequest, service.rename_collection, writes),
        "DropCollection": (wire.DropCollectionRequest, service.drop_collection, writes),
        "Upsert": (wire.UpsertRequest, service.upsert, writes),
        "Delete": (wire.DeleteRequest, service.delete, writes),
        "Get": (wire.GetRequest, service.get, None),
        "ScrollPage": (wire.ScrollPageRequest, service.scroll_page, None),
        "EndScroll": (wire.EndScrollRequest, service.end_scroll, None),
        "Count": (wire.CountRequest, service.count, None),
        "Search": (wire.SearchRequest, service.search, None),
        "Stats": (wire.StatsRequest, service.stats, None),
        "Optimize": (wire.OptimizeRequest, service.optimize, optimizes),
        "Backup": (wire.BackupRequest, service.backup, optimizes),
    }
    workers = Workers(threads)
    comes_in = _ComesIn(service, reception)

    def rpc(
        name: str,
        request_type: type[Message],
        method: Callable[..., Message],
        kind: type[_Rpc] = _Rpc,
    ) -> _Rpc:
        return kind(name, request_type, method, activity, message_bytes)

    handlers = {
        name: grpc.stream_unary_rpc_method_handler(
            _handler(
                rpc(name, request_type, method),
                comes_in,
                None if places is optimizes else workers,
                places,
            )
        )
        for name, (request_type, method, places) in table.items()
    }
    searches = rpc("SearchStream", wire.SearchRequest, service.search_in_stream)
    handlers["SearchStream"] = grpc.stream_stream_rpc_method_handler(
        _stream_handler(searches, comes_in, _streams(share))
    )
    exports = rpc("Export", wire.ExportRequest, service.export)
    handlers["Export"] = grpc.stream_stream_rpc_method_handler(
        _export_handler(exports, comes_in, optimizes)
    )
    imports = rpc("Import", wire.ImportRequest, service.import_index, _StreamRpc)
    handlers["Import"] = grpc.stream_unary_rpc_method_handler(
        _import_handler(imports, comes_in, optimizes)
    )
    return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)


def _writes(count: int) -> Places:
    return Places(Reason.TOO_MANY_WRITES, f"writes {_TRY_AGAIN}", count)


def _optimizes(count: int) -> Places:
    calls = "Optimize, Backup, Export and Import calls"
    return Places(Reason.TOO_MANY_OPTIMIZES, f"{calls} {_TRY_AGAIN}", count, _IDLE_TRANSFER_S)


def _streams(count: int) -> Places:
    refusal = "streams are in use, as many as may be; use Search"
    return Places(Reason.TOO_MANY_STREAMS, refusal, count, _IDLE_STREAM_S)


class _ComesIn:
    """What all calls go through: they are open, and what they take is counted."""

    def __init__(self, service: Service, reception: Reception) -> None:
        self.memory = service.memory
        self.unread = Unread(_UNREAD_S)
        self._reception = reception

    def make_room(self, refusal: Exception) -> None:
        """After a refusal for want of memory: end calls whose answers nobody takes, for the next
        one."""
        if isinstance(refusal, ResourceExhaustedError) and refusal.reason == Reason.CALL_MEMORY:
            self.unread.end_old()

    @contextlib.contextmanager
    def first(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes | None]:
        """Its first message, None if there is none."""
        self._reception.enter(context)
        try:
            yield self._reception.receive(requests, context)
        finally:
            self._reception.leave(context)

    @contextlib.contextmanager
    def message(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """The one that it has.

        Raises:
            InvalidArgumentError: there is none.
        """
        with self.first(requests, context) as data:
            if data is None:
                raise InvalidArgumentError("the call ended without its message", Reason.BAD_MESSAGE)
            yield data


class _Rpc:
    """One rpc, from the bytes of a request to the bytes of its answer, or to why there is none."""

    def __init__(
        self,
        name: str,
        request_type: type[Message],
        method: Callable[..., Message],
        activity: Activity,
        message_bytes: int,
    ) -> None:
        self.name = name
        self._parse = request_type.FromString
        self._method = method
        self._activity = activity
        self._message_bytes = message_bytes

    def attempt(self, data: Any, call: Call) -> bytes | Exception:
        """The answer, or the error that it ended with. Counted, and logged if it was slow."""
        self._activity.enter()
        began = time.monotonic()
        try:
            return self._answer(data, call)
        except Exception as error:
            return error
        finally:
            self._activity.leave()
            took_s = time.monotonic() - began
            if took_s > _SLOW_CALL_S and self.name not in _NEVER_SLOW:
                log.event("slow-call", logging.WARNING, call=self.name, took_s=f"{took_s:.2f}")

    def _answer(self, data: Any, call: Call) -> bytes:
        response: bytes = self._method(self._parsed(data), call).SerializeToString()
        if len(response) > self._message_bytes:
            raise ResourceExhaustedError(
                f"the answer has {len(response)} bytes, a message may have {self._message_bytes}; "
                "ask for fewer rows, or without vectors or metadata",
                Reason.MESSAGE_TOO_LARGE,
            )
        return response

    def answers(self, data: bytes, call: Call) -> Generator[bytes, None, None]:
        """The answers of an rpc that has many, the error raised that they end with. Counted."""
        self._activity.enter()
        try:
            for response in self._method(self._parsed(data), call):
                yield response.SerializeToString()
        finally:
            self._activity.leave()

    def _parsed(self, data: Any) -> Message:
        try:
            return self._parse(data)
        except DecodeError:
            raise InvalidArgumentError(
                f"the {len(data)} bytes of the request are no {self.name} message",
                Reason.BAD_MESSAGE,
            ) from None

    def told(self, error: Exception) -> Status:
        """What the caller hears of an error; what nobody foresaw is written to the log only."""
        status = status_of(error)
        if status.code is grpc.StatusCode.INTERNAL:
            log.failure("defect", error, call=self.name)
        elif status.code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNKNOWN):
            log.event(
                "error",
                logging.ERROR,
                call=self.name,
                reason=status.reason,
                message=status.message,
            )
        _forget_frames(error)
        return status


class _StreamRpc(_Rpc):
    """An rpc whose request is many messages, of which the method is given an iterator."""

    def _parsed(self, data: Iterable[bytes]) -> Iterator[Message]:
        try:
            for each in data:
                yield super()._parsed(each)
        except grpc.RpcError:
            # How grpcio says that there will be no further message.
            raise CancelledError("the caller has gone") from None


def _handler(
    rpc: _Rpc, comes_in: _ComesIn, workers: Workers | None, places: Places | None
) -> Handler:
    """A call of its own: an error is its status."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        outcome: bytes | Exception
        try:
            with comes_in.message(requests, context) as data, comes_in.memory() as memory:
                memory.request(len(data))
                if places is None:
                    outcome = worked_on(data, context)
                else:
                    with places.taken(context):
                        outcome = worked_on(data, context)
                if isinstance(outcome, bytes) and len(outcome) > _LARGE_BYTES:
                    # Sent as its reader takes it, when nobody here waits for that any more.
                    memory.outlive(len(outcome))
                    sent = contextlib.ExitStack()
                    sent.callback(memory.close)
                    sent.enter_context(comes_in.unread.answer(context))
                    if not context.add_callback(sent.close):
                        sent.close()
        except VecdbError as refusal:
            outcome = refusal
        if isinstance(outcome, Exception):
            comes_in.make_room(outcome)
            _abort(rpc.told(outcome), context)
        return outcome

    def worked_on(data: bytes, context: grpc.ServicerContext) -> bytes | Exception:
        if workers is None:
            return rpc.attempt(data, context)
        workers.take(context)
        try:
            return rpc.attempt(data, context)
        finally:
            workers.give_back()

    return handle


def _stream_handler(rpc: _Rpc, comes_in: _ComesIn, streams: Places) -> StreamHandler:
    """Many messages on one call: an error is the answer to its message, and the stream goes on."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            with comes_in.message(requests, context) as first, streams.taken(context) as stream:
                data: bytes | None = first
                while data is not None:
                    stream.work()
                    with comes_in.memory() as memory:
                        answer = answered(data, context, memory)
                        stream.rest()  # Its caller may take the answer slowly, or never.
                        with comes_in.unread.answer(context):
                            yield answer
                    data = next(requests, None)
        except VecdbError as refusal:
            _abort(rpc.told(refusal), context)

    def answered(data: bytes, context: grpc.ServicerContext, memory: CallMemory) -> bytes:
        outcome: bytes | Exception
        try:
            memory.request(len(data))
            outcome = rpc.attempt(data, context)
        except ResourceExhaustedError as full:
            outcome = full
        if isinstance(outcome, bytes):
            return outcome
        comes_in.make_room(outcome)
        failure: bytes = failure_answer(rpc.told(outcome)).SerializeToString()
        return failure

    return handle


def _export_handler(rpc: _Rpc, comes_in: _ComesIn, places: Places) -> StreamHandler:
    """One message in, many out: an error ends the call with its status. Who receives them slower
    than they are made holds it up: the next one is asked for when gRPC has room for it."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            with (
                comes_in.message(requests, context) as data,
                places.taken(context) as place,
                contextlib.closing(rpc.answers(data, context)) as answers,
            ):
                for answer in answers:
                    place.rest()
                    yield answer
                    place.work()
        except grpc.RpcError:
            raise
        except Exception as error:
            failure = error
        else:
            return
        _abort(rpc.told(failure), context)

    return handle


def _import_handler(rpc: _Rpc, comes_in: _ComesIn, places: Places) -> Handler:
    """Many messages in, one out."""

    def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        outcome: bytes | Exception
        try:
            with comes_in.first(requests, context) as first, places.taken(context) as place:
                messages = iter(()) if first is None else _noted(first, requests, place)
                outcome = rpc.attempt(messages, context)
        except VecdbError as refusal:
            outcome = refusal
        if isinstance(outcome, Exception):
            _abort(rpc.told(outcome), context)
        return outcome

    return handle


def _noted(first: bytes, requests: Iterator[bytes], place: Place) -> Iterator[bytes]:
    """The first message and those after it; while one is waited for, the place is idle."""
    data: bytes | None = first
    while data is not None:
        yield data
        place.rest()
        data = next(requests, None)
        place.work()


def _forget_frames(error: BaseException) -> None:
    """Let go of the frames of an error, and of those that led to it.

    They lead to the handler's, which holds the error: in that circle the call would stay open until
    a collection of garbage, which is rare here, and count among those of its connection.
    """
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__


def _abort(status: Status, context: grpc.ServicerContext) -> NoReturn:
    """End a call with a status."""
    context.set_trailing_metadata(((REASON_KEY, status.reason),))
    context.abort(status.code, status.message or status.reason)
    raise AssertionError("abort raises")
