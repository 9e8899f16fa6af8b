"""A connection to a server: a gRPC channel, its stub, and the open streams of searches.

If a call is interrupted, its connection is *abandoned* (see ``interrupts``): the client makes its
next calls on a new connection. The channel of the old one is never garbage-collected, and is closed
only with the client, in the background. Both may share a socket within gRPC, if that still works.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from threading import get_ident, main_thread
from time import monotonic
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from vecdb import limits
from vecdb._version import __version__
from vecdb.errors import FailedPreconditionError
from vecdb.reasons import Reason
from vecdb_client import statuses
from vecdb_client.credentials import Credentials
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
_CONNECT_S: Final = 10.0
"""Maximum time of an attempt to connect: a server on a busy machine may be slow to answer."""
_MAIN_THREAD: Final = main_thread().ident
"""The thread in which signal handlers run."""


class Connection:
    """A connection that is established at its first call. Thread-safe.

    Args:
        address: of the server.
        credentials: of the client.

    Attributes:
        streams: the open streams of searches.
    """

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address
        self._metadata = credentials.metadata
        self._is_abandoned = False
        self._has_main_thread = False
        self._channel = _new_channel(address, credentials)
        self._stub: Any = VecdbStub(self._channel)
        self.streams = SearchStreams(partial(self._stub.SearchStream, metadata=self._metadata))

    @property
    def is_abandoned(self) -> bool:
        """Whether a call on it was interrupted."""
        # A second interrupt during the handling of the first may prevent the calls of ``exit`` and
        # ``abandon``. The main thread reads this between its calls: if it is still recorded as
        # being inside a call, that call was interrupted.
        return self._is_abandoned or (self._has_main_thread and get_ident() == _MAIN_THREAD)

    def use(self, *, is_write: bool) -> _Use:
        """Return a context manager for calls into gRPC. It translates gRPC's errors.

        Raises:
            VecdbError: see ``statuses.error_of``; CLOSED if another thread has closed the
                connection.
        """
        return _Use(self, is_write)

    def call(
        self, method: str, request: Message, timeout_s: float | None, *, is_write: bool
    ) -> Message:
        """Send a request and return its answer."""
        with self.use(is_write=is_write):
            return getattr(self._stub, method)(request, timeout=timeout_s, metadata=self._metadata)

    def begin(
        self, method: str, request: Message, timeout_s: float | None, *, is_write: bool
    ) -> Begun:
        """Send a request, or an iterator of requests, without waiting for the answer."""
        with self.use(is_write=is_write):
            future = getattr(self._stub, method).future(
                request, timeout=timeout_s, metadata=self._metadata
            )
            keep_until_ended(future)
        return Begun(self, future, timeout_s, is_write)

    def answers(self, method: str, request: Message, timeout_s: float | None) -> Iterator[Message]:
        """Yield the answers to a read. Closing the iterator early cancels the call."""
        call = None
        try:
            with self.use(is_write=False):
                call = getattr(self._stub, method)(
                    request, timeout=timeout_s, metadata=self._metadata
                )
                keep_until_ended(call)
            while True:
                with self.use(is_write=False):
                    answer = next(call, None)
                if answer is None:
                    return
                yield answer
        finally:
            if call is not None:
                # In this thread: an interrupt may have left a lock held by this thread, on which
                # another one would block. No effect if the call has ended.
                with self.use(is_write=False):
                    call.cancel()

    def enter(self) -> None:
        """Record that the current thread calls gRPC."""
        if get_ident() == _MAIN_THREAD:
            if self._has_main_thread:
                self.abandon()
            self._has_main_thread = True

    def exit(self) -> None:
        """Record that gRPC has returned or raised an error of its own."""
        if get_ident() == _MAIN_THREAD:
            self._has_main_thread = False

    def abandon(self) -> None:
        """Abandon the connection after an interrupt. Idempotent. Calls of other threads may still
        be answered; their searches in streams end."""
        self._is_abandoned = True
        never_collect(self._channel)
        self.streams.abandon()

    def close(self) -> None:
        """Close the channel; running calls of other threads end with an error."""
        self.end_streams()
        if self._is_abandoned:
            in_background(self._channel.close)
            return
        with self.use(is_write=False):
            self._channel.close()

    def end_streams(self) -> None:
        """End the streams; running searches in them end with an error."""
        if self.is_abandoned:
            self.abandon()  # Again: an interrupt may have prevented the first call.
            return
        with self.use(is_write=False):
            self.streams.close()


class Begun:
    """A request that was sent. If its connection is abandoned, it may never be answered."""

    def __init__(
        self, connection: Connection, future: grpc.Future, timeout_s: float | None, is_write: bool
    ) -> None:
        self.connection = connection
        self._future, self._is_write = future, is_write
        # gRPC enforces the deadline. After an interrupt it may not, so this is a second one.
        self._ends = None if timeout_s is None else monotonic() + timeout_s + _GRPC_MAY_BE_LATE_S

    def result(self) -> Message:
        """Wait for the answer and return it. Raises what ``Connection.call`` raises."""
        with self.connection.use(is_write=self._is_write):
            left_s = None if self._ends is None else max(0.0, self._ends - monotonic())
            return self._future.result(left_s)

    def cancel(self) -> None:
        """Cancel the call."""
        with self.connection.use(is_write=self._is_write):
            self._future.cancel()


class _Use:
    """The context manager of ``Connection.use``."""

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
            self._connection.abandon()
            if interrupt is not error:
                raise interrupt
            return
        self._connection.exit()
        if error is None:
            return
        address = self._connection.address
        if isinstance(error, grpc.RpcError):
            raise statuses.error_of(error, address, is_write=self._is_write) from None
        if isinstance(error, grpc.FutureTimeoutError):
            raise statuses.no_answer_in_time(address, is_write=self._is_write) from None
        if isinstance(error, ValueError | grpc.FutureCancelledError):
            why = str(error) or "the call was cancelled"
            raise FailedPreconditionError(
                f"the client of {address} was closed: {why}", Reason.CLOSED
            ) from None


def _keepalive() -> tuple[tuple[str, int], ...]:
    """Return options by which a call detects a server that disappeared without closing the
    connection, within the ping interval plus the ping timeout.

    grpcio 1.85 uses ping_timeout_ms, whose default is a minute; other versions use
    keepalive_timeout_ms. By default a client sends at most two pings without data.
    """
    return (
        ("grpc.keepalive_time_ms", int(1e3 * _PING_AFTER_S)),
        ("grpc.keepalive_timeout_ms", int(1e3 * _PING_ANSWER_S)),
        ("grpc.http2.ping_timeout_ms", int(1e3 * _PING_ANSWER_S)),
        ("grpc.http2.max_pings_without_data", 0),
    )


def _new_channel(address: str, credentials: Credentials) -> grpc.Channel:
    # The server enforces its own limit of message sizes; the client's is the maximum of that.
    size = limits.MESSAGE_BYTES.maximum
    return credentials.channel(
        address,
        (
            ("grpc.max_send_message_length", size),
            ("grpc.max_receive_message_length", size),
            ("grpc.enable_http_proxy", 0),
            *_keepalive(),
            ("grpc.initial_reconnect_backoff_ms", 100),
            # The time that an attempt to connect may take, despite its name.
            ("grpc.min_reconnect_backoff_ms", int(1e3 * _CONNECT_S)),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.primary_user_agent", f"vecdb-client/{__version__}"),
        ),
    )
