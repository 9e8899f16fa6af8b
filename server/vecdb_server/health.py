"""``grpc.health.v1.Health``, answered whatever becomes of the other calls.

It needs no worker and has calls, threads and places of its own. A watcher that does not read holds
up itself alone: what it is told is sent by its own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from vecdb.errors import ResourceExhaustedError, VecdbError
from vecdb.reasons import Reason
from vecdb_server.admission import Places, Reception

__all__ = ["HEALTH_CALLS_MAX", "Health"]

_NAME: Final = "grpc.health.v1.Health"

_CHECKS_MAX: Final = 64
_WATCHERS_MAX: Final = 32
HEALTH_CALLS_MAX: Final = _CHECKS_MAX + _WATCHERS_MAX
"""Open calls of health at a time."""


class Health:
    """What is served and what not. For many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._status: dict[str, int] = {}
        self._ended = False
        self._reception = Reception(HEALTH_CALLS_MAX, _CHECKS_MAX // 4)
        self._watchers = Places(
            Reason.TOO_MANY_WATCHERS, "watchers are open, as many as may be", _WATCHERS_MAX, 0.0
        )

    def set(self, service: str, status: int) -> None:
        """The status of a service from now on, which its watchers are told; nothing after
        ``end``."""
        with self._changed:
            if not self._ended:
                self._status[service] = status
                self._changed.notify_all()

    def end(self) -> None:
        """Nothing is served any more; watchers are told, and their calls end."""
        with self._changed:
            self._ended = True
            for service in self._status:
                self._status[service] = health_pb2.HealthCheckResponse.NOT_SERVING
            self._changed.notify_all()

    def handler(self) -> grpc.GenericRpcHandler:
        """For ``grpc.Server.add_generic_rpc_handlers``."""
        return grpc.method_handlers_generic_handler(
            _NAME,
            {
                "Check": grpc.stream_unary_rpc_method_handler(self._check),
                "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
            },
        )

    def _check(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        status = self._status.get(self._service(requests, context))
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no service of that name")
        return _answer(status)

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        service = self._service(requests, context)
        try:
            with self._watchers.taken(context) as place:
                place.rest()
                yield from self._statuses(service, context)
        except ResourceExhaustedError as full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, full.message)

    def _statuses(self, service: str, context: grpc.ServicerContext) -> Iterator[bytes]:
        """The status, and every further one."""
        context.add_callback(self._wake)
        told = None
        while True:
            with self._changed:
                while (status := self._seen(service)) == told and not self._ended:
                    if not context.is_active():
                        return
                    self._changed.wait()
                ended = self._ended
            if status != told:
                yield _answer(status)
                told = status
            if ended:
                return

    def _seen(self, service: str) -> int:
        return self._status.get(service, int(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _service(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> str:
        """What is asked for, from the call's message."""
        try:
            self._reception.enter(context)
            try:
                data = self._reception.receive(requests, context)
            finally:
                self._reception.leave(context)
            service: str = health_pb2.HealthCheckRequest.FromString(data or b"").service
            return service
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of health")
        except VecdbError as error:
            context.abort(getattr(grpc.StatusCode, error.code), error.message)
        raise AssertionError("abort raises")


def _answer(status: int | None) -> bytes:
    message = health_pb2.HealthCheckResponse(status=status)
    data: bytes = message.SerializeToString()
    return data
