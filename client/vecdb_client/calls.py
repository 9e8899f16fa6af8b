"""Deadlines and retries of calls.

Each call has a deadline. Reads are safe to retry. A write is retried only if the server rejected it
since too many writes were in progress, or if its answer was lost and it has a request id, so that
it is applied once.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Final

from google.protobuf.message import Message

from vecdb import checks, limits
from vecdb.errors import (
    FailedPreconditionError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    UnsupportedError,
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb_client import statuses
from vecdb_client.connection import Begun, Connection
from vecdb_client.credentials import Credentials
from vecdb_client.interrupts import in_background
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["Calls"]

_BACK_OFF_FIRST_S: Final = 0.002
_BACK_OFF_MAX_S: Final = 0.1

_SERVER_AWAY: Final = frozenset({Reason.CONNECTION, Reason.STARTING, Reason.DRAINING})
"""Reasons that disappear when the server has restarted."""


class Calls:
    """Calls of a server's methods, by name. Thread-safe; unusable after a fork.

    All methods raise FailedPreconditionError: CLOSED or FORKED.

    Args:
        address: of the server.
        credentials: of the client.
        timeout_s: default timeout of a call in seconds; None for none.
    """

    def __init__(self, address: str, credentials: Credentials, timeout_s: float | None) -> None:
        self._credentials = credentials
        self.timeout_s = checks.check_timeout(timeout_s)
        self._address = address
        self._pid = os.getpid()
        self._unusable: str | None = None
        self._message_bytes: int | None = None
        self._features: frozenset[str] | None = None
        self._changing = threading.Lock()
        self._left: list[Connection] = []
        self._connection = self._new_connection()

    def limit_of(self, timeout_s: float | None) -> float | None:
        """Return the timeout of a call in seconds: the given one or the client's; None for none."""
        return self.timeout_s if timeout_s is None else checks.check_timeout(timeout_s)

    def read(self, method: str, request: Message, timeout_s: float | None = None) -> Message:
        """Send a read and return its answer; ``timeout_s`` None means the client's."""
        return self._send(method, request, self.limit_of(timeout_s), is_write=False)

    def start_read(self, method: str, request: Message) -> Callable[[], Message]:
        """Send a read; return a function that waits for its answer."""
        begun = self._current().begin(method, request, self.timeout_s, is_write=False)

        def wait() -> Message:
            if begun.connection is not self._current():
                return self.read(method, request)
            return begun.result()

        return wait

    def search(self, request: wire.SearchRequest, limit_s: float | None) -> wire.SearchResponse:
        """Send a search in an open stream, or as a call if no stream is available. ``limit_s``:
        as returned by ``limit_of``."""
        connection = self._current()
        began = time.monotonic()
        with connection.use(is_write=False):
            answer: wire.SearchResponse | None = connection.streams.ask(request, limit_s)
        if answer is None:
            request.timeout_us = 0
            left_s = None if limit_s is None else max(1e-3, limit_s - (time.monotonic() - began))
            response: wire.SearchResponse = self._send("Search", request, left_s, is_write=False)
            return response
        if answer.HasField("failure"):
            raise statuses.error_of_failure(answer.failure)
        return answer

    def wait(self, method: str, request: Message, timeout_s: float | None) -> Message:
        """Send a request for work that may take hours; ``timeout_s`` None means no timeout."""
        return self._send(method, request, checks.check_timeout(timeout_s), is_write=False)

    def answers(
        self, method: str, request: Message, timeout_s: float | None
    ) -> Generator[Message, None, None]:
        """Yield the answers to a read; ``timeout_s`` None means no timeout. Closing the iterator
        cancels the call."""
        limit_s = checks.check_timeout(timeout_s)
        yield from self._current().answers(method, request, limit_s)

    def upload(self, method: str, messages: Iterator[Message], timeout_s: float | None) -> Message:
        """Send a write of many messages and return its answer; ``timeout_s`` None means no
        timeout."""
        limit_s = checks.check_timeout(timeout_s)
        begun = self._current().begin(method, messages, limit_s, is_write=True)
        try:
            return begun.result()
        except BaseException:
            # Stop sending. ``cancel`` may block forever on a lock of gRPC's sending thread, so it
            # runs in the background.
            in_background(begun.cancel)
            raise

    def start_write(self, method: str, request: Message) -> Begun:
        """Send a write; ``finish_write`` waits for its answer."""
        return self._current().begin(method, request, self.timeout_s, is_write=True)

    def finish_write(self, method: str, request: Message, begun: Begun) -> Message:
        """Wait for the answer to a write of ``start_write``, with retries as in ``write``."""
        try:
            return begun.result()
        except VecdbError as error:
            self._note_limit(error)
            attempts = _Attempts(request)
            attempts.failed(error)
        return self.write(method, request, attempts)

    def write(self, method: str, request: Message, attempts: _Attempts | None = None) -> Message:
        """Send a write, with retries, within the client's timeout; it is applied at most once."""
        ends = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        pause_s = _BACK_OFF_FIRST_S
        attempts = attempts or _Attempts(request)
        while True:
            left_s = None if ends is None else max(1e-3, ends - time.monotonic())
            try:
                return self._send(method, request, left_s, is_write=True)
            except VecdbError as error:
                self._note_limit(error)
                attempts.failed(error)
                if ends is not None and time.monotonic() + pause_s >= ends:
                    raise attempts.doubt or error from None
            # Jitter, so that clients that were rejected at the same time do not retry together.
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _BACK_OFF_MAX_S)

    def server_message_bytes(self, timeout_s: float | None = None) -> int:
        """Return the server's maximum message size in bytes; requested once and cached."""
        if self._message_bytes is None:
            response = self.read("ServerInfo", wire.ServerInfoRequest(), timeout_s)
            self._message_bytes = min(response.limits.message_bytes, limits.MESSAGE_BYTES.maximum)
        return self._message_bytes

    def metadata_bytes_max(self) -> int:
        """Return the server's maximum size of a row's metadata; requested for large ones only."""
        response = self.read("ServerInfo", wire.ServerInfoRequest())
        most: int = response.limits.metadata_bytes_max
        return most

    def require(self, feature: str) -> None:
        """Check that the server supports a field, which one of an earlier version would ignore.

        Raises:
            UnsupportedError: it does not.
        """
        if self._features is None or feature not in self._features:
            response = self.read("ServerInfo", wire.ServerInfoRequest())
            self._features = frozenset(response.features)
        if feature not in self._features:
            raise UnsupportedError(
                f"the server at {self._address} is too old for {feature}", Reason.RESERVED
            )

    def _note_limit(self, error: VecdbError) -> None:
        """Forget the cached limit after MESSAGE_TOO_LARGE: the server may have been restarted with
        another one."""
        if error.reason == Reason.MESSAGE_TOO_LARGE:
            self._message_bytes = None

    def close(self) -> None:
        """Close all connections. Idempotent."""
        because = f"the client of {self._address} is closed"
        if os.getpid() != self._pid:
            self._unusable = because
            return
        with self._changing:
            if self._unusable is not None:
                return
            self._unusable = because
        connections = [*self._left, self._connection]
        try:
            while connections:
                connections[-1].close()
                connections.pop()
        except BaseException:
            for connection in connections:
                connection.abandon()
                connection.close()
            raise

    def _send(
        self, method: str, request: Message, timeout_s: float | None, *, is_write: bool
    ) -> Message:
        return self._current().call(method, request, timeout_s, is_write=is_write)

    def _current(self) -> Connection:
        """Return the connection for a new call; replace one that was interrupted."""
        self._check_usable()
        connection = self._connection
        if not connection.is_abandoned:
            return connection
        connection.abandon()  # After two interrupts it may not have been called.
        with self._changing:
            self._check_usable()
            if self._connection is connection:
                self._left.append(connection)
                self._connection = self._new_connection()
            return self._connection

    def _new_connection(self) -> Connection:
        connection = Connection(self._address, self._credentials)
        # A client that is garbage-collected without ``close`` must end its streams.
        weakref.finalize(self, _end_streams, connection, self._pid)
        return connection

    def _check_usable(self) -> None:
        # gRPC in a forked child may hang forever; getpid takes only 0.1 µs.
        if os.getpid() != self._pid:
            raise FailedPreconditionError(
                f"the client of {self._address} was created before a fork; create one in the child",
                Reason.FORKED,
            )
        if self._unusable is not None:
            raise FailedPreconditionError(self._unusable, Reason.CLOSED)


class _Attempts:
    """Decides after each failed attempt of a write whether it may be retried.

    Once an answer was lost, the outcome is unknown until an answer reports on this batch. If a
    later attempt wrote nothing, this says nothing about the earlier ones.

    Attributes:
        doubt: the first error after which the outcome is unknown; None without one.
    """

    def __init__(self, request: Message) -> None:
        self._repeatable = bool(getattr(request, "request_id", ""))
        self.doubt: OutcomeUnknownError | None = None

    def failed(self, error: VecdbError) -> None:
        """Return if the write may be retried; otherwise raise the error for the caller."""
        if isinstance(error, OutcomeUnknownError) and self._repeatable:
            self.doubt = self.doubt or error
            return
        if error.reason == Reason.TOO_MANY_WRITES:
            return
        if self.doubt is None:
            raise error
        if error.reason in _SERVER_AWAY:
            return
        # CLOSED: another thread has closed the client in the meantime.
        if (
            isinstance(error, UnavailableError | ResourceExhaustedError)
            or error.reason == Reason.CLOSED
        ):
            raise self.doubt
        raise error


def _end_streams(connection: Connection, pid: int) -> None:
    if os.getpid() == pid:
        connection.end_streams()
