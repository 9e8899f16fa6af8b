"""One rpc of the service: from the bytes of a request to those of its answer, or to an error.

It asks who calls, parses, calls the service, and counts and logs the outcome. ``transport``
connects it to gRPC.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError, Message

from vecdb.errors import (
    CancelledError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from vecdb.reasons import Reason
from vecdb_server import log
from vecdb_server.access.callers import EVERYONE, Access, Caller
from vecdb_server.admission import Activity
from vecdb_server.metrics.registry import CallMetrics
from vecdb_server.service import Call
from vecdb_server.translation.statuses import Status, status_of

__all__ = ["AdmittedCall", "Rpc", "StreamRpc"]

_SLOW_CALL_S: Final = 1.0
_NEVER_SLOW: Final = frozenset({"Optimize", "Backup", "Import"})


class AdmittedCall:
    """A call of a caller who may make it; what the service reads of it.

    Attributes:
        collections: the names that the service asked about.
    """

    __slots__ = ("caller", "collections", "context", "is_active", "time_remaining")

    def __init__(self, caller: Caller, context: grpc.ServicerContext) -> None:
        self.caller = caller
        self.collections: tuple[str, ...] = ()
        self.context = context
        self.is_active = context.is_active
        self.time_remaining = context.time_remaining

    def check_collection(self, name: str) -> None:
        """See ``Call``."""
        if self.caller is not EVERYONE:
            self.collections += (name,)
            self.caller.check_collection(name)


class Rpc:
    """One rpc: from the bytes of a request to the bytes of its answer, or to an error."""

    def __init__(
        self,
        name: str,
        request_type: type[Message],
        method: Callable[..., Message],
        access: Access,
        metrics: CallMetrics,
        activity: Activity,
        message_bytes: int,
    ) -> None:
        self.name = name
        self._access, self._metrics = access, metrics
        self._parse = request_type.FromString
        self._method = method
        self._activity = activity
        self._message_bytes = message_bytes

    def admit(self, context: grpc.ServicerContext) -> AdmittedCall:
        """Return a call, before its message has arrived.

        Raises:
            UnauthenticatedError, PermissionDeniedError: the caller may not make it.
        """
        return AdmittedCall(self._access.caller(self.name, context), context)

    def attempt(self, data: Any, call: AdmittedCall) -> bytes | Exception:
        """Return the answer or the error of a call. Count the call, and log it if it was slow."""
        self._activity.enter()
        began = time.monotonic()
        try:
            answer = self._answer(data, call)
            self._metrics.succeeded()
            return answer
        except Exception as error:
            return error
        finally:
            self._activity.leave()
            took_s = time.monotonic() - began
            self._metrics.took(took_s)
            if took_s > _SLOW_CALL_S and self.name not in _NEVER_SLOW:
                log.event("slow-call", logging.WARNING, call=self.name, took_s=f"{took_s:.2f}")

    def _answer(self, data: Any, call: Call) -> bytes:
        response: bytes = self._method(self._parsed(data), call).SerializeToString()
        if len(response) > self._message_bytes:
            raise ResourceExhaustedError(
                f"the answer has {len(response)} bytes, the maximum of a message is "
                f"{self._message_bytes}; request fewer rows, or no vectors or metadata",
                Reason.MESSAGE_TOO_LARGE,
            )
        return response

    def answers(self, data: bytes, call: AdmittedCall) -> Generator[bytes, None, None]:
        """Yield the answers of an rpc with many, and raise its error. Count the call."""
        self._activity.enter()
        try:
            for response in self._method(self._parsed(data), call):
                yield response.SerializeToString()
            self._metrics.succeeded()
        finally:
            self._activity.leave()

    def audit(self, call: AdmittedCall, outcome: object) -> None:
        """Log the end of a call, if that is to be logged. outcome: an exception is its error."""
        if call.caller is EVERYONE:
            return
        audit, named = self._access.audit, call.collections
        if isinstance(outcome, PermissionDeniedError):
            audit.refused(self.name, call.caller.name, outcome, call.context, named)
        else:
            is_error = isinstance(outcome, Exception)
            why = getattr(outcome, "reason", "INTERNAL") if is_error else "ok"
            audit.ended(self.name, call.caller, why, call.context, named)

    def _parsed(self, data: Any) -> Message:
        try:
            return self._parse(data)
        except DecodeError:
            raise InvalidArgumentError(
                f"expected a message of {self.name}, got {len(data)} bytes that are not one",
                Reason.BAD_MESSAGE,
            ) from None

    def status(self, error: Exception) -> Status:
        """Return the status of an error. Unexpected errors are logged; their status has no
        details."""
        status = status_of(error)
        self._metrics.failed(status.code.name)
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
        _clear_tracebacks(error)
        return status


class StreamRpc(Rpc):
    """An rpc with a stream of requests; its method takes an iterator of messages."""

    def _parsed(self, data: Iterable[bytes]) -> Iterator[Message]:
        try:
            for each in data:
                yield super()._parsed(each)
        except grpc.RpcError:
            # grpcio's signal that the call has ended before the stream of requests.
            raise CancelledError("the caller has gone") from None


def _clear_tracebacks(error: BaseException) -> None:
    """Remove the tracebacks of an error and of its causes.

    A traceback references the handler's frame, which references the error. This cycle would keep
    the call open, and counted among the calls of its connection, until a garbage collection, which
    is rare here.
    """
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
