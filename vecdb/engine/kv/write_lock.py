"""Waiting for LMDB's write lock with a limit.

LMDB has one write lock per store, shared by all processes, and waiting for it cannot be
interrupted: if the process that holds it is stopped (SIGSTOP, a debugger), all others wait until it
continues or ends. So a separate thread waits (``BlockingCall``). Its caller gives up once the lock
was awaited for ``PATIENCE_S`` seconds without a commit by any process (``WriteLock``): the store is
stuck. While it is stuck, further writes are rejected at once. If a thread gets the lock after its
caller gave up, it aborts its transaction.

Opening a store takes the lock too, and a process must not open a store twice. So an opening whose
caller gave up continues, and the next caller takes its result (``PendingOpenings``).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from vecdb.engine.kv.lmdb_pages import last_transaction
from vecdb.engine.kv.transaction import Transaction
from vecdb.errors import ResourceExhaustedError, UnavailableError
from vecdb.reasons import Reason

__all__ = [
    "POLL_S",
    "BlockingCall",
    "PendingOpenings",
    "Reservation",
    "WriteLock",
    "run_reserved",
    "start_thread",
]

Result = TypeVar("Result")

PATIENCE_S: Final = 5.0
"""Far longer than a transaction of vecdb takes (``GROUP_BYTES_MAX``), even on a slow disk."""

POLL_S: Final = 0.1


def start_thread(function: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread.

    Raises:
        ResourceExhaustedError: OUT_OF_MEMORY: the system cannot start another thread.
    """
    try:
        thread = threading.Thread(target=function, name=name, daemon=True)
        thread.start()
    except RuntimeError as error:
        raise ResourceExhaustedError(
            f"cannot start a thread, nothing was written ({error})", Reason.OUT_OF_MEMORY
        ) from error
    return thread


class WriteLock:
    """How long this process has been waiting for the write lock of one store. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._waiting = 0
        self._since = 0.0
        self._seen: int | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether a thread of this process waits for the lock."""
        return self._waiting > 0

    def begin_wait(self) -> None:
        """Record that a thread begins to wait."""
        with self._guard:
            if self._waiting == 0:
                self._seen = None
            self._waiting += 1

    def end_wait(self) -> None:
        """Record that a thread has stopped waiting: it has the lock, or failed."""
        with self._guard:
            self._waiting -= 1
            self._seen = None

    def is_stuck(self) -> bool:
        """Return whether the lock has been awaited for ``PATIENCE_S`` seconds without a commit.

        Call it repeatedly while waiting: the time counts from the first call.
        """
        with self._guard:
            if self._waiting == 0:
                return False
            now = time.monotonic()
            if self._seen is not None and now - self._since < PATIENCE_S:
                return False
            last = last_transaction(self._folder / "data.mdb") or 0
            if last != self._seen:
                self._seen, self._since = last, now
                return False
            return True

    def check(self) -> None:
        """Raise if the lock is stuck.

        Raises:
            UnavailableError: STORE_LOCKED.
        """
        if self.is_stuck():
            raise self.error()

    def error(self) -> UnavailableError:
        """Return the error for a stuck lock."""
        return UnavailableError(
            f"another process has held the write lock of {self._folder} for more than "
            f"{PATIENCE_S:g} s without a commit, nothing was written; continue or end that process "
            "if it was stopped, and retry",
            Reason.STORE_LOCKED,
        )


class Reservation:
    """Decides once between the thread that does some work and the caller that gives it up."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: str | None = None

    def take(self, owner: str) -> bool:
        """Return True if ``owner`` made the reservation, with this or an earlier call."""
        with self._guard:
            if self._owner is None:
                self._owner = owner
            return self._owner == owner


class BlockingCall(Generic[Result]):
    """A call in a separate thread, since it may block in C. It starts at once."""

    def __init__(self, function: Callable[[], Result], name: str) -> None:
        self._function = function
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = start_thread(self._run, name)

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait at most this many seconds; return whether the call has ended."""
        return self._done.wait(seconds)

    def result(self) -> Result:
        """Return or raise the outcome of the call; wait until it has ended."""
        self._thread.join()  # So that its stack is free for the next thread if memory is short.
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # Break the cycle through its traceback to this frame.
        result: Result = self._result
        return result


class _GivenUpError(Exception):
    """The caller has given up; the transaction is aborted."""


def run_reserved(
    lock: WriteLock,
    transact: Callable[[Callable[[Transaction], Result]], Result],
    function: Callable[[Transaction], Result],
) -> Result:
    """Run ``transact(function)`` in a separate thread; give up if the lock is stuck.

    Raises:
        UnavailableError: STORE_LOCKED: ``function`` was not run and will not be run.
    """
    lock.check()
    reserve = Reservation()

    def reserved(transaction: Transaction) -> Result:
        if not reserve.take("thread"):
            raise _GivenUpError
        return function(transaction)

    call = BlockingCall(lambda: transact(reserved), "vecdb-transaction")
    while not call.wait(POLL_S):
        if lock.is_stuck() and reserve.take("caller"):
            raise lock.error()
    return call.result()


class PendingOpenings:
    """Openings of stores in progress in this process, by folder. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._pending: dict[str, tuple[WriteLock, BlockingCall[Any]]] = {}

    def run(self, folder: Path, function: Callable[[], Result]) -> Result:
        """Return the result of ``function()``, or of an earlier call for this folder whose callers
        gave up.

        Raises:
            UnavailableError: STORE_LOCKED: the lock is stuck; the opening continues.
        """
        key = os.path.realpath(folder)
        while True:
            with self._guard:
                if key not in self._pending:
                    lock = WriteLock(folder)
                    lock.begin_wait()
                    call = BlockingCall(function, "vecdb-open-store")
                    self._pending[key] = lock, call
                lock, call = self._pending[key]
            while not call.wait(POLL_S):
                lock.check()
            with self._guard:
                if self._pending.get(key) != (lock, call):
                    continue  # Another thread has taken the result.
                del self._pending[key]
            return call.result()

    def forget(self) -> None:
        """Discard all in a forked child: the threads exist only in the parent."""
        self._guard = threading.Lock()
        self._pending = {}
