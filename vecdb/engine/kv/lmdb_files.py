"""Preparing and opening LMDB's two files, data.mdb and lock.mdb.

LMDB maps both. If a mapped page has no bytes on the disk, since the disk is full or the file was
truncated, touching it kills the process (SIGBUS). So the lock file is allocated in full, and the
size of the data file is checked, before LMDB opens them.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

import lmdb

from vecdb.engine.kv.lmdb_errors import translated, translation
from vecdb.engine.kv.lmdb_pages import commits_at
from vecdb.engine.kv.transaction import DatabaseHandle, Transaction
from vecdb.engine.system.modes import creating, set_file_mode
from vecdb.engine.system.place import OpenedFile
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["LMDB_FORMAT_0_9", "copy_compacted", "fill_cut_file", "make_lock_file", "open_files"]

LMDB_FORMAT_0_9 = 0
_LOCK_BYTES = 16 * 1024
"""Allocated size of the lock file: its header and 250 reader slots. LMDB extends the file with a
hole for the rest; readers take the first free slot, so they rarely reach it."""


def make_lock_file(folder: Path) -> None:
    """Create the lock file if it does not exist, and allocate its used part on the disk.

    Raises:
        ResourceExhaustedError: the disk is full.
    """
    path = folder / "lock.mdb"
    try:
        # O_EXCL: never open an existing one, since closing any descriptor of it would release the
        # POSIX locks that this process holds on it.
        descriptor = creating(os.fspath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    except OSError:
        return  # It exists, or cannot be created; then LMDB's own attempt reports why.
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_BYTES)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise translation(error, folder) from error
    finally:
        os.close(descriptor)


def open_files(
    folder: Path,
    names: tuple[bytes, ...],
    *,
    create: bool,
    map_bytes: int,
    held: int,
    readers_max: int,
) -> tuple[lmdb.Environment, dict[bytes, DatabaseHandle], OpenedFile]:
    """Open an environment and its named databases; the latter waits for the write lock.

    Args:
        folder: the folder of data.mdb.
        names: names of the databases.
        create: create missing files and databases.
        map_bytes: address space to reserve.
        held: size of the file, 0 if it is new. If there is too little address space for
            ``map_bytes``, the map gets this size, which is enough for reading.
        readers_max: maximum of concurrent read transactions of all processes.

    Returns:
        The environment, the handles of its databases by name, and the opened data.mdb.
    """
    path = folder / "data.mdb"
    open_mapped = functools.partial(
        lmdb.open,
        os.fspath(folder),
        max_dbs=len(names) + 4,
        max_readers=readers_max,
        create=create,
        mode=0o600,
        lib_version=LMDB_FORMAT_0_9,
    )
    with translated(folder), contextlib.ExitStack() as undo:
        make_lock_file(folder)
        # Before LMDB opens it, so that a replacement during it is detected.
        file = undo.enter_context(_opened(path)) if held else None
        try:
            handle = open_mapped(map_size=map_bytes)
        except lmdb.MemoryError:  # Too little address space; reading needs only the file's size.
            handle = open_mapped(map_size=held)
        undo.callback(handle.close)
        handle.reader_check()
        # One explicit transaction: open_db without one would begin its own with the GIL held,
        # which would block all threads while it waits for the write lock.
        with handle.begin(write=True) as transaction:
            databases = {n: handle.open_db(n, transaction, create=create) for n in names}
        if file is None:
            set_file_mode(path)
            file = undo.enter_context(_opened(path))
        file.commits_at = commits_at(file.descriptor)
        undo.pop_all()
        return handle, databases, file


def _opened(path: Path) -> contextlib.closing[OpenedFile]:
    try:
        return contextlib.closing(OpenedFile(path))
    except OSError as error:
        raise translation(error, path) from error


def copy_compacted(
    handle: lmdb.Environment, transaction: Transaction, source: Path, target: Path
) -> None:
    """Write what a read transaction sees to another folder, without free pages and without fsync.

    Raises:
        DataLossError: LMDB_CORRUPTED.
        ResourceExhaustedError, UnavailableError: the copy could not be written.
    """
    assert isinstance(transaction, lmdb.Transaction)
    try:
        handle.copy(os.fspath(target), compact=True, txn=transaction)
        set_file_mode(target / "data.mdb")
    except lmdb.IncompatibleError as error:
        # LMDB's error if the number of pages in use is not as expected.
        raise DataLossError(
            f"LMDB reports a damaged file ({source}: {error})", Reason.LMDB_CORRUPTED
        ) from error
    except lmdb.Error as error:
        raise translation(error, f"{source} copied to {target}") from error


def fill_cut_file(folder: Path) -> None:
    """Extend a truncated file to its former length with zeros. LMDB reports zero pages as damaged,
    whereas reading past the end would kill the process. The file must not be open in this
    process."""
    chosen: dict[str, Any] = {"readonly": True, "lock": False, "lib_version": LMDB_FORMAT_0_9}
    with translated(folder), lmdb.open(os.fspath(folder), **chosen) as handle:
        wanted = (handle.info()["last_pgno"] + 1) * handle.stat()["psize"]
    with open(folder / "data.mdb", "r+b") as file:
        if os.fstat(file.fileno()).st_size < wanted:
            # Unlike ftruncate it never shrinks the file, if another process extends it.
            os.posix_fallocate(file.fileno(), wanted - 1, 1)
