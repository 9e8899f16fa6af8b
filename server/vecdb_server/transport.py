"""gRPC around the service: bytes in, bytes out, and every error on its one way to the caller.

Messages are parsed and built in the thread of the call, not on grpcio's single serving thread, and
an unreadable one gets INVALID_ARGUMENT. No interceptors: they would run under the server's lock.

Writes, Optimize (with Backup, Export and Import) and open streams may each hold a quarter of the
threads; one more is refused at once with RESOURCE_EXHAUSTED (TOO_MANY_WRITES, TOO_MANY_OPTIMIZES,
TOO_MANY_STREAMS) instead of taking a thread from the searches. Nothing of it was written, so that
the caller can try again; our client does. A stream that nothing has come by for a while makes room
for a new one: its client may be asleep, or may have lost it.

A stream of searches is one call in which each message is handled as a call would be: so to gRPC it
costs a message, which is a third of a call.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from vecdb.errors import CancelledError, InvalidArgumentError, ResourceExhaustedError
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server import log
from vecdb_server.service import Call, Service
from vecdb_server.translation import REASON_KEY, Status, failure_answer, status_of

__all__ = ["SERVICE_NAME", "Activity", "service_handler"]

SERVICE_NAME: Final = "vecdb.v1.Vecdb"
_SLOW_CALL_S: Final = 1.0
_NEVER_SLOW: Final = frozenset({"Optimize", "Backup", "Import"})

_IDLE_STREAM_S: Final = 5.0
"""A stream that is idle for so long may be ended; its client's next search is a call, and then it
opens another."""

Handler = Callable[[Any, grpc.ServicerContext], bytes]
StreamHandler = Callable[[Iterable[bytes], grpc.ServicerContext], Iterator[bytes]]


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
    service: Service, activity: Activity, threads: int, message_bytes: int
) -> grpc.GenericRpcHandler:
    """What a ``grpc.Server`` needs to serve ``vecdb.v1.Vecdb``.

    Args:
        activity: is told of each call.
        threads: of the server; a quarter of them may be in writes, a quarter in Optimize,
            Backup, Export and Import, a quarter in open streams.
        message_bytes: an answer that is larger is refused by us, with a reason.
    """
    share = max(1, threads // 4)
    writes = _Places("TOO_MANY_WRITES", "writes", share)
    optimizes = _Places("TOO_MANY_OPTIMIZES", "Optimize, Backup, Export and Import calls", share)
    streams = _Streams(share)
    table: dict[str, tuple[Any, Callable[..., Any], _Places | None]] = {
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
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            _handler(_Rpc(name, request_type, method, activity, message_bytes), places)
        )
        for name, (request_type, method, places) in table.items()
    }
    searches = _Rpc(
        "SearchStream", wire.SearchRequest, service.search_in_stream, activity, message_bytes
    )
    handlers["SearchStream"] = grpc.stream_stream_rpc_method_handler(
        _stream_handler(searches, streams)
    )
    exports = _Rpc("Export", wire.ExportRequest, service.export, activity, message_bytes)
    handlers["Export"] = grpc.unary_stream_rpc_method_handler(_export_handler(exports, optimizes))
    imports = _StreamRpc(
        "Import", wire.ImportRequest, service.import_index, activity, message_bytes
    )
    handlers["Import"] = grpc.stream_unary_rpc_method_handler(_handler(imports, optimizes))
    return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)


class _Places:
    """How many calls of a kind may run at once; a further one is refused, never kept waiting."""

    def __init__(self, reason: str, what: str, count: int) -> None:
        self._reason = reason
        self._what = what
        self._count = count
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def taken(self) -> Iterator[None]:
        if not self._free.acquire(blocking=False):
            raise ResourceExhaustedError(
                f"{self._count} {self._what} are under way, as many as may be; try again shortly",
                self._reason,
            )
        try:
            yield
        finally:
            self._free.release()


class _OpenStream:
    """A stream that has a place. idle_since: by time.monotonic, infinite during a search."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self.context = context
        self.idle_since = time.monotonic()


