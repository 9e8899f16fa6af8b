"""gRPC around the service: bytes in, bytes out, and every error on its one way to the caller.

Messages are parsed and built in the thread of the call, not on grpcio's single serving thread, and
an unreadable one gets INVALID_ARGUMENT. No interceptors: they would run under the server's lock.

Writes and Optimize may each hold a quarter of the threads; one more is refused at once with
RESOURCE_EXHAUSTED (TOO_MANY_WRITES, TOO_MANY_OPTIMIZES) instead of taking a thread from the
searches. Nothing of it was written, so that the caller can try again; our client does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from vecdb.errors import InvalidArgumentError, ResourceExhaustedError
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server import log
from vecdb_server.service import Service
from vecdb_server.translation import REASON_KEY, status_of

__all__ = ["SERVICE_NAME", "Activity", "service_handler"]

SERVICE_NAME: Final = "vecdb.v1.Vecdb"
_SLOW_CALL_S: Final = 1.0
_NEVER_SLOW: Final = frozenset({"Optimize"})

Handler = Callable[[bytes, grpc.ServicerContext], bytes]


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
        threads: of the server; a quarter of them may be in writes, a quarter in Optimize.
        message_bytes: an answer that is larger is refused by us, with a reason.
    """
    share = max(1, threads // 4)
    writes = _Places("TOO_MANY_WRITES", "writes", share)
    optimizes = _Places("TOO_MANY_OPTIMIZES", "Optimize calls", share)
    table: dict[str, tuple[Any, Callable[..., Any], _Places | None]] = {
        "ServerInfo": (wire.ServerInfoRequest, service.server_info, None),
        "CreateCollection": (wire.CreateCollectionRequest, service.create_collection, writes),
        "GetCollection": (wire.GetCollectionRequest, service.get_collection, None),
        "ListCollections": (wire.ListCollectionsRequest, service.list_collections, None),
        "DropCollection": (wire.DropCollectionRequest, service.drop_collection, writes),
        "Upsert": (wire.UpsertRequest, service.upsert, writes),
        "Delete": (wire.DeleteRequest, service.delete, writes),
        "Get": (wire.GetRequest, service.get, None),
        "Count": (wire.CountRequest, service.count, None),
        "Search": (wire.SearchRequest, service.search, None),
        "Stats": (wire.StatsRequest, service.stats, None),
        "Optimize": (wire.OptimizeRequest, service.optimize, optimizes),
    }
    return grpc.method_handlers_generic_handler(
        SERVICE_NAME,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _handler(name, request_type, method, places, activity, message_bytes)
            )
            for name, (request_type, method, places) in table.items()
        },
    )


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


def _handler(
    name: str,
    request_type: Any,
    method: Callable[..., Any],
    places: _Places | None,
    activity: Activity,
    message_bytes: int,
) -> Handler:
    """One rpc, from the bytes of its request to the bytes of its answer."""
    parse = request_type.FromString

    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            request = parse(data)
        except DecodeError:
            raise InvalidArgumentError(
                f"the {len(data)} bytes of the request are no {name} message", "BAD_MESSAGE"
            ) from None
        if places is None:
            response: bytes = method(request, context).SerializeToString()
        else:
            with places.taken():
                response = method(request, context).SerializeToString()
        if len(response) > message_bytes:
            raise ResourceExhaustedError(
                f"the answer has {len(response)} bytes, a message may have {message_bytes}; "
                "ask for fewer rows, or without vectors or metadata",
                "MESSAGE_TOO_LARGE",
            )
        return response

    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        activity.enter()
        began = time.monotonic()
        try:
            return answer(data, context)
        except Exception as error:
            failure = error
        finally:
            activity.leave()
            took_s = time.monotonic() - began
            if took_s > _SLOW_CALL_S and name not in _NEVER_SLOW:
                log.event("slow-call", logging.WARNING, call=name, took_s=f"{took_s:.2f}")
        _abort(name, failure, context)

    return handle


def _abort(name: str, error: Exception, context: grpc.ServicerContext) -> NoReturn:
    """End a call with the status of an error; what nobody foresaw is written to the log only."""
    status = status_of(error)
    if status.code is grpc.StatusCode.INTERNAL:
        log.failure("defect", error, call=name)
    elif status.code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNKNOWN):
        log.event("error", logging.ERROR, call=name, reason=status.reason, message=status.message)
    context.set_trailing_metadata(((REASON_KEY, status.reason),))
    context.abort(status.code, status.message or status.reason)
    raise AssertionError("abort raises")
