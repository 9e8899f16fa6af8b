"""Searches over calls that stay open: one message each way, at a third of the cost of a call.

A stream takes one search at a time. ``SearchStreams`` keeps idle streams, and opens more, up to a
limit, when several threads search at once. If no stream is available, a search is sent as a call;
the same if its stream broke, since a search may be sent twice.

gRPC has one deadline for the whole life of a stream. So each search carries its own deadline, which
the server enforces. A thread of the client ends streams whose server does not answer at all.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from vecdb_client.interrupts import in_background, keep_until_ended
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["SearchStreams"]

_STREAMS_MAX: Final = 4
"""Maximum of open streams of a client; each occupies a thread of the server."""

_REFUSED_PAUSE_S: Final = 10.0
"""Time until a new stream is tried after the server rejected one."""

_SERVER_MAY_BE_LATE_S: Final = 0.25
"""Time after a deadline within which the server should answer; then the stream is ended."""

_TIMEOUT_S_MAX: Final = 1e9
"""About thirty years; it fits into ``timeout_us``."""


class SearchStreams:
    """The open streams of a client. Thread-safe.

    Args:
        method: ``SearchStream`` of the stub.
    """

    def __init__(self, method: Callable[[Iterator[wire.SearchRequest]], grpc.Call]) -> None:
        self._method = method
        self._idle: list[_Stream] = []
        self._open: set[_Stream] = set()
        self._opening = 0
        # Acquired directly, since an interrupt could come between the steps of the condition. gRPC
        # is never called while it is held, since such a call may block forever.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._searched_once = False
        self._refused_until = -math.inf
        self._reaper: threading.Thread | None = None
        self._next_check_at = math.inf

    def ask(
        self, request: wire.SearchRequest, timeout_s: float | None
    ) -> wire.SearchResponse | None:
        """Send a search in a stream and return the answer, whose ``failure`` may be set. Return
        None if no stream is available; then send the search as a call.

        Args:
            request: the search; its ``timeout_us`` is set here.
            timeout_s: timeout in seconds; None for none.
        """
        stream = self._take()
        if stream is None:
            return None
        try:
            if timeout_s is not None:
                request.timeout_us = max(1, int(1e6 * min(timeout_s, _TIMEOUT_S_MAX)))
                stream.ends_at = time.monotonic() + timeout_s + _SERVER_MAY_BE_LATE_S
                if stream.ends_at < self._next_check_at:
                    self._notify_reaper()
            answer = stream.ask(request)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                # The server has no thread for a stream, or does not support streams; or the search
                # was too large, after which a pause does no harm.
                self._refused_until = time.monotonic() + _REFUSED_PAUSE_S
            self._drop(stream)
            return None
        except StopIteration:
            # The server or ``close`` ended the stream.
            self._drop(stream)
            return None
        except Exception:
            # An interrupt may be the cause, after which ending a stream may block forever.
            self._forget(stream)
            in_background(stream.end)
            raise
        # A stream whose search was interrupted is not reused, since it would return the answer to
        # that search to the next one. The client then abandons all its streams.
        stream.ends_at = math.inf
        self._idle.append(stream)
        return answer

    def close(self) -> None:
        """End all streams; running searches of other threads end with them."""
        for stream in self._closing():
            stream.end()
            self._forget(stream)

    def abandon(self) -> None:
        """End all streams of an interrupted connection, without waiting."""
        for stream in self._closing():
            in_background(stream.end)
            self._forget(stream)

    def _closing(self) -> list[_Stream]:
        with self._lock:
            self._closed = True
            self._idle.clear()
            self._changed.notify_all()
            return list(self._open)

    def _take(self) -> _Stream | None:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with self._lock:
            if self._closed or len(self._open) + self._opening >= _STREAMS_MAX:
                return None
            if not self._searched_once:
                # Do not open a stream for the first search: there may be no other.
                self._searched_once = True
                return None
            if time.monotonic() < self._refused_until:
                return None
            self._opening += 1
        stream = None
        try:
            stream = _Stream(self._method)
        finally:
            with self._lock:
                self._opening -= 1
                is_closed = self._closed
                if stream is not None and not is_closed:
                    self._open.add(stream)
        if is_closed:
            in_background(stream.end)
            return None
        return stream

    def _drop(self, stream: _Stream) -> None:
        self._forget(stream)
        stream.end()

    def _forget(self, stream: _Stream) -> None:
        with self._lock:
            self._open.discard(stream)

    def _notify_reaper(self) -> None:
        with self._lock:
            if self._reaper is None:
                self._reaper = threading.Thread(
                    target=self._end_late_streams, name="vecdb-client-deadlines", daemon=True
                )
                self._reaper.start()
            self._changed.notify_all()

    def _end_late_streams(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                # Set before the streams are read, so that a later search notifies
                # this thread.
                self._next_check_at = math.inf
                now = time.monotonic()
                late = [stream for stream in self._open if stream.ends_at <= now]
                if not late:
                    ends = [stream.ends_at for stream in self._open]
                    self._next_check_at = min(ends, default=math.inf)
                    wait_s = self._next_check_at - now
                    self._changed.wait(None if wait_s == math.inf else wait_s)
            for stream in late:
                stream.ends_at = math.inf
                stream.end()


class _Stream:
    """One call that stays open.

    Attributes:
        ends_at: time.monotonic() at which the stream is ended if its search is not answered.
    """

    def __init__(self, method: Callable[[Iterator[wire.SearchRequest]], grpc.Call]) -> None:
        self.ends_at = math.inf
        self._requests: queue.SimpleQueue[wire.SearchRequest | None] = queue.SimpleQueue()
        try:
            self._answers = method(iter(self._requests.get, None))
            keep_until_ended(self._answers)
        except BaseException:
            self._requests.put(None)  # No other code has this object, so end the stream here.
            raise

    def ask(self, request: wire.SearchRequest) -> wire.SearchResponse:
        self._requests.put(request)
        answer: wire.SearchResponse = next(self._answers)
        return answer

    def end(self) -> None:
        self._requests.put(None)
        self._answers.cancel()
