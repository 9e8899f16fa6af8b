"""LMDB's two files, before it opens them: bytes of a mapped file that are not on the disk, for want
of room or since the file was cut, end the process that touches them (SIGBUS)."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import lmdb

from vecdb.engine.kv.lmdb_errors import translated, translation
from vecdb.engine.kv.transaction import DatabaseHandle
from vecdb.engine.system.modes import creating, set_file_mode
from vecdb.engine.system.place import Place

__all__ = ["LMDB_FORMAT_0_9", "fill_cut_file", "make_lock_file", "open_files"]

LMDB_FORMAT_0_9 = 0
_LOCK_BYTES = 16 * 1024
"""Of the lock file: its head and 250 readers, who take the first free place. LMDB makes it longer,
with a hole for the readers that hardly ever come."""


def make_lock_file(folder: Path) -> None:
    """Make the lock file if there is none, with room on the disk for what is used of it.

    Raises:
        ResourceExhaustedError: there is no such room.
    """
    path = folder / "lock.mdb"
    try:
        # Never one that is there: closing it would let go of the locks that this process has on it.
        descriptor = creating(os.fspath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    except OSError:
        return  # It is there; where it can't be made LMDB says why.
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
) -> tuple[lmdb.Environment, dict[bytes, DatabaseHandle], Place]:
    """An open environment, the handles of its named databases, for which LMDB waits for the write
    lock, and where its file was.

    Args:
        map_bytes: address space to reserve. held: bytes of the file, which is enough for reading.
    """
    open_mapped = functools.partial(
        lmdb.open,
        os.fspath(folder),
        max_dbs=len(names) + 4,
        max_readers=readers_max,
        create=create,
        mode=0o600,
        lib_version=LMDB_FORMAT_0_9,
    )
    with translated(folder):
        make_lock_file(folder)
        place = Place(folder / "data.mdb")
        if held:
            place.found()  # Before, so that another one that comes meanwhile is noticed.
        try:
            handle = open_mapped(map_size=map_bytes)
        except lmdb.MemoryError:  # Reading needs no room to grow.
            handle = open_mapped(map_size=held)
        try:
            handle.reader_check()
            # In one transaction, as open_db would begin its own with the GIL held: while it waits
            # for the lock, this process would stand still.
            with handle.begin(write=True) as transaction:
                databases = {n: handle.open_db(n, transaction, create=create) for n in names}
            if not held:
                set_file_mode(folder / "data.mdb")
                place.found()
            return handle, databases, place
        except BaseException:
            handle.close()
            raise


def fill_cut_file(folder: Path) -> None:
    """Give a file that was cut its length again, of zeros, which LMDB calls damaged: reading where
    nothing is would end the process. For a file that this process does not have open."""
    chosen: dict[str, Any] = {"readonly": True, "lock": False, "lib_version": LMDB_FORMAT_0_9}
    with translated(folder), lmdb.open(os.fspath(folder), **chosen) as handle:
        wanted = (handle.info()["last_pgno"] + 1) * handle.stat()["psize"]
    with open(folder / "data.mdb", "r+b") as file:
        if os.fstat(file.fileno()).st_size < wanted:
            # Unlike a truncation, it takes nothing from who makes the file longer meanwhile.
            os.posix_fallocate(file.fileno(), wanted - 1, 1)
