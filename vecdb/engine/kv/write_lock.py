"""Waiting for LMDB's write lock without waiting for ever.

LMDB has one write lock a store, shared by all processes, and its wait for it can't be ended: if the
process that holds it was stopped (SIGSTOP, a debugger), whoever wants it waits until that one goes
on or ends. So a thread of its own does the waiting (``Errand``), and its caller gives up once the
lock was wanted for ``PATIENCE_S`` seconds in which nobody committed anything (``WriteLock``): the
store is stuck. While it is, all who want to write there are refused at once. A thread that gets the
lock after its caller has given up changes nothing.

Opening a store takes the lock too, and a store must not be opened twice in a process: an opening
that its caller has given up goes on, and the next one takes its result (``Openings``).
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
    "Errand",
    "Openings",
    "Reservation",
    "WriteLock",
    "run_reserved",
    "start_thread",
]

Result = TypeVar("Result")

PATIENCE_S: Final = 5.0
"""Far longer than a transaction of ours takes (``GROUP_BYTES_MAX``), on a slow disk too."""

POLL_S: Final = 0.1


def start_thread(function: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread.

    Raises:
        ResourceExhaustedError: OUT_OF_MEMORY, the system gives no further one.
    """
    try:
        thread = threading.Thread(target=function, name=name, daemon=True)
        thread.start()
    except RuntimeError as error:
        raise ResourceExhaustedError(
            f"no thread could be started, nothing was written ({error})", Reason.OUT_OF_MEMORY
        ) from error
    return thread


class WriteLock:
    """The write lock of one store as this process sees it. Safe to use from many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._waiting = 0
        self._since = 0.0
        self._seen: int | None = None

    @property
    def wanted(self) -> bool:
        """A thread of this process waits for it."""
        return self._waiting > 0

    def ask(self) -> None:
        """A thread begins to wait."""
        with self._guard:
            if self._waiting == 0:
                self._seen = None
            self._waiting += 1

    def got(self) -> None:
        """A thread has waited: it has the lock, or has failed."""
        with self._guard:
            self._waiting -= 1
            self._seen = None

    def is_stuck(self) -> bool:
        """It was wanted for too long, and nobody commits. To be asked again and again while one
        waits: the time counts from the first question."""
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
        """Raise if it is stuck.

        Raises:
            UnavailableError: STORE_LOCKED.
        """
        if self.is_stuck():
            raise self.error()

    def error(self) -> UnavailableError:
        """What is raised then."""
        return UnavailableError(
            f"another process has held the write lock of {self._folder} for more than "
            f"{PATIENCE_S:g} s without a commit, nothing was written; continue or end that process "
            "if it was stopped, and retry",
            Reason.STORE_LOCKED,
        )


class Reservation:
    """Who decides on a piece of work: the thread that does it, or the caller that gives it up."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: str | None = None

    def take(self, owner: str) -> bool:
        """True if it is this one's, now or since an earlier call."""
        with self._guard:
            if self._owner is None:
                self._owner = owner
            return self._owner == owner


class Errand(Generic[Result]):
    """A call in a thread of its own, since it may block in C. It begins at once."""

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
        """Whether it has ended, after this many seconds at most."""
        return self._done.wait(seconds)

    def result(self) -> Result:
        """What it returned or raised, once it has ended."""
        self._thread.join()  # The next one takes over its stack, where there is no room for two.
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # Its traceback leads back to here.
        result: Result = self._result
        return result


class _GivenUpError(Exception):
    """The caller did not wait any longer; the transaction is aborted."""


def run_reserved(
    lock: WriteLock,
    transact: Callable[[Callable[[Transaction], Result]], Result],
    function: Callable[[Transaction], Result],
) -> Result:
    """``transact(function)`` in a thread of its own, given up if the lock is stuck.

    Raises:
        UnavailableError: STORE_LOCKED, ``function`` was not run and will not be.
    """
    lock.check()
    reserve = Reservation()

    def claimed(transaction: Transaction) -> Result:
        if not reserve.take("thread"):
            raise _GivenUpError
        return function(transaction)

    errand = Errand(lambda: transact(claimed), "vecdb-transaction")
    while not errand.wait(POLL_S):
        if lock.is_stuck() and reserve.take("caller"):
            raise lock.error()
    return errand.result()


class Openings:
    """Openings of stores that are under way in this process, by folder."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._under_way: dict[str, tuple[WriteLock, Errand[Any]]] = {}

    def run(self, folder: Path, function: Callable[[], Result]) -> Result:
        """``function()``, or what an earlier call for this folder gave that nobody waited for.

        Raises:
            UnavailableError: STORE_LOCKED; it goes on.
        """
        key = os.path.realpath(folder)
        while True:
            with self._guard:
                if key not in self._under_way:
                    lock = WriteLock(folder)
                    lock.ask()
                    errand = Errand(function, "vecdb-open-store")
                    self._under_way[key] = lock, errand
                lock, errand = self._under_way[key]
            while not errand.wait(POLL_S):
                lock.check()
            with self._guard:
                if self._under_way.get(key) != (lock, errand):
                    continue  # Another thread has its result.
                del self._under_way[key]
            return errand.result()

    def forget(self) -> None:
        """After a fork: the threads are the parent's."""
        self._guard = threading.Lock()
        self._under_way = {}