class _Streams:
    """Places for streams. With none free, the one that is idle for longest gives its own to a new
    one, if that is long enough; else the new one is refused."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._open: set[_OpenStream] = set()

    @contextmanager
    def taken(self, context: grpc.ServicerContext) -> Iterator[_OpenStream]:
        stream, ended = _OpenStream(context), None
        with self._lock:
            if len(self._open) >= self._count:
                ended = min(self._open, key=lambda each: each.idle_since)
                if time.monotonic() - ended.idle_since < _IDLE_STREAM_S:
                    raise ResourceExhaustedError(
                        f"{self._count} streams are in use, as many as may be; use Search",
                        "TOO_MANY_STREAMS",
                    )
                self._open.remove(ended)
            self._open.add(stream)
        if ended is not None:
            # A search that arrives on it in this moment is sent again by its client, as a call.
            ended.context.cancel()
        try:
            yield stream
        finally:
            with self._lock:
                self._open.discard(stream)


class _Rpc:
    """One rpc, from the bytes of a request to the bytes of its answer, or to why there is none."""

    def __init__(
        self,
        name: str,
        request_type: Any,
        method: Callable[..., Any],
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
                "MESSAGE_TOO_LARGE",
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

    def _parsed(self, data: Any) -> Any:
        try:
            return self._parse(data)
        except DecodeError:
            raise InvalidArgumentError(
                f"the {len(data)} bytes of the request are no {self.name} message", "BAD_MESSAGE"
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
        return status


class _StreamRpc(_Rpc):
    """An rpc whose request is many messages, of which the method is given an iterator."""

    def _parsed(self, data: Iterable[bytes]) -> Iterator[Any]:
        try:
            for each in data:
                yield super()._parsed(each)
        except grpc.RpcError:
            # How grpcio says that there will be no further message.
            raise CancelledError("the caller has gone") from None


def _handler(rpc: _Rpc, places: _Places | None) -> Handler:
    """A call of its own: an error is its status."""

    def handle(data: Any, context: grpc.ServicerContext) -> bytes:
        outcome: bytes | Exception
        if places is None:
            outcome = rpc.attempt(data, context)
        else:
            try:
                with places.taken():
                    outcome = rpc.attempt(data, context)
            except ResourceExhaustedError as full:
                outcome = full
        if isinstance(outcome, Exception):
            _abort(rpc.told(outcome), context)
        return outcome

    return handle


def _stream_handler(rpc: _Rpc, streams: _Streams) -> StreamHandler:
    """Many messages on one call: an error is the answer to its message, and the stream goes on."""

    def handle(requests: Iterable[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            with streams.taken(context) as stream:
                for data in requests:
                    stream.idle_since = math.inf
                    outcome = rpc.attempt(data, context)
                    if isinstance(outcome, Exception):
                        outcome = failure_answer(rpc.told(outcome)).SerializeToString()
                    yield outcome
                    stream.idle_since = time.monotonic()
        except ResourceExhaustedError as full:
            _abort(rpc.told(full), context)

    return handle


def _export_handler(rpc: _Rpc, places: _Places) -> Callable[..., Iterator[bytes]]:
    """One message in, many out: an error ends the call with its status. Who receives them slower
    than they are made holds it up: the next one is asked for when gRPC has room for it."""

    def handle(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            with places.taken(), contextlib.closing(rpc.answers(data, context)) as answers:
                yield from answers
        except Exception as error:
            failure = error
        else:
            return
        _abort(rpc.told(failure), context)

    return handle


def _abort(status: Status, context: grpc.ServicerContext) -> NoReturn:
    """End a call with a status."""
    context.set_trailing_metadata(((REASON_KEY, status.reason),))
    context.abort(status.code, status.message or status.reason)
    raise AssertionError("abort raises")
