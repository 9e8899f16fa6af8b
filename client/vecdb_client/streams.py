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
from typing import Any, Final

import grpc

from vecdb_client.channel import interrupt_in
from vecdb_proto import vecdb_pb2 as wire

__all__ = ["SearchStreams"]

_STREAMS_MAX: Final = 4
"""Open streams of a client; each one holds a thread of the server."""

_REFUSED_PAUSE_S: Final = 10.0
"""A server that has no thread for a stream is not asked again before this."""

_SERVER_MAY_BE_LATE_S: Final = 0.25
"""It answers when a deadline has passed; only if it doesn't do that either, the stream is cut."""


class SearchStreams:
    """The open streams of a client. Safe to use from many threads.

    Args:
        method: the stub's ``SearchStream``.
    """

    def __init__(self, method: Any) -> None:
        self._method = method
        self._idle: list[_Stream] = []
        self._open: set[_Stream] = set()
        # Taken as it is and not through the condition, whose steps an interrupt may come between.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._searched_once = False
        self._refused_until = -math.inf
        self._guard: threading.Thread | None = None
        self._guard_looks_at = math.inf

    def ask(self, request: wire.SearchRequest, timeout_s: float | None) -> Any:
        """The answer, whose ``failure`` may be set, or None: then send the search as a call.

        Args:
            timeout_s: seconds, None for no end.
        """
        stream = self._take()
        if stream is None:
            return None
        try:
            if timeout_s is not None:
                request.timeout_us = max(1, int(1e6 * timeout_s))
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
        except Exception as error:
            if interrupt_in(error) is None:
                self._drop(stream)
            raise
        # One whose search was interrupted would give the next search the answer to that; the client
        # closes all of them then.
        stream.ends_at = math.inf
        self._idle.append(stream)
        return answer

    def close(self) -> None:
        """End all streams; searches under way in other threads end with them."""
        with self._lock:
            self._closed = True
            self._idle.clear()
            streams, self._open = self._open, set()
            self._changed.notify_all()
        for stream in streams:
            stream.end()

    def _take(self) -> _Stream | None:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with self._lock:
            if self._closed or len(self._open) >= _STREAMS_MAX:
                return None
            if not self._searched_once:
                # A single search is not worth a stream.
                self._searched_once = True
                return None
            if time.monotonic() < self._refused_until:
                return None
            stream = _Stream(self._method)
            self._open.add(stream)
            return stream

    def _drop(self, stream: _Stream) -> None:
        with self._lock:
            self._open.discard(stream)
        stream.end()

    def _wake_guard(self) -> None:
        with self._lock:
            if self._guard is None:
                self._guard = threading.Thread(
                    target=self._run_guard, name="vecdb-client-deadlines", daemon=True
                )
                self._guard.start()
            self._changed.notify_all()

    def _run_guard(self) -> None:
        with self._lock:
            while not self._closed:
                # Set before the streams are read: a search that begins meanwhile wakes us again.
                self._guard_looks_at = math.inf
                now = time.monotonic()
                for stream in self._open:
                    if stream.ends_at <= now:
                        stream.end()
                ends = [s.ends_at for s in self._open if s.ends_at > now]
                self._guard_looks_at = min(ends, default=math.inf)
                wait_s = self._guard_looks_at - now
                self._changed.wait(None if wait_s == math.inf else wait_s)


class _Stream:
    """One call that stays open. ``ends_at``: when its search must have been answered."""

    def __init__(self, method: Any) -> None:
        self.ends_at = math.inf
        self._requests: queue.SimpleQueue[wire.SearchRequest | None] = queue.SimpleQueue()
        self._answers = method(iter(self._requests.get, None))

    def ask(self, request: wire.SearchRequest) -> Any:
        self._requests.put(request)
        return next(self._answers)

    def end(self) -> None:
        self._requests.put(None)
        self._answers.cancel()
