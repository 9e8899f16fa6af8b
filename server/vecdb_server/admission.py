"""Admission of calls: each stage of a call has a limit, and no worker waits for a message.

    open       a call is open from its headers to its end. At the limit, a new call ends the open
               call that has waited for its message for longest; if none waits, it is rejected
    receiving  a message may arrive slowly, or never. Only a few calls may wait for longer than a
               second, which also bounds the memory of partly received messages
    working    with its message, a call waits for a worker, until its deadline
    slots      writes, long work and open streams need a slot of their kind, or are rejected
    sending    if memory is short, calls whose answers are not read are ended

A call that is ended to make room for others is cancelled. The server has not acted on any of its
messages.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from vecdb.errors import (
    CancelledError,
    DeadlineExceededError,
    ResourceExhaustedError,
)
from vecdb.reasons import Reason

__all__ = ["Activity", "OpenCalls", "Slot", "Slots", "UnreadAnswers", "Workers"]

_PATIENCE_S: Final = 1.0
"""A message that takes longer to arrive is slow."""

_CHECKS_PER_PATIENCE: Final = 4

_CALLER_POLL_S: Final = 1.0
"""Interval at which a call that waits for a worker checks whether its caller is still there."""


class OpenCalls:
    """The open calls, and those of them that wait for their message. Thread-safe.

    Args:
        calls_max: maximum of open calls.
        slow_max: maximum of calls that wait for their message for longer than ``_PATIENCE_S``.
    """

    def __init__(self, calls_max: int, slow_max: int) -> None:
        self._calls_max, self._slow_max = calls_max, slow_max
        # Changed by single operations of dict, which are atomic, so that no lock is needed. Both
        # are in the order of arrival.
        self._open: dict[grpc.ServicerContext, None] = {}
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._lock = threading.Lock()
        self._reaper: threading.Thread | None = None

    @property
    def open_count(self) -> int:
        """Number of open calls."""
        return len(self._open)

    def enter(self, context: grpc.ServicerContext) -> None:
        """Admit a call. Call ``leave`` at its end, unless it is rejected.

        Raises:
            ResourceExhaustedError: TOO_MANY_CALLS.
        """
        if len(self._open) >= self._calls_max and not self.end_longest_wait():
            raise ResourceExhaustedError(
                f"too many open calls ({len(self._open)}, limit {self._calls_max}); retry later",
                Reason.TOO_MANY_CALLS,
            )
        self._open[context] = None

    def leave(self, context: grpc.ServicerContext) -> None:
        """Remove a call that has ended."""
        self._open.pop(context, None)

    def receive(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes | None:
        """Wait for the first message of a call; None if the caller ended the call without one.

        Raises:
            grpc.RpcError: the caller has gone, or the call was ended to make room.
        """
        self._waiting[context] = time.monotonic()
        try:
            if len(self._waiting) > self._slow_max:
                self._start_reaper()
            return next(requests, None)
        finally:
            self._waiting.pop(context, None)

    def end_longest_wait(self) -> bool:
        """End the call that has waited for its message for longest; False if none waits."""
        for context in list(self._waiting):
            # Threads that arrive here at once each end a different call.
            if self._waiting.pop(context, None) is not None:
                self._open.pop(context, None)
                context.cancel()
                return True
        return False

    def _start_reaper(self) -> None:
        with self._lock:
            if self._reaper is None:
                self._reaper = threading.Thread(
                    target=self._end_slow_calls, name="vecdb-reception", daemon=True
                )
                self._reaper.start()

    def _end_slow_calls(self) -> None:
        """End slow calls, the longest wait first, until at most ``slow_max`` calls wait."""
        while True:
            excess = len(self._waiting) - self._slow_max
            if excess <= 0:
                with self._lock:
                    # A later call starts another thread.
                    if len(self._waiting) <= self._slow_max:
                        self._reaper = None
                        return
                continue
            late = time.monotonic() - _PATIENCE_S
            for since in list(self._waiting.values())[:excess]:
                if since > late or not self.end_longest_wait():
                    break
            time.sleep(_PATIENCE_S / _CHECKS_PER_PATIENCE)


class UnreadAnswers:
    """Answers that are being sent. A caller may never read its answer, which holds memory.

    Args:
        old_s: seconds for which a caller may leave its answer unread in any case.
    """

    def __init__(self, old_s: float) -> None:
        self.old_s = old_s
        # Changed by single, atomic operations; in the order of sending.
        self._since: dict[grpc.ServicerContext, float] = {}

    @contextmanager
    def answer(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count the answer of a call as unread until the end of the block."""
        self._since[context] = time.monotonic()
        try:
            yield
        finally:
            self._since.pop(context, None)

    def end_old(self) -> None:
        """End the calls whose answers have been unread for ``old_s`` seconds."""
        old = time.monotonic() - self.old_s
        for context, since in list(self._since.items()):
            if since <= old:
                context.cancel()


