"""The way of every call out and back.

Calls have a deadline. Reads may be repeated by whoever likes; a write is sent once, and again only
if the server said that it did nothing of it because too many were under way, or if its answer was
lost and it has a request id, so that being applied twice is not possible.
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
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb_client import translation
from vecdb_client.connection import Begun, Connection
from vecdb_client.interrupts import in_background
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["Calls"]

_BACK_OFF_FIRST_S: Final = 0.002
_BACK_OFF_MAX_S: Final = 0.1

_SERVER_AWAY: Final = frozenset({Reason.CONNECTION, Reason.STARTING, Reason.DRAINING})
"""Reasons that end with a server that starts again."""


class Calls:
    """Calls of a server's methods, by name. Safe to use from many threads, not after a fork.

    All of them raise FailedPreconditionError, CLOSED or FORKED.

    Args:
        address: host:port.
        timeout_s: seconds that a call may take if nothing else is said, None for no end.
    """

    def __init__(self, address: str, timeout_s: float | None) -> None:
        self.timeout_s = checks.check_timeout(timeout_s)
        self._address = address
        self._pid = os.getpid()
        self._unusable: str | None = None
        self._message_bytes: int | None = None
        self._changing = threading.Lock()
        self._left: list[Connection] = []
        self._connection = self._connected()

    def limit_of(self, timeout_s: float | None) -> float | None:
        """Seconds that a call may take: what was asked for or the client's; None for no end."""
        return self.timeout_s if timeout_s is None else checks.check_timeout(timeout_s)

    def read(self, method: str, request: Message, timeout_s: float | None = None) -> Message:
        """The answer to what changes nothing; ``timeout_s`` None for the client's."""
        return self._send(method, request, self.limit_of(timeout_s), is_write=False)

    def start_read(self, method: str, request: Message) -> Callable[[], Message]:
        """Like ``read``, but only begun: the function that is returned waits for the answer."""
        begun = self._current().begin(method, request, self.timeout_s, is_write=False)

        def wait() -> Message:
            if begun.connection is not self._current():
                return self.read(method, request)
            return begun.result()

        return wait

    def search(self, request: wire.SearchRequest, limit_s: float | None) -> wire.SearchResponse:
        """Send a search: in an open stream, or as a call of its own if there is none to be had.
        limit_s: as of ``limit_of``."""
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
            raise translation.error_of_failure(answer.failure)
        return answer

    def wait(self, method: str, request: Message, timeout_s: float | None) -> Message:
        """Like ``read`` for work that may take hours: without a timeout it has no end."""
        return self._send(method, request, checks.check_timeout(timeout_s), is_write=False)

    def answers(
        self, method: str, request: Message, timeout_s: float | None
    ) -> Generator[Message, None, None]:
        """The answers to a request that changes nothing; without a timeout it has no end. If the
        iterator is closed before that, so is the call."""
        limit_s = checks.check_timeout(timeout_s)
        yield from self._current().answers(method, request, limit_s)

    def upload(self, method: str, messages: Iterator[Message], timeout_s: float | None) -> Message:
        """The answer to many messages that change something; without a timeout it has no end."""
        limit_s = checks.check_timeout(timeout_s)
        begun = self._current().begin(method, messages, limit_s, is_write=True)
        try:
            return begun.result()
        except BaseException:
            # Who is interrupted sends no more. The cancelling may wait without end for a lock that
            # gRPC's sending thread has.
            in_background(begun.cancel)
            raise

    def start_write(self, method: str, request: Message) -> Begun:
        """Send a write, whose answer is asked for by ``finish_write``."""
        return self._current().begin(method, request, self.timeout_s, is_write=True)

    def finish_write(self, method: str, request: Message, begun: Begun) -> Message:
        """The answer to a write that was started; what ``write`` would send again is given to
        it."""
        try:
            return begun.result()
        except VecdbError as error:
            self._note_limit(error)
            attempts = _Attempts(request)
            attempts.failed(error)
        return self.write(method, request, attempts)

    def write(self, method: str, request: Message, attempts: _Attempts | None = None) -> Message:
        """Send a request that changes something, in the end once, within the client's timeout."""
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
            # Random, so that clients which were refused together don't come back together.
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _BACK_OFF_MAX_S)

    def server_message_bytes(self, timeout_s: float | None = None) -> int:
        """The server's limit on messages, asked for once."""
        if self._message_bytes is None:
            response = self.read("ServerInfo", wire.ServerInfoRequest(), timeout_s)
            self._message_bytes = min(response.limits.message_bytes, limits.MESSAGE_BYTES.maximum)
        return self._message_bytes

    def _note_limit(self, error: VecdbError) -> None:
        """A server that was started again with another limit is asked for it by the next call."""
        if error.reason == Reason.MESSAGE_TOO_LARGE:
            self._message_bytes = None

    def close(self) -> None:
        """Close all connections; closing twice is fine."""
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
                connection.leave()
                connection.close()
            raise

    def _send(
        self, method: str, request: Message, timeout_s: float | None, *, is_write: bool
    ) -> Message:
        return self._current().call(method, request, timeout_s, is_write=is_write)

    def _current(self) -> Connection:
        """The connection that a call may begin on."""
        self._check_usable()
        connection = self._connection
        if not connection.is_left:
            return connection
        connection.leave()  # It may be known only from what was interrupted twice.
        with self._changing:
            self._check_usable()
            if self._connection is connection:
                self._left.append(connection)
                self._connection = self._connected()
            return self._connection

    def _connected(self) -> Connection:
        connection = Connection(self._address)
        # A client that is let go unclosed takes its streams with it.
        weakref.finalize(self, _end_streams, connection, self._pid)
        return connection

    def _check_usable(self) -> None:
        # Asking for the pid takes 0.1 µs; gRPC in a forked child may hang without end.
        if os.getpid() != self._pid:
            raise FailedPreconditionError(
                f"the client of {self._address} was made before a fork; make one in the child",
                Reason.FORKED,
            )
        if self._unusable is not None:
            raise FailedPreconditionError(self._unusable, Reason.CLOSED)


class _Attempts:
    """What is known of a write after each attempt that failed.

    Once an answer was lost, only one that tells of this batch settles its fate; that an attempt
    after it wrote nothing says nothing of those before it.

    Attributes:
        doubt: the first error that left it open, None if there was none.
    """

    def __init__(self, request: Message) -> None:
        self._repeatable = bool(getattr(request, "request_id", ""))
        self.doubt: OutcomeUnknownError | None = None

    def failed(self, error: VecdbError) -> None:
        """Return if it may be sent again, and raise what the caller is to be told if not."""
        if isinstance(error, OutcomeUnknownError) and self._repeatable:
            self.doubt = self.doubt or error
            return
        if error.reason == Reason.TOO_MANY_WRITES:
            return
        if self.doubt is None:
            raise error
        if error.reason in _SERVER_AWAY:
            return
        # CLOSED: another thread has closed the client meanwhile.
        if (
            isinstance(error, UnavailableError | ResourceExhaustedError)
            or error.reason == Reason.CLOSED
        ):
            raise self.doubt
        raise error


def _end_streams(connection: Connection, pid: int) -> None:
    if os.getpid() == pid:
        connection.end_streams()
