"""Every error that vecdb raises, embedded or remote, is one of these.

    VecdbError
    ├── InvalidArgumentError     the request is wrong, nothing was written; a ValueError
    ├── NotFoundError            no collection of that name, no such folder; a KeyError
    ├── AlreadyExistsError       the name is taken, or a folder is where a new one should be
    ├── FailedPreconditionError  right request, wrong state: closed, forked, a newer format
    ├── ConditionFailedError     insert_only or if_seq did not hold: nothing was written; read again
    ├── ResourceExhaustedError   queue, memory, disk or files are used up; reads go on
    ├── UnavailableError         starting, draining, or stopped after an I/O error; try again
    ├── OutcomeUnknownError      the write may or may not be there: look before repeating it
    ├── DeadlineExceededError    the time given was too short; a TimeoutError
    ├── CancelledError           the caller went away
    ├── DataLossError            stored bytes fail their checksum
    ├── UnsupportedError         reserved, not built yet; a NotImplementedError
    ├── InternalError            a defect of vecdb
    └── MissingExtraError        not installed, says what to type; an ImportError

Each class has a ``code``, the name of its gRPC status, and each error a ``reason`` for programs to
compare: one of ``Reason`` (``Reason.DIM_MISMATCH``), or the code where it has none of its own.
Messages are for people and may change.
Foreign errors are translated where they arise: LMDB's in ``vecdb.engine.kv.environment``, gRPC's in
``vecdb_client.translation``, ours to gRPC's in ``vecdb_server.translation``.
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
    "ResourceExhaustedError",
    "UnavailableError",
    "UnsupportedError",
    "VecdbError",
]


class VecdbError(Exception):
    """The root of the tree: catch it to catch all.

    Attributes:
        reason: one of ``Reason``, or ``code``; str, as a newer server may know others.
        progress: after ``upsert_many`` failed, an ``IngestProgress`` of what was acknowledged; else
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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.reason)


class InvalidArgumentError(VecdbError, ValueError):
    """The request can't be right, whatever the state; nothing of it was written."""

    code = "INVALID_ARGUMENT"


class NotFoundError(VecdbError, KeyError):
    """There is no collection of that name, or it was dropped under this handle; or there is no
    folder, store or backup where one was expected."""

    code = "NOT_FOUND"


class AlreadyExistsError(VecdbError):
    """A collection of that name exists, or a folder that would have to be overwritten."""

    code = "ALREADY_EXISTS"


class FailedPreconditionError(VecdbError):
    """The request is right but not in this state: a closed handle, a fork, a newer format."""

    code = "FAILED_PRECONDITION"


class ConditionFailedError(VecdbError):
    """A write's ``insert_only`` or ``if_seq`` did not hold (CONDITION_EXISTS, CONDITION_CHANGED).
    Nothing was written; who read before writing reads again."""

    code = "ABORTED"


class ResourceExhaustedError(VecdbError):
    """The queue, the memory or the disk is full. Nothing was written; reads go on."""

    code = "RESOURCE_EXHAUSTED"


class UnavailableError(VecdbError):
    """Not now: starting, draining, or refusing writes after an I/O error. Nothing was written."""

    code = "UNAVAILABLE"


class OutcomeUnknownError(VecdbError):
    """A write whose answer was lost: it is there whole or not at all."""

    code = "UNKNOWN"


class DeadlineExceededError(VecdbError, TimeoutError):
    """The deadline passed. A write may still have been applied."""

    code = "DEADLINE_EXCEEDED"


class CancelledError(VecdbError):
    """The call was cancelled by its caller."""

    code = "CANCELLED"


class DataLossError(VecdbError):
    """Stored bytes fail their checksum; the message names them."""

    code = "DATA_LOSS"


class UnsupportedError(VecdbError, NotImplementedError):
    """The interface has a place for it, the code has not."""

    code = "UNIMPLEMENTED"


class InternalError(VecdbError):
    """A defect of vecdb itself; the server's log has the details."""

    code = "INTERNAL"


class MissingExtraError(VecdbError, ImportError):
    """A part of vecdb that is not installed here; the message is the command to type."""

    code = "FAILED_PRECONDITION"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs more than the bare client: pip install 'vecdb-grpc[{extra}]'"
        )
        self.reason = str(Reason.MISSING_EXTRA)
        self._arguments = (what, extra)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments
