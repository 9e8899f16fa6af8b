"""Searches over calls that stay open: a message each way instead of a call, at a third of its cost.

A stream takes one search at a time. ``SearchStreams`` keeps those that are idle and opens more, up
to a few, when several threads search at once; a search that finds none to be had is sent as a call
of its own, and so is one whose stream broke: a search may be sent twice.

gRPC gives a stream one deadline for its whole life. A search's own goes with it to the server,
which keeps it; a thread here looks after those that a server no longer answers at all.
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
"""Open streams of a client; each one holds a thread of the server."""

_REFUSED_PAUSE_S: Final = 10.0
"""A server that has no thread for a stream is not asked again before this."""

_SERVER_MAY_BE_LATE_S: Final = 0.25
"""It answers when a deadline has passed; only if it doesn't do that either, the stream is cut."""

_TIMEOUT_S_MAX: Final = 1e9
"""Thirty years; what the wire can't hold is longer."""


class SearchStreams:
    """The open streams of a client. Safe to use from many threads.

    Args:
        method: the stub's ``SearchStream``.
    """

    def __init__(self, method: Callable[[Iterator[wire.SearchRequest]], grpc.Call]) -> None:
        self._method = method
        self._idle: list[_Stream] = []
        self._open: set[_Stream] = set()
        self._opening = 0
        # Taken as it is and not through the condition, whose steps an interrupt may come between.
        # Nothing of gRPC is called while it is held: that may wait without end.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._searched_once = False
        self._refused_until = -math.inf
        self._guard: threading.Thread | None = None
        self._guard_looks_at = math.inf

    def ask(
        self, request: wire.SearchRequest, timeout_s: float | None
    ) -> wire.SearchResponse | None:
        """The answer, whose ``failure`` may be set, or None: then send the search as a call.

        Args:
            timeout_s: seconds, None for no end.
        """
        stream = self._take()
        if stream is None:
            return None
        try:
            if timeout_s is not None:
                request.timeout_us = max(1, int(1e6 * min(timeout_s, _TIMEOUT_S_MAX)))
                stream.ends_at = time.monotonic() + timeout_s + _SERVER_MAY_BE_LATE_S
                if stream.ends_at < self._guard_looks_at:
                    self._wake_guard()
            answer = stream.ask(request)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                # No room for a stream, or a server that has none; or one search that is too large,
                # for which a pause does no harm.
                self._refused_until = time.monotonic() + _REFUSED_PAUSE_S
            self._drop(stream)
            return None
        except StopIteration:
            # Ended by the server, or by ``close``.
            self._drop(stream)
            return None
        except Exception:
            # Behind it may be an interrupt, after which ending a stream may take for ever.
            self._forget(stream)
            in_background(stream.end)
            raise
        # A stream whose search was interrupted does not come here: it would give the next search
        # the answer to that one. The client abandons all its streams then.
        stream.ends_at = math.inf
        self._idle.append(stream)
        return answer

    def close(self) -> None:
        """End all streams; searches under way in other threads end with them."""
        for stream in self._closing():
            stream.end()
            self._forget(stream)

    def abandon(self) -> None:
        """Like ``close``, for a connection that was interrupted: don't wait for any of it."""
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
                # A single search is not worth a stream.
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

    def _wake_guard(self) -> None:
        with self._lock:
            if self._guard is None:
                self._guard = threading.Thread(
                    target=self._run_guard, name="vecdb-client-deadlines", daemon=True
                )
                self._guard.start()
            self._changed.notify_all()

    def _run_guard(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                # Set before the streams are read: a search that begins meanwhile wakes us again.
                self._guard_looks_at = math.inf
                now = time.monotonic()
                late = [stream for stream in self._open if stream.ends_at <= now]
                if not late:
                    ends = [stream.ends_at for stream in self._open]
                    self._guard_looks_at = min(ends, default=math.inf)
                    wait_s = self._guard_looks_at - now
                    self._changed.wait(None if wait_s == math.inf else wait_s)
            for stream in late:
                stream.ends_at = math.inf
                stream.end()


class _Stream:
    """One call that stays open. ``ends_at``: when its search must have been answered."""

    def __init__(self, method: Callable[[Iterator[wire.SearchRequest]], grpc.Call]) -> None:
        self.ends_at = math.inf
        self._requests: queue.SimpleQueue[wire.SearchRequest | None] = queue.SimpleQueue()
        try:
            self._answers = method(iter(self._requests.get, None))
            keep_until_ended(self._answers)
        except BaseException:
            self._requests.put(None)  # Nobody else has it yet who could end it.
            raise

    def ask(self, request: wire.SearchRequest) -> wire.SearchResponse:
        self._requests.put(request)
        answer: wire.SearchResponse = next(self._answers)
        return answer

    def end(self) -> None:
        self._requests.put(None)
        self._answers.cancel()