class Workers:
    """Limits how many calls run at once; further ones wait. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def take(self, call: grpc.ServicerContext) -> None:
        """Acquire a worker. Call ``release`` afterwards.

        Raises:
            DeadlineExceededError, CancelledError: before a worker was free.
        """
        try:
            self._free.get_nowait()
        except queue.Empty:
            self._wait(call)

    def release(self) -> None:
        """Release a worker for the next call."""
        self._free.put(None)

    def _wait(self, call: grpc.ServicerContext) -> None:
        while True:
            left_s = call.time_remaining()
            if left_s is not None and left_s <= 0:
                raise DeadlineExceededError(
                    "the deadline passed while the call waited for a worker"
                )
            if not call.is_active():
                raise CancelledError("the caller has gone")
            wait_s = _CALLER_POLL_S if left_s is None else min(_CALLER_POLL_S, left_s)
            try:
                self._free.get(timeout=wait_s)
                return
            except queue.Empty:
                pass


class Slot:
    """The slot of one call.

    Attributes:
        idle_since: time.monotonic() since which the call waits for its caller; infinite while it
            works.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        self.context = context
        self.idle_since = math.inf

    def set_idle(self) -> None:
        """Record that the call waits for its caller from now on."""
        self.idle_since = time.monotonic()

    def set_busy(self) -> None:
        """Record that the call works from now on."""
        self.idle_since = math.inf


class Slots:
    """Limits the concurrent calls of a kind. Thread-safe.

    If no slot is free, a new call ends the call that has been idle for longest and takes its slot,
    if that was idle for ``idle_s`` seconds; else the new call is rejected at once.

    Args:
        reason: reason of the error.
        calls: name of the calls in the message, in the plural.
        count: number of slots.
        idle_s: seconds after which an idle call may be ended.
        hint: what to do, at the end of the message.
    """

    def __init__(
        self,
        reason: str,
        calls: str,
        count: int,
        idle_s: float = math.inf,
        *,
        hint: str = "retry later",
    ) -> None:
        self._reason = reason
        self._message = f"too many concurrent {calls} (limit {count}); {hint}"
        self._count = count
        self.idle_s = idle_s
        self._lock = threading.Lock()
        self._taken: set[Slot] = set()

    @contextmanager
    def taken(self, context: grpc.ServicerContext) -> Iterator[Slot]:
        """Hold a slot during the block.

        Raises:
            ResourceExhaustedError: no slot is free.
        """
        slot, ended = Slot(context), None
        with self._lock:
            if len(self._taken) >= self._count:
                ended = min(self._taken, key=lambda each: each.idle_since)
                if time.monotonic() - ended.idle_since < self.idle_s:
                    raise ResourceExhaustedError(self._message, self._reason)
                self._taken.remove(ended)
            self._taken.add(slot)
        if ended is not None:
            ended.context.cancel()
        try:
            yield slot
        finally:
            with self._lock:
                self._taken.discard(slot)


class Activity:
    """Counts the running calls, so that a drain can wait for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self.count = 0

    def enter(self) -> None:
        """Count a call that begins."""
        with self._changed:
            self.count += 1

    def leave(self) -> None:
        """Count a call that has ended."""
        with self._changed:
            self.count -= 1
            if self.count == 0:
                self._changed.notify_all()

    def wait_for_none(self, timeout_s: float) -> bool:
        """Wait until no call is running; return False after ``timeout_s`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count == 0, timeout_s)
