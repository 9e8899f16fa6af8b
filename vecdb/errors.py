"""All errors that vecdb raises, embedded or remote.

    VecdbError
    ├── InvalidArgumentError     invalid request; nothing was written; a ValueError
    ├── NotFoundError            the collection, folder or file does not exist; a KeyError
    ├── AlreadyExistsError       the name or the path is taken
    ├── FailedPreconditionError  valid request, wrong state: closed, forked, a newer format
    ├── ConditionFailedError     insert_only or if_seq did not hold; nothing was written
    ├── UnauthenticatedError     the server asks for an access token, or does not know it
    ├── PermissionDeniedError    the access token does not permit the call
    ├── ResourceExhaustedError   queue, memory, disk or files exhausted; reads still work
    ├── UnavailableError         starting, draining, or stopped after an I/O error; retry later
    ├── OutcomeUnknownError      the write is stored or not; repeat it with its request_id, or read
    ├── DeadlineExceededError    the deadline passed; a TimeoutError
    ├── CancelledError           the caller cancelled the call
    ├── DataLossError            stored bytes fail their checksum
    ├── UnsupportedError         reserved, not implemented; a NotImplementedError
    ├── InternalError            a defect of vecdb
    └── MissingExtraError        an extra is not installed; an ImportError

Each class has a ``code``, the name of its gRPC status. Each error has a ``reason`` for programs to
compare: one of ``Reason`` (``Reason.DIM_MISMATCH``), or the code if no reason applies. Messages are
for people and may change.
Foreign errors are translated in one place each: LMDB's in ``vecdb.engine.kv.lmdb_errors``, gRPC's
in ``vecdb_client.translation``, vecdb's own to gRPC's in ``vecdb_server.translation``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from vecdb.reasons import Reason

__all__ = [
    "AlreadyExistsError",
    "CancelledError",
    "ConditionFailedError",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "MissingExtraError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "VecdbError",
]


class VecdbError(Exception):
    """The base class of all errors of vecdb.

    Attributes:
        reason: one of ``Reason``, or ``code``. A str, since a newer server may send reasons that
            this version does not have.
        progress: if ``upsert_many`` failed, an ``IngestProgress`` of the acknowledged rows; else
            None.
    """

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, reason: Reason | str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = str(reason) or self.code
        self.progress: Any = None

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[VecdbError], tuple[str, str]]:
        return type(self), (self.message, self.reason)


class InvalidArgumentError(VecdbError, ValueError):
    """The request is invalid in every state; nothing was written."""

    code = "INVALID_ARGUMENT"


class NotFoundError(VecdbError, KeyError):
    """The collection does not exist or was dropped while this handle was open; or a folder, a file,
    a store or a backup does not exist."""

    code = "NOT_FOUND"


class AlreadyExistsError(VecdbError):
    """A collection of that name exists, or the path is taken and may not be overwritten."""

    code = "ALREADY_EXISTS"


class FailedPreconditionError(VecdbError):
    """The request is valid but not in this state: a closed handle, a fork, a newer format."""

    code = "FAILED_PRECONDITION"


class ConditionFailedError(VecdbError):
    """The ``insert_only`` or ``if_seq`` of a write did not hold (CONDITION_EXISTS,
    CONDITION_CHANGED). Nothing was written. A read-modify-write must read again."""

    code = "ABORTED"


class UnauthenticatedError(VecdbError):
    """The server asks for an access token, or the given one is not valid. Nothing was done."""

    code = "UNAUTHENTICATED"


class PermissionDeniedError(VecdbError):
    """The access token does not permit this call, or this collection. Nothing was done."""

    code = "PERMISSION_DENIED"


class ResourceExhaustedError(VecdbError):
    """The queue, the memory or the disk is full. Nothing was written; reads still work."""

    code = "RESOURCE_EXHAUSTED"


class UnavailableError(VecdbError):
    """Starting, draining, or refusing writes after an I/O error. Nothing was written; retry."""

    code = "UNAVAILABLE"


class OutcomeUnknownError(VecdbError):
    """A commit failed, or the response to a write was lost. The batch is stored whole or not at
    all; which of the two is unknown."""

    code = "UNKNOWN"


class DeadlineExceededError(VecdbError, TimeoutError):
    """The deadline passed. A write may still have been applied."""

    code = "DEADLINE_EXCEEDED"


class CancelledError(VecdbError):
    """The caller cancelled the call."""

    code = "CANCELLED"


class DataLossError(VecdbError):
    """Stored bytes fail their checksum; the message names them."""

    code = "DATA_LOSS"


class UnsupportedError(VecdbError, NotImplementedError):
    """The interface reserves it; it is not implemented."""

    code = "UNIMPLEMENTED"


class InternalError(VecdbError):
    """A defect of vecdb; the server's log has the details."""

    code = "INTERNAL"


class MissingExtraError(VecdbError, ImportError):
    """A part of vecdb is not installed; the message has the command that installs it."""

    code = "FAILED_PRECONDITION"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs more than the bare client: pip install 'vecdb-grpc[{extra}]'"
        )
        self.reason = str(Reason.MISSING_EXTRA)
        self._arguments = (what, extra)

    def __reduce__(self) -> tuple[type[VecdbError], tuple[str, str]]:
        return type(self), self._arguments
