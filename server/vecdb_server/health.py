"""``grpc.health.v1.Health``, which works even if the server is overloaded.

It needs no worker, and has limits of its own for calls, threads and slots. Each watcher has its own
thread, so a watcher that does not read delays no other.
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
from vecdb_server.admission import OpenCalls, Slots

__all__ = ["HEALTH_CALLS_MAX", "Health"]

_NAME: Final = "grpc.health.v1.Health"

_CHECKS_MAX: Final = 64
_WATCHERS_MAX: Final = 32
HEALTH_CALLS_MAX: Final = _CHECKS_MAX + _WATCHERS_MAX
"""Maximum of open calls of the health service."""


class Health:
    """The health status of each service. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._status: dict[str, int] = {}
        self._ended = False
        self._open_calls = OpenCalls(HEALTH_CALLS_MAX, _CHECKS_MAX // 4)
        self._watchers = Slots(Reason.TOO_MANY_WATCHERS, "watchers", _WATCHERS_MAX, 0.0)

    def set(self, service: str, status: int) -> None:
        """Set the status of a service and notify its watchers. No effect after ``end``."""
        with self._changed:
            if not self._ended:
                self._status[service] = status
                self._changed.notify_all()

    def end(self) -> None:
        """Set all services to NOT_SERVING, notify the watchers, and end their calls."""
        with self._changed:
            self._ended = True
            for service in self._status:
                self._status[service] = health_pb2.HealthCheckResponse.NOT_SERVING
            self._changed.notify_all()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler for ``grpc.Server.add_generic_rpc_handlers``."""
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
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _answer(status)

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        service = self._service(requests, context)
        try:
            with self._watchers.taken(context) as slot:
                slot.set_idle()
                yield from self._statuses(service, context)
        except ResourceExhaustedError as full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, full.message)

    def _statuses(self, service: str, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Yield the status of a service, then each change."""
        context.add_callback(self._notify)
        sent = None
        while True:
            with self._changed:
                while (status := self._status_of(service)) == sent and not self._ended:
                    if not context.is_active():
                        return
                    self._changed.wait()
                ended = self._ended
            if status != sent:
                yield _answer(status)
                sent = status
            if ended:
                return

    def _status_of(self, service: str) -> int:
        return self._status.get(service, int(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _service(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> str:
        """Return the name of the service in the call's message."""
        try:
            self._open_calls.enter(context)
            try:
                data = self._open_calls.receive(requests, context)
            finally:
                self._open_calls.leave(context)
            service: str = health_pb2.HealthCheckRequest.FromString(data or b"").service
            return service
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected a message HealthCheckRequest")
        except VecdbError as error:
            context.abort(getattr(grpc.StatusCode, error.code), error.message)
        raise AssertionError("abort raises")


def _answer(status: int | None) -> bytes:
    message = health_pb2.HealthCheckResponse(status=status)
    data: bytes = message.SerializeToString()
    return data
