"""One LMDB environment: the only module that imports lmdb.

What it adds to lmdb: a gate, growth of the map, and our errors instead of LMDB's.

The gate is a read-write lock. Every transaction, and every buffer that came from one, lives inside
its shared side; what must not happen beside a live transaction (growing the map, following another
process's growth, closing) takes the exclusive side, since LMDB would crash the process instead.

Nothing is waited for inside a transaction. Reading: ``with environment.read() as transaction``.
Writing: ``environment.transact(function)``, which runs ``function(transaction)`` and commits; if
the map was full it grows and runs the function again, so the function must not keep what it did.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from vecdb.errors import (
    DataLossError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    VecdbError,
)

__all__ = ["Environment"]

Result = TypeVar("Result")
READERS_MAX = 4096
_LMDB_FORMAT_0_9 = 0


class _Gate:
    """Many may be inside, or one alone. Who waits for the exclusive side holds newcomers back."""

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._inside = 0
        self._closing = False

    def enter(self) -> None:
        with self._condition:
            while self._closing:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._condition:
            self._inside -= 1
            if self._closing and self._inside == 0:
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._condition:
            while self._closing:
                self._condition.wait()
            self._closing = True
        try:
            with self._condition:
                while self._inside:
                    self._condition.wait()
            yield
        finally:
            with self._condition:
                self._closing = False
                self._condition.notify_all()


class Environment:
    """An LMDB environment with its named databases. Safe to use from many threads.

    Args:
        folder: where data.mdb lies.
        databases: names of the databases, opened (made, if ``create``) at once.
        create: make what is not there; without it a missing file is NotFoundError.
        map_bytes: address space to reserve at least.
    """

    def __init__(
        self, folder: Path, databases: tuple[bytes, ...], *, create: bool, map_bytes: int
    ) -> None:
        self.folder = folder
        self._gate = _Gate()
        self._failed: str | None = None
        self._closed: VecdbError | None = None
        file = folder / "data.mdb"
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        elif not file.is_file():
            raise NotFoundError(f"{folder} holds no store", "STORE_MISSING")
        held = file.stat().st_size if file.is_file() else 0
        while map_bytes < 2 * held:
            map_bytes *= 2
        with _translated(folder):
            self._lmdb: Any = lmdb.open(
                os.fspath(folder),
                map_size=map_bytes,
                max_dbs=len(databases) + 4,
                max_readers=READERS_MAX,
                create=create,
                lib_version=_LMDB_FORMAT_0_9,
            )
            self._lmdb.reader_check()
            self._databases = {name: self._lmdb.open_db(name, create=create) for name in databases}

    def database(self, name: bytes) -> Any:
        """The handle that cursors and transactions take."""
        return self._databases[name]

    @contextlib.contextmanager
    def read(self) -> Iterator[Any]:
        """A read transaction; its buffers end with it. Keep it under a second and wait for
        nothing."""
        transaction = self._begin(write=False)
        try:
            with _translated(self.folder):
                yield transaction
        finally:
            transaction.abort()
            self._gate.leave()

    def last_commit(self) -> int:
        """Number of the last transaction that was committed, by whichever process.

        While it stays the same nothing has changed. It comes from LMDB's meta page without a
        transaction, which is the cheapest way to ask.
        """
        self._gate.enter()
        try:
            if self._closed is not None:
                raise type(self._closed)(self._closed.message, self._closed.reason)
            number: int = self._lmdb.info()["last_txnid"]
            return number
        finally:
            self._gate.leave()

    def transact(self, function: Callable[[Any], Result]) -> Result:
        """Run ``function(transaction)`` in a write transaction and commit it to disk.

        Raises:
            OutcomeUnknownError: the commit failed in its last step; it may be on disk or not.
            ResourceExhaustedError, UnavailableError: nothing was written.
        """
        while True:
            try:
                return self._attempt(function)
            except lmdb.MapFullError:
                self._grow()

    def _attempt(self, function: Callable[[Any], Result]) -> Result:
        transaction = self._begin(write=True)
        try:
            try:
                result = function(transaction)
            except lmdb.MapFullError:
                transaction.abort()
                raise
            except lmdb.Error as error:
                transaction.abort()
                raise _translation(error, self.folder) from error
            except BaseException:
                transaction.abort()
                raise
            self._commit(transaction)
            return result
        finally:
            self._gate.leave()

    def _commit(self, transaction: Any) -> None:
        """A commit that fails before its meta page is simply not there; one that fails while
        writing the meta page leaves LMDB refusing everything, which is how the two are told
        apart."""
        try:
            transaction.commit()
        except lmdb.MapFullError:
            raise
        except (lmdb.Error, OSError) as error:
            try:
                self._lmdb.begin().abort()
            except lmdb.Error:
                self._failed = str(error)
                raise OutcomeUnknownError(
                    f"the commit in {self.folder} failed ({error}): the batch is there whole or "
                    "not at all; after reopening, reads tell which",
                    "OUTCOME_UNKNOWN",
                ) from error
            raise _translation(error, self.folder) from error

    def _begin(self, *, write: bool) -> Any:
        """A transaction, with the gate entered. Other processes may have grown the map: follow."""
        while True:
            self._gate.enter()
            try:
                if self._closed is not None:
                    raise type(self._closed)(self._closed.message, self._closed.reason)
                if self._failed is not None:
                    raise UnavailableError(
                        f"the store in {self.folder} stopped after an error ({self._failed}); "
                        "open it again",
                        "STORE_FAILED",
                    )
                return self._lmdb.begin(write=write, buffers=True)
            except lmdb.MapResizedError:
                self._gate.leave()
                with self._gate.alone(), _translated(self.folder):
                    self._lmdb.set_mapsize(0)
            except lmdb.Error as error:
                self._gate.leave()
                raise _translation(error, self.folder) from error
            except BaseException:
                self._gate.leave()
                raise

    def _grow(self) -> None:
        with self._gate.alone(), _translated(self.folder):
            self._lmdb.set_mapsize(2 * self._lmdb.info()["map_size"])

    def file_bytes(self) -> int:
        """Size of the file on disk."""
        return (self.folder / "data.mdb").stat().st_size

    def close(self, why: VecdbError | None = None) -> None:
        """End it; waits for transactions at hand. Closing twice is fine.

        Args:
            why: raised by every later use; by default that the store is closed.
        """
        with self._gate.alone():
            if self._closed is None:
                self._closed = why or FailedPreconditionError(
                    f"the store in {self.folder} is closed", "CLOSED"
                )
                self._lmdb.close()


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        raise _translation(error, folder) from error


def _translation(error: Exception, folder: Path) -> VecdbError:
    """LMDB's error as ours: the one table for it."""
    text = f"{folder}: {error}"
    if isinstance(error, lmdb.DiskError) or "No space left" in str(error):
        return ResourceExhaustedError(
            f"the disk is full, nothing was written ({text})", "DISK_FULL"
        )
    if isinstance(error, lmdb.MemoryError) or _number(error) == errno.ENOMEM:
        return ResourceExhaustedError(f"out of memory or address space ({text})", "OUT_OF_MEMORY")
    if isinstance(error, lmdb.ReadersFullError | lmdb.TlsFullError | lmdb.TxnFullError):
        return ResourceExhaustedError(f"too much at once for LMDB ({text})", "LMDB_FULL")
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError):
        return DataLossError(f"LMDB finds its file damaged ({text})", "LMDB_CORRUPTED")
    if isinstance(error, lmdb.VersionMismatchError | lmdb.IncompatibleError):
        return FailedPreconditionError(
            f"written by another version of LMDB ({text})", "LMDB_VERSION"
        )
    if isinstance(error, lmdb.PanicError):
        return UnavailableError(
            f"the store stopped after an I/O error; open it again ({text})", "PANIC"
        )
    if "Input/output error" in str(error):
        return UnavailableError(f"I/O error, nothing was written ({text})", "IO_ERROR")
    return InternalError(f"unexpected LMDB error ({type(error).__name__}: {text})", "LMDB")


def _number(error: Exception) -> int | None:
    return getattr(error, "errno", None) or getattr(error, "code", None)
