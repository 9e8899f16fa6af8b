"""What a file of LMDB says of itself, read without mapping it.

A page that LMDB has mapped and that lies past the end of the file ends the process that touches it
(SIGBUS), so the size is checked before the file is opened. Format of LMDB 0.9 (lmdb.h, mdb.c); all
numbers little-endian:

    page       u64 number, u16 pad, u16 flags, u16 lower, u16 upper; then the offsets of its nodes,
               u16 each, up to ``lower``
    meta page  after the head of a page: u32 0xBEEFC0DE, u32 version, u64 address, u64 map size, two
               databases (free pages, main), u64 last page, u64 transaction. Pages 0 and 1 are meta
               pages; the one with the greater transaction counts.
    database   u32 (page size, in the first one), u16 flags, u16 depth, u64 branch pages, leaf
               pages, overflow pages, entries, root
    node       u16, u16, u16 flags, u16 length of the key, the key, the value. In a branch the first
               three are the child's page, in a leaf the first two are the length of the value. A
               value with flag 1 is the number of the overflow page that holds it.
    free pages u64 count, then u64 page numbers

The last page is not the end of the file where a transaction frees pages that it has just allocated:
they are never written. So a file that is too short is whole if all that it lacks is free.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["Meta", "check_whole", "last_transaction", "read_meta"]

_MAGIC: Final = 0xBEEFC0DE
_HEAD_BYTES: Final = 16
_META = struct.Struct("<IIQQ")
_DATABASE = struct.Struct("<IHHQQQQQ")
_TAIL = struct.Struct("<QQ")
_META_BYTES: Final = _META.size + 2 * _DATABASE.size + _TAIL.size
_PAGE_FLAGS = struct.Struct("<HHH")
_NODE = struct.Struct("<HHHH")
_U64 = struct.Struct("<Q")
_IS_BRANCH: Final = 1
_IS_META: Final = 8
_IS_LARGE: Final = 1
_NO_PAGE: Final = 2**64 - 1
_PAGE_BYTES_MIN: Final = 256
_PAGE_BYTES_MAX: Final = 65_536
_ATTEMPTS: Final = 5
"""A process that commits may reuse pages of the free list while they are read."""


@dataclass(frozen=True)
class Meta:
    """A meta page: size of a page, number of the last one and of the transaction, root of the
    database of free pages."""

    page_bytes: int
    last_page: int
    transaction: int
    free_root: int


def read_meta(descriptor: int) -> Meta | None:
    """The meta page that counts; None if either can't be read, which LMDB refuses as well."""
    first = _meta_at(descriptor, 0)
    second = None if first is None else _meta_at(descriptor, first.page_bytes)
    if first is None or second is None:
        return None
    return max(first, second, key=lambda meta: meta.transaction)


def last_transaction(file: Path) -> int | None:
    """Number of the last committed transaction; None if it can't be read."""
    with contextlib.suppress(OSError), _opened(file) as descriptor:
        meta = read_meta(descriptor)
        return None if meta is None else meta.transaction
    return None


def check_whole(file: Path) -> None:
    """Raise unless all pages that LMDB may touch are in the file; a damaged head is left to LMDB.

    Raises:
        DataLossError: STORE_CUT: it is empty, or shorter than its last page that is in use.
        FileNotFoundError: it is not there.
    """
    with _opened(file) as descriptor:
        for _ in range(_ATTEMPTS):
            size = os.fstat(descriptor).st_size
            if size == 0:
                raise _cut(file, "it is empty; LMDB would take it for a new one")
            meta = read_meta(descriptor)
            if meta is None:
                return
            # Asked again: a commit makes the file longer first and then says so.
            size = os.fstat(descriptor).st_size
            expected = (meta.last_page + 1) * meta.page_bytes
            if size >= expected:
                return
            lacking = range(size // meta.page_bytes, meta.last_page + 1)
            free = _free_among(descriptor, meta, lacking)
            now = read_meta(descriptor)
            if now is not None and now.transaction != meta.transaction:
                continue
            if free == len(lacking):
                return
            raise _cut(file, f"it has {size} bytes, expected {expected}")
        # It grows under our eyes, by a process that has it mapped.


def _cut(file: Path, what: str) -> DataLossError:
    return DataLossError(
        f"the store's file was cut short ({file}: {what}); restore a backup, or drop the "
        "collection",
        Reason.STORE_CUT,
    )


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[int]:
    # Of the data file alone: closing LMDB's lock file would release this process's locks on it.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _meta_at(descriptor: int, at: int) -> Meta | None:
    raw = os.pread(descriptor, _HEAD_BYTES + _META_BYTES, at)
    if len(raw) < _HEAD_BYTES + _META_BYTES:
        return None
    flags, _, _ = _PAGE_FLAGS.unpack_from(raw, 10)
    magic, _, _, _ = _META.unpack_from(raw, _HEAD_BYTES)
    free = _DATABASE.unpack_from(raw, _HEAD_BYTES + _META.size)
    last_page, transaction = _TAIL.unpack_from(raw, _HEAD_BYTES + _META_BYTES - _TAIL.size)
    page_bytes: int = free[0]
    if magic != _MAGIC or not flags & _IS_META:
        return None
    if not _PAGE_BYTES_MIN <= page_bytes <= _PAGE_BYTES_MAX:
        return None
    return Meta(page_bytes, last_page, transaction, free[-1])


def _free_among(descriptor: int, meta: Meta, pages: range) -> int:
    """How many of these pages are in the list of free pages, as far as that can be read."""
    try:
        return len(_free_pages(descriptor, meta, pages))
    except (struct.error, ValueError, OSError):
        return 0


def _free_pages(descriptor: int, meta: Meta, pages: range) -> set[int]:
    free: set[int] = set()
    seen: set[int] = set()
    roots = [] if meta.free_root == _NO_PAGE else [meta.free_root]
    while roots:
        page = roots.pop()
        raw = os.pread(descriptor, meta.page_bytes, page * meta.page_bytes)
        if len(raw) < meta.page_bytes or page in seen:
            raise ValueError(page)
        seen.add(page)
        flags, lower, _ = _PAGE_FLAGS.unpack_from(raw, 10)
        for at in range(_HEAD_BYTES, min(lower, meta.page_bytes - 1), 2):
            node = int.from_bytes(raw[at : at + 2], "little")
            low, high, more, key_bytes = _NODE.unpack_from(raw, node)
            if flags & _IS_BRANCH:
                roots.append(low | high << 16 | more << 32)
                continue
            start, size = node + _NODE.size + key_bytes, low | high << 16
            value = raw[start : start + size]
            if more & _IS_LARGE:
                (large,) = _U64.unpack_from(raw, start)
                value = os.pread(descriptor, size, large * meta.page_bytes + _HEAD_BYTES)
            if len(value) < size:
                raise ValueError(page)
            free.update(number for (number,) in _U64.iter_unpack(value[8:]) if number in pages)
    return free
