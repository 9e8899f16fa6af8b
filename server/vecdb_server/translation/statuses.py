"""Errors to gRPC statuses: ``status_of`` is the only translation of an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import grpc

from vecdb import errors
from vecdb.engine.system.call_memory import out_of_memory
from vecdb.errors import InternalError, VecdbError
from vecdb.reasons import Reason

__all__ = ["GENERIC_MESSAGE", "REASON_KEY", "STATUS_OF_ERROR", "Status", "status_of"]

REASON_KEY: Final = "vecdb-reason"

GENERIC_MESSAGE: Final = "a defect of the server; its log has the details"

_MESSAGE_BYTES_SHOWN: Final = 1_000
"""Maximum of a status message in bytes. It is sent as a header: all headers together have at most
8 KiB, and a byte that is not printable ASCII takes 3."""

STATUS_OF_ERROR: Final[dict[type[VecdbError], grpc.StatusCode]] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConditionFailedError: grpc.StatusCode.ABORTED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.OutcomeUnknownError: grpc.StatusCode.UNKNOWN,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CancelledError: grpc.StatusCode.CANCELLED,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
    errors.UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
    errors.MissingExtraError: grpc.StatusCode.FAILED_PRECONDITION,
}


class Status(NamedTuple):
    """An error as sent to a caller: gRPC status, reason for programs, message for people."""

    code: grpc.StatusCode
    reason: str
    message: str


def status_of(error: BaseException) -> Status:
    """Return the status of any exception. The status of an unexpected one has no details."""
    if isinstance(error, MemoryError):
        error = out_of_memory(error)
    # A private subclass gets the status of its nearest base class in the table.
    table: Mapping[Any, grpc.StatusCode] = STATUS_OF_ERROR
    code = next((table[kind] for kind in type(error).__mro__ if kind in table), None)
    if code is None or not isinstance(error, VecdbError) or isinstance(error, InternalError):
        return Status(grpc.StatusCode.INTERNAL, "INTERNAL", GENERIC_MESSAGE)
    reason = (
        Reason.OUTCOME_UNKNOWN if isinstance(error, errors.OutcomeUnknownError) else error.reason
    )
    text = error.message.encode("utf-8", "replace")[:_MESSAGE_BYTES_SHOWN]
    return Status(code, reason, text.decode("utf-8", "ignore"))
