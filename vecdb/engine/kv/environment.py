"""One LMDB environment: with ``lmdb_files`` and ``lmdb_errors`` all that imports lmdb.

What it adds to lmdb: a gate, growth of the map, reopening, and our errors instead of LMDB's.

The gate is a read-write lock. Every transaction, and every buffer that came from one, lives inside
its shared side; what must not happen beside a live transaction (growing the map, following another
process's growth, closing, reopening) takes the exclusive side, since LMDB would crash the process
instead.

Nothing is waited for inside a transaction. Reading: ``with environment.read() as transaction``.
Writing: ``environment.transact(function)``, which runs ``function(transaction)`` and commits; if
the map was full it grows and runs the function again, so the function must not keep what it did.

An environment can be at rest: closed to save files and address space, and opened again by the next
use. After an I/O error it is opened again in the same way, since LMDB refuses everything once a
meta page could not be written. Reads go on at once then; writes only after a commit of nothing has
reached the disk: what an earlier commit left in the page cache without a sync is durable then too.
While the disk keeps failing, both are tried again ever less often.

Opening waits for LMDB's write lock: named databases are opened in a write transaction, as py-lmdb
keeps no handle that was opened in a read transaction, which it resets instead of committing it.
Behind a process that was stopped both are given up after some seconds (``write_lock.py``).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import lmdb

from vecdb.engine.kv.gate import BackOff, Gate
from vecdb.engine.kv.lmdb_errors import disk_full, located, translated, translation
from vecdb.engine.kv.lmdb_files import open_files
from vecdb.engine.kv.lmdb_pages import check_whole
from vecdb.engine.kv.transaction import DatabaseHandle, Transaction
from vecdb.engine.kv.write_lock import Errand, Openings, WriteLock, run_reserved
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import is_full
from vecdb.engine.system.modes import make_folder, set_file_mode
from vecdb.engine.system.place import Place, not_in_place, unknown_where
from vecdb.errors import (
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
    VecdbError,
)
from vecdb.reasons import Reason

__all__ = ["READERS_MAX", "Environment"]

Result = TypeVar("Result")
READERS_MAX = 4096
_READER_CHECK_S = 10.0
"""Readers that died without a word are looked for this often while there are writes."""

_NOTHING = b"\x00"
"""A key that is never there after a commit."""

_openings = Openings()
os.register_at_fork(after_in_child=_openings.forget)


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
        self.used = True
        """Set by each use; for whoever decides what may rest."""

        self.on_reopen: Callable[[], None] | None = None
        """Called after it was opened again from its rest, in no transaction."""

        self.missing_error: Callable[[], VecdbError] | None = None
        """What is raised if its file is gone, though it was there."""

        self._names, self._map_bytes = databases, map_bytes
        self._gate = Gate()
        self.lock = WriteLock(folder)
        self._closed: VecdbError | None = None
        self._failed: str | None = None  # LMDB refuses everything until it is opened again.
        self._doubtful = False  # No write before a commit has been seen to reach the disk.
        self._opening, self._committing = BackOff(), BackOff()
        self._confirming, self._readers_checked_at = threading.Lock(), time.monotonic()
        if create:
            make_folder(folder, exist_ok=True)
        self._lmdb: lmdb.Environment | None = None
        self._place: Place | None = None
        self._open(create=create)

    def _open(self, *, create: bool) -> None:
        file = self.folder / "data.mdb"
        if not create and not file.is_file():
            raise self._missing()
        held = file.stat().st_size if file.is_file() else 0
        if held or not create:
            check_whole(file)
        map_bytes = self._map_bytes
        while map_bytes < 2 * held:
            map_bytes *= 2
        handle, databases, place = _openings.run(
            self.folder,
            lambda: open_files(
                self.folder,
                self._names,
                create=create,
                map_bytes=map_bytes,
                held=held,
                readers_max=READERS_MAX,
            ),
        )
        if not (place.holds() and (self._place is None or self._place.holds())):
            handle.close()
            raise not_in_place(self.folder)
        self._lmdb, self._databases, self._place = handle, databases, place

    def database(self, name: bytes) -> DatabaseHandle:
        """The handle that cursors and transactions take; ask for it in the transaction, since it
        changes when the environment is opened again."""
        return self._databases[name]

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction; its buffers end with it. Keep it under a second and wait for
        nothing."""
        transaction = self._begin(write=False)
        try:
            with translated(self.folder):
                yield transaction
        finally:
            transaction.abort()
            self._gate.leave()

    def errors_translated(self) -> contextlib.AbstractContextManager[None]:
        """LMDB's errors as ours, for who wants to go on in the same transaction after one."""
        return translated(self.folder)

    def last_commit(self) -> int:
        """Number of the last transaction that was committed, by whichever process.

        While it stays the same nothing has changed. It comes from LMDB's meta page without a
        transaction, which is the cheapest way to ask.
        """
        handle = self._enter()
        try:
            number: int = handle.info()["last_txnid"]
            return number
        finally:
            self._gate.leave()

    def readers(self) -> tuple[int, int]:
        """Open read transactions, of all processes, and how many commits the oldest is behind.

        What was committed since then can't be reused: beside an old reader the file grows.
        """
        handle = self._enter()
        try:
            last: int = handle.info()["last_txnid"]
            # A line a slot: pid, thread, and the transaction's number, or "-" while it has none.
            words = [line.split() for line in handle.readers().splitlines()]
        finally:
            self._gate.leave()
        numbers = [int(w[2]) for w in words if len(w) == 3 and w[0].isdigit() and w[2].isdigit()]
        return len(numbers), max(0, last - min(numbers, default=last))

    def transact(self, function: Callable[[Transaction], Result]) -> Result:
        """Run ``function(transaction)`` in a write transaction and commit it to disk.

        The function is run in another thread, or not at all: if the lock is stuck.

        Raises:
            OutcomeUnknownError: the commit failed in its last step; it may be on disk or not. Or it
                is on disk in a folder that was moved or removed meanwhile.
            ResourceExhaustedError, UnavailableError: nothing was written.
        """
        return run_reserved(self.lock, self.transact_here, function)

    def transact_here(self, function: Callable[[Transaction], Result]) -> Result:
        """``transact`` in this thread, for as long as it takes to get the lock."""
        if self._doubtful:
            self._confirm()
        if time.monotonic() - self._readers_checked_at > _READER_CHECK_S:
            self.forget_dead_readers()
        self.check_in_place()
        result = self._attempt_growing(function)
        # Between commit and acknowledgement; what was dropped since is told as ever.
        if not self.is_in_place():
            error = self._missing()
            raise error if isinstance(error, NotFoundError) else unknown_where(self.folder)
        return result

    def is_in_place(self) -> bool:
        """The file that was opened is the one that has the name."""
        return self._place is not None and self._place.holds()

    def check_in_place(self) -> None:
        """Raise unless the file that was opened is the one that has the name.

        Raises:
            UnavailableError: FOLDER_GONE.
            NotFoundError: the collection was dropped.
        """
        if not self.is_in_place():
            raise self._missing()

    def _check_uncut(self) -> None:
        """Raise if the file was cut short since: what LMDB maps of it would end the process."""
        if self._failed is None and self._place is not None and self._place.is_shorter():
            try:
                check_whole(self.folder / "data.mdb")
            except DataLossError as error:
                self._failed = error.message
                raise

    def _attempt_growing(self, function: Callable[[Transaction], Result]) -> Result:
        while True:
            try:
                return self._attempt(function)
            except lmdb.MapFullError:
                self._grow()

    def _attempt(self, function: Callable[[Transaction], Result]) -> Result:
        transaction = self._begin(write=True)
        try:
            try:
                with located(self.folder):
                    result = function(transaction)
            except lmdb.MapFullError:
                transaction.abort()
                raise
            except lmdb.Error as error:
                transaction.abort()
                raise self._failure(error) from error
            except BaseException:
                transaction.abort()
                raise
            self._commit(transaction)
            return result
        finally:
            self._gate.leave()

    def _commit(self, transaction: lmdb.Transaction) -> None:
        """A commit that fails before its meta page is simply not there; one that fails while
        writing the meta page leaves LMDB refusing everything, which is how the two are told
        apart."""
        try:
            failpoint("commit.begin")
            transaction.commit()
        except lmdb.MapFullError:
            raise
        except (lmdb.Error, OSError) as error:
            transaction.abort()
            try:
                assert self._lmdb is not None
                self._lmdb.begin().abort()
            except lmdb.Error:
                raise self._outcome_unknown(error) from error
            raise self._failure(error) from error
        try:
            failpoint("commit.end")
        except OSError as error:
            raise self._outcome_unknown(error) from error

    def _outcome_unknown(self, error: Exception) -> OutcomeUnknownError:
        self._failed, self._doubtful = str(error), True
        return OutcomeUnknownError(
            f"the commit in {self.folder} failed ({error}): the batch is there whole or "
            "not at all; reading tells which",
            Reason.OUTCOME_UNKNOWN,
        )

    def _failure(self, error: Exception) -> VecdbError:
        """Our error for one of LMDB's in a write; after an I/O error the environment is suspect."""
        told = translation(error, self.folder)
        if told.reason == Reason.IO_ERROR and is_full(self.folder, self.file_bytes()):
            # LMDB takes a write that was cut short, as a full disk does it, for an I/O error.
            return disk_full(f"{self.folder}: {error}")
        if isinstance(told, UnavailableError):
            self._failed, self._doubtful = str(error), True
        return told

    def _enter(self) -> lmdb.Environment:
        """Go inside the gate, with the environment open: what LMDB's handle is now.

        Raises:
            UnavailableError: it failed, and it is too early to try again.
            DataLossError: STORE_CUT.
        """
        self._check_uncut()
        while True:
            self._gate.enter()
            if self._closed is None and self._failed is None and self._lmdb is not None:
                self.used = True
                return self._lmdb
            self._gate.leave()
            self._reopen()

    def copy(self, folder: Path) -> None:
        """Write the last commit into a folder, as an environment of its own without free pages.

        Nothing is fsynced. One read transaction is held until the end, so that the file grows if
        others write meanwhile, and who wants to grow or close this environment waits: for a process
        that has it open for nothing else.
        """
        with self.read() as transaction:
            assert self._lmdb is not None and isinstance(transaction, lmdb.Transaction)
            try:
                self._lmdb.copy(os.fspath(folder), compact=True, txn=transaction)
                set_file_mode(folder / "data.mdb")
            except lmdb.IncompatibleError as error:
                # What LMDB says when the pages in use are not as many as they should be.
                raise DataLossError(
                    f"LMDB finds its file damaged ({self.folder}: {error})", Reason.LMDB_CORRUPTED
                ) from error
            except lmdb.Error as error:
                raise translation(error, f"{self.folder} copied to {folder}") from error

    def _begin(self, *, write: bool) -> lmdb.Transaction[memoryview]:
        """A transaction, with the gate entered. Other processes may have grown the map: follow."""
        readers_checked = False
        while True:
            handle = self._enter()
            try:
                if not write:
                    return handle.begin(buffers=True)
                self.lock.ask()
                try:
                    return handle.begin(write=True, buffers=True)
                finally:
                    self.lock.got()
            except lmdb.MapResizedError:
                self._gate.leave()
                with self._gate.alone(self.lock.check), translated(self.folder):
                    if self._lmdb is handle and self._failed is None:
                        self._resize(handle, 0)
            except lmdb.PanicError as error:
                self._gate.leave()
                self._failed, self._doubtful = str(error), True
            except lmdb.ReadersFullError as error:
                self._gate.leave()
                if readers_checked:
                    raise translation(error, self.folder) from error
                readers_checked = True
                self.forget_dead_readers()
            except lmdb.Error as error:
                self._gate.leave()
                raise translation(error, self.folder) from error
            except BaseException:
                self._gate.leave()
                raise

    def forget_dead_readers(self) -> None:
        """Let go what a process that was killed inside a read transaction holds back: the pages
        that it read can be used again. Every opening does that too."""
        self._readers_checked_at = time.monotonic()
        handle = self._enter()
        try:
            with translated(self.folder):
                handle.reader_check()
        finally:
            self._gate.leave()

    # Rest, failure and the way back.

    def evict(self) -> bool:
        """Close it until it is used again; waits for transactions at hand, but for none that waits
        for the write lock: then it stays open, and False is returned."""
        with contextlib.suppress(UnavailableError), self._gate.alone(self._check_unwanted):
            if self._lmdb is not None and self._closed is None:
                self._lmdb.close()
                self._lmdb = None
            return True
        return False

    def _check_unwanted(self) -> None:
        if self.lock.wanted:
            raise self.lock.error()

    @property
    def is_open(self) -> bool:
        """It is open, rather than at rest, failed or closed."""
        return self._lmdb is not None and self._failed is None

    def _reopen(self) -> None:
        with self._gate.alone(self.lock.check):
            if self._closed is not None:
                raise type(self._closed)(self._closed.message, self._closed.reason)
            if self._failed is None and self._lmdb is not None:
                return  # Another thread did it.
            self._opening.check(self.folder)
            if self._lmdb is not None:
                self._lmdb.close()
                self._lmdb = None
            try:
                self._open(create=False)
            except NotFoundError:
                # That is no failure to recover from, and waiting makes no difference.
                raise self._missing() from None
            except VecdbError as error:
                self._opening.failed(error)
                raise
            self._opening.worked()
            self._failed = None
        if self.on_reopen is not None:
            self.on_reopen()

    def _confirm(self) -> None:
        """Commit nothing, and so see that commits reach the disk again."""

        def write(transaction: Transaction) -> None:
            database = self._databases[self._names[0]]
            transaction.put(_NOTHING, _NOTHING, db=database)
            transaction.delete(_NOTHING, db=database)

        with self._confirming:
            if not self._doubtful:
                return
            self._committing.check(self.folder)
            try:
                self._attempt_growing(write)
            except VecdbError as error:
                self._committing.failed(error)
                if isinstance(error, OutcomeUnknownError):
                    # What is unknown is nothing; the caller's own batch was not even begun.
                    raise UnavailableError(error.message, Reason.STORE_FAILED) from error
                raise
            self._doubtful = False
            self._committing.worked()

    def _grow(self) -> None:
        with self._gate.alone(self.lock.check), translated(self.folder):
            if self._lmdb is not None and self._failed is None:
                self._resize(self._lmdb, 2 * self._lmdb.info()["map_size"])

    def _resize(self, handle: lmdb.Environment, map_bytes: int) -> None:
        """Change the map's size, alone in the gate; 0: to what another process made of it.

        LMDB lets its map go first; where there is no room for a new one it has none at all, and
        whatever touches it may end this process. So it is opened again before it is used.
        """
        try:
            handle.set_mapsize(map_bytes)
        except BaseException as error:
            self._failed = str(error)
            raise

    def file_bytes(self) -> int:
        """Size of the file on disk."""
        try:
            return (self.folder / "data.mdb").stat().st_size
        except FileNotFoundError:
            raise self._missing() from None

    def _missing(self) -> VecdbError:
        if self.missing_error is not None:
            return self.missing_error()
        if self._place is not None:
            return not_in_place(self.folder)
        return NotFoundError(f"{self.folder} holds no store", Reason.STORE_MISSING)

    def close(self, why: VecdbError | None = None) -> None:
        """End it; waits for transactions at hand. Closing twice is fine.

        A transaction that waits for the write lock is not waited for: it changes nothing any more,
        and LMDB's handle is closed after it.

        Args:
            why: raised by every later use; by default that the store is closed.
        """
        if self._closed is None:
            self._closed = why or FailedPreconditionError(
                f"the store in {self.folder} is closed", Reason.CLOSED
            )
        try:
            self._close_handle(self._check_unwanted)
        except UnavailableError:
            Errand(lambda: self._close_handle(lambda: None), "vecdb-close-store")

    def _close_handle(self, check: Callable[[], None]) -> None:
        with self._gate.alone(check):
            if self._lmdb is not None:
                self._lmdb.close()
                self._lmdb = None
