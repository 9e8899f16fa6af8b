"""A connection to a server: a gRPC channel, the stub on it, and the open streams of searches.

A connection in which a call was interrupted is *left* (see ``interrupts``): its client begins its
next calls on a new one. Its channel is never collected, and closed only with the client, in the
background. gRPC lets both share a socket, if that is sound.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from threading import get_ident, main_thread
from time import monotonic
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from vecdb import limits
from vecdb._version import __version__
from vecdb.errors import FailedPreconditionError
from vecdb.reasons import Reason
from vecdb_client import translation
from vecdb_client.interrupts import (
    in_background,
    interrupt_in,
    keep_until_ended,
    never_collect,
)
from vecdb_client.streams import SearchStreams
from vecdb_proto.vecdb_pb2_grpc import VecdbStub

__all__ = ["Begun", "Connection"]

_GRPC_MAY_BE_LATE_S: Final = 1.0

_PING_AFTER_S, _PING_ANSWER_S = 10.0, 10.0
_MAIN_THREAD: Final = main_thread().ident
"""The one that signal handlers run in."""


class Connection:
    """Connects with its first call. Safe to use from many threads.

    Args:
        address: host:port.

    Attributes:
        streams: of searches.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._is_left = False
        self._has_main_thread = False
        self._channel = _new_channel(address)
        self._stub: Any = VecdbStub(self._channel)
        self.streams = SearchStreams(self._stub.SearchStream)

    @property
    def is_left(self) -> bool:
        """Whether a call was interrupted in it."""
        # An interrupt that came while another was being handled has kept ``exit`` and ``leave``
        # from being called. The main thread asks this between its calls: if it is noted as being
        # within one, that one was interrupted.
        return self._is_left or (self._has_main_thread and get_ident() == _MAIN_THREAD)

    def use(self, *, is_write: bool) -> _Use:
        """The context in which gRPC is called. gRPC's errors become ours there.

        Raises:
            VecdbError: of ``translation.error_of``; CLOSED if another thread has closed the
                connection.
        """
        return _Use(self, is_write)

    def call(
        self, method: str, request: Message, timeout_s: float | None, *, is_write: bool
    ) -> Message:
        """The answer to a request."""
        with self.use(is_write=is_write):
            return getattr(self._stub, method)(request, timeout=timeout_s)

    def begin(
        self, method: str, request: Message, timeout_s: float | None, *, is_write: bool
    ) -> Begun:
        """Send a request, or an iterator of them, and don't wait for the answer."""
        with self.use(is_write=is_write):
            future = getattr(self._stub, method).future(request, timeout=timeout_s)
            keep_until_ended(future)
        return Begun(self, future, timeout_s, is_write)

    def answers(self, method: str, request: Message, timeout_s: float | None) -> Iterator[Message]:
        """The stream of answers to a read; closing the iterator early cancels the call."""
        call = None
        try:
            with self.use(is_write=False):
                call = getattr(self._stub, method)(request, timeout=timeout_s)
                keep_until_ended(call)
            while True:
                with self.use(is_write=False):
                    answer = next(call, None)
                if answer is None:
                    return
                yield answer
        finally:
            if call is not None:
                # Here and in no other thread, which could wait for a lock that an interrupt has
                # left with this one. Does nothing if the call has ended.
                with self.use(is_write=False):
                    call.cancel()

    def enter(self) -> None:
        """gRPC is about to be called."""
        if get_ident() == _MAIN_THREAD:
            if self._has_main_thread:
                self.leave()
            self._has_main_thread = True

    def exit(self) -> None:
        """It has returned, or raised an error of its own."""
        if get_ident() == _MAIN_THREAD:
            self._has_main_thread = False

    def leave(self) -> None:
        """After an interrupt; leaving twice is fine. What other threads have under way there may
        still be answered, but for their searches in streams, which end."""
        self._is_left = True
        never_collect(self._channel)
        self.streams.abandon()

    def close(self) -> None:
        """Calls under way in other threads end with an error."""
        self.end_streams()
        if self._is_left:
            in_background(self._channel.close)
            return
        with self.use(is_write=False):
            self._channel.close()

    def end_streams(self) -> None:
        """Searches under way in them end with an error."""
        if self.is_left:
            self.leave()  # Once more: another interrupt may have come between.
            return
        with self.use(is_write=False):
            self.streams.close()


class Begun:
    """A request that was sent. Its answer may never come if its connection is left meanwhile."""

    def __init__(
        self, connection: Connection, future: grpc.Future, timeout_s: float | None, is_write: bool
    ) -> None:
        self.connection = connection
        self._future, self._is_write = future, is_write
        # gRPC keeps the deadline, unless an interrupt has left nobody to do so.
        self._ends = None if timeout_s is None else monotonic() + timeout_s + _GRPC_MAY_BE_LATE_S

    def result(self) -> Message:
        """Wait for the answer; raises as ``Connection.call`` does."""
        with self.connection.use(is_write=self._is_write):
            left_s = None if self._ends is None else max(0.0, self._ends - monotonic())
            return self._future.result(left_s)

    def cancel(self) -> None:
        """Don't wait for the answer."""
        with self.connection.use(is_write=self._is_write):
            self._future.cancel()


class _Use:
    """See ``Connection.use``."""

    __slots__ = ("_connection", "_handled", "_is_write")

    def __init__(self, connection: Connection, is_write: bool) -> None:
        self._connection, self._is_write = connection, is_write
        self._handled: BaseException | None = None

    def __enter__(self) -> None:
        self._handled = sys.exc_info()[1]
        self._connection.enter()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        interrupt = None if error is None else interrupt_in(error, self._handled)
        if interrupt is not None:
            self._connection.leave()
            if interrupt is not error:
                raise interrupt
            return
        self._connection.exit()
        if error is None:
            return
        address = self._connection.address
        if isinstance(error, grpc.RpcError):
            raise translation.error_of(error, address, is_write=self._is_write) from None
        if isinstance(error, grpc.FutureTimeoutError):
            raise translation.no_answer_in_time(address, is_write=self._is_write) from None
        if isinstance(error, ValueError | grpc.FutureCancelledError):
            why = str(error) or "the call was cancelled"
            raise FailedPreconditionError(
                f"the client of {address} was closed: {why}", Reason.CLOSED
            ) from None


def _keepalive() -> tuple[tuple[str, int], ...]:
    """A server that is gone without a word is noticed while a call waits for it: within the time
    between two pings, and that for an answer to one.

    grpcio 1.85 goes by ping_timeout_ms, a minute by itself, and others by keepalive_timeout_ms. By
    itself a client sends two pings without data, and then hardly any.
    """
    return (
        ("grpc.keepalive_time_ms", int(1e3 * _PING_AFTER_S)),
        ("grpc.keepalive_timeout_ms", int(1e3 * _PING_ANSWER_S)),
        ("grpc.http2.ping_timeout_ms", int(1e3 * _PING_ANSWER_S)),
        ("grpc.http2.max_pings_without_data", 0),
    )


def _new_channel(address: str) -> grpc.Channel:
    # The server's limit on messages decides; ours is the greatest that it may have.
    size = limits.MESSAGE_BYTES.maximum
    return grpc.insecure_channel(
        address,
        options=(
            ("grpc.max_send_message_length", size),
            ("grpc.max_receive_message_length", size),
            ("grpc.enable_http_proxy", 0),
            *_keepalive(),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.primary_user_agent", f"vecdb-client/{__version__}"),
        ),
    )
