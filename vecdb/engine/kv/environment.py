"""One LMDB environment. Only this module, ``lmdb_files`` and ``lmdb_errors`` import lmdb.

**The handle lock.** A thread holds it in shared mode for the life of a transaction and of all
buffers from it. Growing the map, following the growth by another process, closing and reopening
take it in exclusive mode: LMDB would crash the process if a transaction were live.

**Transactions.** Code inside a transaction must not block. To read, use ``with environment.read()
as transaction``. To write, use ``environment.transact(function)``, which runs
``function(transaction)`` and commits. If the map is full, it grows the map and runs the function
again, so the function must not have side effects.

**Reopening.** An environment can be evicted, that is closed to save files and address space; the
next use reopens it. It is also reopened after an I/O error, since LMDB rejects every call once it
failed to write a meta page. Then reads work at once. Writes work only after an empty commit has
reached the disk, which also makes durable what an earlier commit left in the page cache. While the
disk keeps failing, retries become less frequent (``store_back_off.py``).

**Opening waits for LMDB's write lock** (not without a limit: ``write_lock.py``), since named
databases need a write transaction: py-lmdb drops handles that were opened in a read transaction.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import lmdb

from vecdb.engine.kv.lmdb_errors import disk_full, in_doubt, located, translated, translation
from vecdb.engine.kv.lmdb_files import copy_compacted, open_files
from vecdb.engine.kv.lmdb_pages import check_whole
from vecdb.engine.kv.reader_writer_lock import ReaderWriterLock
from vecdb.engine.kv.reading import Reading
from vecdb.engine.kv.store_back_off import StoreBackOff
from vecdb.engine.kv.transaction import DatabaseHandle, Handles, Transaction
from vecdb.engine.kv.write_lock import BlockingCall, PendingOpenings, WriteLock, run_reserved
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import is_full
from vecdb.engine.system.modes import make_folder
from vecdb.engine.system.place import OpenedFile, not_in_place, unknown_where
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
"""Interval at which writes clear the reader slots of killed processes."""
_NOTHING = b"\x00"
"""A key that does not exist after any commit."""

_openings = PendingOpenings()
os.register_at_fork(after_in_child=_openings.forget)


class Environment:
    """An LMDB environment with its named databases. Thread-safe.

    Args:
        folder: the folder of data.mdb.
        databases: names of the databases, which are opened at once.
        create: create missing files and databases; without it a missing file is NotFoundError.
        map_bytes: minimum of address space to reserve.
    """

    def __init__(
        self, folder: Path, databases: tuple[bytes, ...], *, create: bool, map_bytes: int
    ) -> None:
        self.folder = folder
        self.used = True
        """Set at each use; ``WeightedLru`` clears it to find unused stores."""
        self.handles = Handles()
        """The databases by name; they change when the environment is reopened."""

        self.on_reopen: Callable[[], None] | None = None
        """Called after a reopening, outside of transactions."""
        self.missing_error: Callable[[], VecdbError] | None = None
        """Returns the error to raise if the file has disappeared."""

        self._names, self._map_bytes = databases, map_bytes
        self._handle_lock = ReaderWriterLock()
        self.lock = WriteLock(folder)
        self._closed: VecdbError | None = None
        self._failed: str | None = None  # LMDB rejects every call until it is reopened.
        self._doubtful = False  # No write until an empty commit has reached the disk.
        self._back_off = StoreBackOff()
        self._confirming, self._readers_checked_at = threading.Lock(), time.monotonic()
        if create:
            make_folder(folder, exist_ok=True)
        self._lmdb: lmdb.Environment | None = None
        self._file: OpenedFile | None = None
        self._open(create=create)

    def _open(self, *, create: bool) -> None:
        file = self.folder / "data.mdb"
        try:
            held = file.stat().st_size
            if held or not create:
                check_whole(file)
        except FileNotFoundError:
            if not create:
                raise self._missing() from None
            held = 0
        map_bytes = self._map_bytes
        while map_bytes < 2 * held:
            map_bytes *= 2
        handle, databases, opened = _openings.run(
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
        if not (opened.is_in_place() and (self._file is None or self._file.is_in_place())):
            handle.close()
            opened.close()
            # A collection can be dropped while it is being opened.
            raise not_in_place(self.folder) if file.exists() else self._missing()
        self.handles.replace(databases)
        self._lmdb, self._file = handle, opened

    def database(self, name: bytes) -> DatabaseHandle:
        """Return the handle of a database whose name is not known before, see ``handles``."""
        handle: DatabaseHandle = vars(self.handles)[name.decode()]
        return handle

    def read(self) -> Reading:
        """Return a context manager of a read transaction. Its buffers are invalid after it. Keep it
        under a second, and do not block in it."""
        return Reading(self._begin, self._handle_lock.release_shared, self.folder)

    def errors_translated(self) -> contextlib.AbstractContextManager[None]:
        """Translate LMDB's errors in a block, for code that continues its transaction after one."""
        return translated(self.folder)

    def last_commit(self) -> int:
        """Return the number of the last commit of any process; while it is the same, nothing has
        changed. Reading it needs no transaction."""
        handle = self._acquire()
        try:
            number: int = handle.info()["last_txnid"]
            return number
        finally:
            self._handle_lock.release_shared()

    def watched_file(self) -> OpenedFile | None:
        """Return the open file, to compare the number of its last commit without the handle lock;
        None if it is not open. If ``descriptor`` is another afterwards, it was closed since."""
        self.used = True
        return self._file if self.is_open and self._closed is None else None

    def readers(self) -> tuple[int, int]:
        """Return the number of open read transactions of all processes, and by how many commits
        the oldest is behind.

        Pages freed since then cannot be reused, so an old reader makes the file grow.
        """
        handle = self._acquire()
        try:
            last: int = handle.info()["last_txnid"]
            # One line per slot: pid, thread, and the transaction's number, or "-" without one.
            words = [line.split() for line in handle.readers().splitlines()]
        finally:
            self._handle_lock.release_shared()
        numbers = [int(w[2]) for w in words if len(w) == 3 and w[0].isdigit() and w[2].isdigit()]
        return len(numbers), max(0, last - min(numbers, default=last))

    def transact(self, function: Callable[[Transaction], Result]) -> Result:
        """Run ``function(transaction)`` in a write transaction and commit it to disk.

        The function runs in another thread. If the lock is stuck, it does not run.

        Raises:
            OutcomeUnknownError: the commit failed in its last step, so it may be on disk or not. Or
                it is on disk, and the folder was moved or removed in the meantime.
            ResourceExhaustedError, UnavailableError: nothing was written.
        """
        return run_reserved(self.lock, self.transact_here, function)

    def transact_here(self, function: Callable[[Transaction], Result]) -> Result:
        """``transact`` in this thread; wait for the lock without a limit."""
        if self._doubtful:
            self._confirm()
        if time.monotonic() - self._readers_checked_at > _READER_CHECK_S:
            self.clear_stale_readers()
        self.check_in_place()
        result = self._attempt_growing(function)
        # Never acknowledge a commit to a file that no path leads to. If the collection was dropped,
        # the usual error says so.
        if not self.is_in_place():
            error = self._missing()
            raise error if isinstance(error, NotFoundError) else unknown_where(self.folder)
        return result

    def is_in_place(self) -> bool:
        """Return whether the opened file is still the one at its path."""
        return self._file is not None and self._file.is_in_place()

    def check_in_place(self) -> None:
        """Check that the opened file is still the one at its path.

        Raises:
            UnavailableError: FOLDER_GONE.
            NotFoundError: the collection was dropped.
        """
        if not self.is_in_place():
            raise self._missing()

    def _check_uncut(self, file: OpenedFile) -> None:
        """Raise if a file that became shorter was truncated: touching a lost page of the map kills
        the process. The handle lock must be held in shared mode."""
        try:
            check_whole(self.folder / "data.mdb", file.descriptor)
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
            self._handle_lock.release_shared()

    def _commit(self, transaction: lmdb.Transaction) -> None:
        """Commit. If this fails before the meta page is written, nothing is committed; if it fails
        while it is written, LMDB rejects every later call, which distinguishes the two cases."""
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
        return in_doubt(error, self.folder)

    def _failure(self, error: Exception) -> VecdbError:
        """Translate an error of a write; after an I/O error, mark the environment as failed."""
        translated_error = translation(error, self.folder)
        if translated_error.reason == Reason.IO_ERROR and is_full(self.folder, self.file_bytes()):
            # On a full disk a write is short, which LMDB reports as an I/O error.
            return disk_full(f"{self.folder}: {error}")
        if isinstance(translated_error, UnavailableError):
            self._failed, self._doubtful = str(error), True
        return translated_error

    def _acquire(self) -> lmdb.Environment:
        """Acquire the handle lock in shared mode, with the environment open; return the handle.

        Raises:
            UnavailableError: opening failed, and it is too early to retry.
            DataLossError: STORE_CUT.
        """
        while True:
            self._handle_lock.acquire_shared()
            if self._closed is None and self._failed is None and self._lmdb is not None:
                assert self._file is not None
                try:
                    if self._file.is_shorter():
                        self._check_uncut(self._file)
                except BaseException:
                    self._handle_lock.release_shared()
                    raise
                self.used = True
                return self._lmdb
            self._handle_lock.release_shared()
            self._reopen()

    def copy(self, folder: Path) -> None:
        """Write the last commit to a folder as a separate environment without free pages.

        Nothing is fsynced. It holds one read transaction until the end: concurrent writes make the
        file grow, and growing or closing this environment blocks. So use it in a process that has
        the environment open only for this.
        """
        with self.read() as transaction:
            assert self._lmdb is not None
            copy_compacted(self._lmdb, transaction, self.folder, folder)

    def _begin(self, *, write: bool) -> lmdb.Transaction[memoryview]:
        """Acquire the handle lock in shared mode and begin a transaction; first adopt the size of
        the map if another process has grown it."""
        readers_checked = False
        while True:
            handle = self._acquire()
            try:
                if not write:
                    return handle.begin(buffers=True)
                self.lock.begin_wait()
                try:
                    return handle.begin(write=True, buffers=True)
                finally:
                    self.lock.end_wait()
            except lmdb.MapResizedError:
                self._handle_lock.release_shared()
                with self._handle_lock.exclusive(self.lock.check), translated(self.folder):
                    if self._lmdb is handle and self._failed is None:
                        self._resize(handle, 0)
            except lmdb.PanicError as error:
                self._handle_lock.release_shared()
                self._failed, self._doubtful = str(error), True
            except lmdb.ReadersFullError as error:
                self._handle_lock.release_shared()
                if readers_checked:
                    raise translation(error, self.folder) from error
                readers_checked = True
                self.clear_stale_readers()
            except lmdb.Error as error:
                self._handle_lock.release_shared()
                raise translation(error, self.folder) from error
            except BaseException:
                self._handle_lock.release_shared()
                raise

    def clear_stale_readers(self) -> None:
        """Clear the reader slots of killed processes, so that LMDB can reuse the pages that their
        transactions kept. Every opening does this too."""
        self._readers_checked_at = time.monotonic()
        handle = self._acquire()
        try:
            with translated(self.folder):
                handle.reader_check()
        finally:
            self._handle_lock.release_shared()

    # Eviction, failure and reopening.

    def evict(self) -> bool:
        """Close the environment until its next use, after running transactions. Return False, and
        leave it open, if one of them still waits for the write lock."""
        with contextlib.suppress(UnavailableError), self._handle_lock.exclusive(self._check_idle):
            if self._closed is None:
                self._shut()
            return True
        return False

    def _check_idle(self) -> None:
        if self.lock.is_awaited:
            raise self.lock.error()

    @property
    def is_open(self) -> bool:
        """Whether it is open, that is neither evicted nor failed nor closed."""
        return self._lmdb is not None and self._failed is None

    def _reopen(self) -> None:
        with self._handle_lock.exclusive(self.lock.check):
            if self._closed is not None:
                raise type(self._closed)(self._closed.message, self._closed.reason)
            if self._failed is None and self._lmdb is not None:
                return  # Another thread did it.
            self._back_off.check("opening", self.folder)
            self._shut()
            try:
                self._open(create=False)
            except NotFoundError:
                # Not a failure to recover from: no back-off.
                raise self._missing() from None
            except VecdbError as error:
                self._back_off.failed("opening", error)
                raise
            self._back_off.succeeded("opening")
            self._failed = None
        if self.on_reopen is not None:
            self.on_reopen()

    def _confirm(self) -> None:
        """Make an empty commit, to prove that commits reach the disk again."""

        def write(transaction: Transaction) -> None:
            database = self.database(self._names[0])
            transaction.put(_NOTHING, _NOTHING, db=database)
            transaction.delete(_NOTHING, db=database)

        with self._confirming:
            if not self._doubtful:
                return
            self._back_off.check("committing", self.folder)
            try:
                self._attempt_growing(write)
            except VecdbError as error:
                self._back_off.failed("committing", error)
                if isinstance(error, OutcomeUnknownError):
                    # Only the empty commit is in doubt; the caller's batch was not begun.
                    raise UnavailableError(error.message, Reason.STORE_FAILED) from error
                raise
            self._doubtful = False
            self._back_off.succeeded("committing")

    def _grow(self) -> None:
        with self._handle_lock.exclusive(self.lock.check), translated(self.folder):
            if self._lmdb is not None and self._failed is None:
                self._resize(self._lmdb, 2 * self._lmdb.info()["map_size"])

    def _resize(self, handle: lmdb.Environment, map_bytes: int) -> None:
        """Change the size of the map; 0 adopts the size set by another process. The handle lock
        must be held in exclusive mode.

        LMDB unmaps first. If mapping the new size then fails, there is no map at all, and any use
        may crash the process. So the environment is marked as failed, to be reopened before use.
        """
        try:
            handle.set_mapsize(map_bytes)
        except BaseException as error:
            self._failed = str(error)
            raise

    def file_bytes(self) -> int:
        """Return the size of the file on disk."""
        try:
            return (self.folder / "data.mdb").stat().st_size
        except FileNotFoundError:
            raise self._missing() from None

    def _missing(self) -> VecdbError:
        if self.missing_error is not None:
            return self.missing_error()
        if self._file is not None:
            return not_in_place(self.folder)
        return NotFoundError(f"{self.folder} does not contain a store", Reason.STORE_MISSING)

    def close(self, why: VecdbError | None = None) -> None:
        """Close the environment for good, after running transactions. Idempotent.

        Do not wait for a transaction that waits for the write lock: it will not change anything,
        and a thread closes LMDB's handle after it.

        Args:
            why: the error that every later use raises; by default CLOSED.
        """
        if self._closed is None:
            self._closed = why or FailedPreconditionError(
                f"the store in {self.folder} is closed", Reason.CLOSED
            )
        try:
            self._close_handle(self._check_idle)
        except UnavailableError:
            BlockingCall(lambda: self._close_handle(lambda: None), "vecdb-close-store")

    def _close_handle(self, check: Callable[[], None]) -> None:
        with self._handle_lock.exclusive(check):
            self._shut()

    def _shut(self) -> None:
        """Close LMDB's handle and the file, with the handle lock held in exclusive mode."""
        if self._lmdb is not None:
            self._lmdb.close()
            self._lmdb = None
        if self._file is not None:
            self._file.close()
