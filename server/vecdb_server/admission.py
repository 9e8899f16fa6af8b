"""Who comes in: calls wait for their message without a worker, and everything has a bound.

    open       a call is open from its headers to its end; so many may be, and one more ends the
               open call that has waited for its message for longest, or is refused
    received   its message may come slowly, or never: of those that have waited for a while, only a
               few may go on waiting, which also bounds the bytes of messages that are half there
    at work    with its message it waits for one of the workers, until its deadline
    sent       an answer that its caller does not take may be let go where memory is short
    placed     writes, long work and open streams have a place instead, or are refused at once

A call that is ended to make room for others is cancelled: it had sent nothing that was handled.
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

__all__ = ["Place", "Places", "Reception", "Unread", "Workers"]

_PATIENCE_S: Final = 1.0
"""A message that takes longer comes slowly."""

_LOOKS_A_PATIENCE: Final = 4

_ASK_AGAIN_S: Final = 1.0
"""How often a call that waits for a worker asks whether its caller is still there."""


class Reception:
    """The open calls, and those of them whose message is still to come. For many threads.

    Args:
        calls_max: calls that may be open.
        slow_max: calls that may wait for their message for longer than a moment.
    """

    def __init__(self, calls_max: int, slow_max: int) -> None:
        self._calls_max, self._slow_max = calls_max, slow_max
        # Changed by single steps of dict, which need no lock; both are in the order of arrival.
        self._open: dict[grpc.ServicerContext, None] = {}
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._lock = threading.Lock()
        self._guard: threading.Thread | None = None

    @property
    def open_count(self) -> int:
        """Calls that are open."""
        return len(self._open)

    def enter(self, context: grpc.ServicerContext) -> None:
        """A call has come; ``leave`` is to follow, unless it is refused.

        Raises:
            ResourceExhaustedError: TOO_MANY_CALLS.
        """
        if len(self._open) >= self._calls_max and not self.end_longest_wait():
            raise ResourceExhaustedError(
                f"{len(self._open)} calls are open, at most {self._calls_max} may be; try again "
                "shortly",
                Reason.TOO_MANY_CALLS,
            )
        self._open[context] = None

    def leave(self, context: grpc.ServicerContext) -> None:
        """It has ended."""
        self._open.pop(context, None)

    def receive(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes | None:
        """Its first message, None if its caller has ended it without one.

        Raises:
            grpc.RpcError: the caller has gone, or the call was ended to make room.
        """
        self._waiting[context] = time.monotonic()
        try:
            if len(self._waiting) > self._slow_max:
                self._call_guard()
            return next(requests, None)
        finally:
            self._waiting.pop(context, None)

    def end_longest_wait(self) -> bool:
        """End the call that has waited for its message for longest; False if none waits."""
        for context in list(self._waiting):
            # Of those that come here at once each takes another one.
            if self._waiting.pop(context, None) is not None:
                self._open.pop(context, None)
                context.cancel()
                return True
        return False

    def _call_guard(self) -> None:
        with self._lock:
            if self._guard is None:
                self._guard = threading.Thread(
                    target=self._keep_few_waiting, name="vecdb-reception", daemon=True
                )
                self._guard.start()

    def _keep_few_waiting(self) -> None:
        """Until there are few, end those that have waited for longest and for too long."""
        while True:
            excess = len(self._waiting) - self._slow_max
            if excess <= 0:
                with self._lock:
                    # Who comes later calls for another.
                    if len(self._waiting) <= self._slow_max:
                        self._guard = None
                        return
                continue
            late = time.monotonic() - _PATIENCE_S
            for since in list(self._waiting.values())[:excess]:
                if since > late or not self.end_longest_wait():
                    break
            time.sleep(_PATIENCE_S / _LOOKS_A_PATIENCE)


class Unread:
    """Answers on their way to callers, who may never take them; until then they hold memory.

    Args:
        old_s: how long a caller may always take.
    """

    def __init__(self, old_s: float) -> None:
        self.old_s = old_s
        self._since: dict[
            grpc.ServicerContext, float
        ] = {}  # Changed by single steps; in the order of sending.

    @contextmanager
    def answer(self, context: grpc.ServicerContext) -> Iterator[None]:
        """It is on its way until this ends."""
        self._since[context] = time.monotonic()
        try:
            yield
        finally:
            self._since.pop(context, None)

    def end_old(self) -> None:
        """End the calls whose answers were not taken for long."""
        old = time.monotonic() - self.old_s
        for context, since in list(self._since.items()):
            if since <= old:
                context.cancel()


class Workers:
    """How many calls are worked on at once; further ones wait for their turn."""

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def take(self, call: grpc.ServicerContext) -> None:
        """Have one, which ``give_back`` is to follow.

        Raises:
            DeadlineExceededError, CancelledError: before there was one.
        """
        try:
            self._free.get_nowait()
        except queue.Empty:
            self._wait(call)

    def give_back(self) -> None:
        """For the next call."""
        self._free.put(None)

    def _wait(self, call: grpc.ServicerContext) -> None:
        while True:
            left_s = call.time_remaining()
            if left_s is not None and left_s <= 0:
                raise DeadlineExceededError(
                    "the deadline passed while the call waited for its turn"
                )
            if not call.is_active():
                raise CancelledError("the caller has gone")
            wait_s = _ASK_AGAIN_S if left_s is None else min(_ASK_AGAIN_S, left_s)
            try:
                self._free.get(timeout=wait_s)
                return
            except queue.Empty:
                pass


class Place:
    """What a call holds that has a place.

    Attributes:
        idle_since: by time.monotonic, since when nothing has come from its caller that it waits
            for; infinite while it is at work.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        self.context = context
        self.idle_since = math.inf

    def rest(self) -> None:
        """It waits for its caller from now on."""
        self.idle_since = time.monotonic()

    def work(self) -> None:
        """It does not any more."""
        self.idle_since = math.inf


class Places:
    """How many calls of a kind may be under way. With none free, the one that is idle for longest
    gives its own to a new one, if that is long enough; else the new one is refused, never kept
    waiting.

    Args:
        reason, refusal: of the error; the sentence behind how many there are.
        idle_s: how long is long enough.
    """

    def __init__(self, reason: str, refusal: str, count: int, idle_s: float = math.inf) -> None:
        self._reason, self._refusal = reason, refusal
        self._count = count
        self.idle_s = idle_s
        self._lock = threading.Lock()
        self._taken: set[Place] = set()

    @contextmanager
    def taken(self, context: grpc.ServicerContext) -> Iterator[Place]:
        """Have one.

        Raises:
            ResourceExhaustedError: none is free.
        """
        place, ended = Place(context), None
        with self._lock:
            if len(self._taken) >= self._count:
                ended = min(self._taken, key=lambda each: each.idle_since)
                if time.monotonic() - ended.idle_since < self.idle_s:
                    raise ResourceExhaustedError(f"{self._count} {self._refusal}", self._reason)
                self._taken.remove(ended)
            self._taken.add(place)
        if ended is not None:
            ended.context.cancel()
        try:
            yield place
        finally:
            with self._lock:
                self._taken.discard(place)
