"""gRPC statuses to errors of vecdb.

An error of the server has a reason in the trailing metadata; it is raised as the class that an
embedded database would raise. An error of gRPC itself has no reason; its class depends on whether a
write may have been applied (``error_of``).
"""

from __future__ import annotations

from typing import Final

import grpc

from vecdb import errors
from vecdb.errors import InternalError, VecdbError
from vecdb.one_line import one_line
from vecdb.reasons import Reason
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["error_of", "error_of_failure", "no_answer_in_time"]

_REASON_KEY: Final = "vecdb-reason"

_ERROR_OF_STATUS: Final[dict[grpc.StatusCode, type[VecdbError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPreconditionError,
    grpc.StatusCode.ABORTED: errors.ConditionFailedError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: errors.UnavailableError,
    grpc.StatusCode.UNKNOWN: errors.OutcomeUnknownError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.CANCELLED: errors.CancelledError,
    grpc.StatusCode.DATA_LOSS: errors.DataLossError,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnsupportedError,
    grpc.StatusCode.INTERNAL: errors.InternalError,
}

_ERROR_OF_NUMBER: Final = {code.value[0]: kind for code, kind in _ERROR_OF_STATUS.items()}

_NOT_APPLIED: Final = frozenset(
    {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.NOT_FOUND,
    }
)
"""Statuses that, from gRPC or a proxy and without a reason of vecdb, mean that no handler ran."""

_NEVER_CONNECTED: Final = "failed to connect to all addresses"
"""Prefix of the message of gRPC's core if nothing was sent. With any other text the outcome counts
as unknown, so that a change of this text is safe."""


def error_of(error: grpc.RpcError, address: str, *, is_write: bool) -> VecdbError:
    """Return the error of vecdb for an error of gRPC.

    Args:
        error: the error.
        address: the server's address, for the message.
        is_write: if the answer to a write was lost, the error is OutcomeUnknownError.
    """
    code: grpc.StatusCode = error.code()
    text = one_line(error.details() or code.name)
    for key, value in error.trailing_metadata() or ():
        if key == _REASON_KEY:
            return _ERROR_OF_STATUS.get(code, InternalError)(text, value)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _too_much(text, address)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return no_answer_in_time(address, is_write=is_write)
    never_connected = code is grpc.StatusCode.UNAVAILABLE and text.startswith(_NEVER_CONNECTED)
    if is_write and not never_connected and code not in _NOT_APPLIED:
        return errors.OutcomeUnknownError(
            f"the answer of {address} was lost; the write may have been applied: {text}",
            Reason.OUTCOME_UNKNOWN,
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.UnavailableError(f"cannot reach {address}: {text}", Reason.CONNECTION)
    kind = _ERROR_OF_STATUS.get(code, InternalError)
    if kind in (errors.OutcomeUnknownError, errors.ConditionFailedError):
        kind = InternalError  # These classes are for writes; vecdb did not send this status.
    return kind(f"{code.name} from {address}: {text}")


def no_answer_in_time(address: str, *, is_write: bool) -> errors.DeadlineExceededError:
    """Return the error for a call whose timeout has passed."""
    doubt = "; the write may still have been applied" if is_write else ""
    return errors.DeadlineExceededError(f"no answer from {address} in time{doubt}")


def error_of_failure(failure: wire.Failure) -> VecdbError:
    """Return the error for a failed search of a stream."""
    kind = _ERROR_OF_NUMBER.get(failure.code, InternalError)
    return kind(one_line(failure.message), failure.reason)


def _too_much(text: str, address: str) -> VecdbError:
    if "larger than max" in text:
        return errors.ResourceExhaustedError(
            f"a message exceeds the maximum size of the client or the server at {address}: {text}; "
            "use smaller batches (as upsert_many does), fewer queries or a smaller k",
            Reason.MESSAGE_TOO_LARGE,
        )
    return errors.ResourceExhaustedError(f"{address} is overloaded: {text}", Reason.TOO_MANY_CALLS)
