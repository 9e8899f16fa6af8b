"""LMDB's meta pages and list of free pages, read without mapping the file.

Touching a mapped page past the end of the file kills the process (SIGBUS), so the size of a file is
checked before LMDB opens it. Format of LMDB 0.9 (lmdb.h, mdb.c); all numbers little-endian:

    page       u64 number, u16 pad, u16 flags, u16 lower, u16 upper; then the offsets of its nodes,
               u16 each, up to ``lower``
    meta page  after the header of a page: u32 0xBEEFC0DE, u32 version, u64 address, u64 map size,
               two databases (free pages, main), u64 last page, u64 transaction. Pages 0 and 1 are
               meta pages; the one with the greater transaction is current.
    database   u32 (page size, in the first one), u16 flags, u16 depth, u64 branch pages, leaf
               pages, overflow pages, entries, root
    node       u16, u16, u16 flags, u16 length of the key, the key, the value. In a branch the first
               three are the child's page, in a leaf the first two are the length of the value. A
               value with flag 1 is the number of the overflow page that holds it.
    free pages u64 count, then u64 page numbers

A file may end before its last page: pages that a transaction allocates and frees again are never
written. So a file that is too short is complete if all missing pages are free.
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

__all__ = ["Meta", "check_whole", "commits_at", "last_transaction", "read_meta"]

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
_NO_PLACE: Final = 2**62
_PAGE_BYTES_MIN: Final = 256
_PAGE_BYTES_MAX: Final = 65_536
_ATTEMPTS: Final = 5
"""The check is repeated if another process commits during it, which may reuse pages of the free
list while they are read."""


@dataclass(frozen=True)
class Meta:
    """A meta page.

    Attributes:
        page_bytes: size of a page.
        last_page: number of the last page.
        transaction: number of the transaction that wrote it.
        free_root: root page of the database of free pages.
    """

    page_bytes: int
    last_page: int
    transaction: int
    free_root: int


def read_meta(descriptor: int) -> Meta | None:
    """Return the current meta page; None if either is unreadable, which LMDB rejects as well."""
    first = _meta_at(descriptor, 0)
    second = None if first is None else _meta_at(descriptor, first.page_bytes)
    if first is None or second is None:
        return None
    return max(first, second, key=lambda meta: meta.transaction)


def commits_at(descriptor: int) -> tuple[int, int]:
    """Return where the numbers of the last two commits are, u64 each; the last one is greater.

    Beyond any file if the first meta page is unreadable.
    """
    meta = _meta_at(descriptor, 0)
    if meta is None:
        return _NO_PLACE, _NO_PLACE
    at = _HEAD_BYTES + _META_BYTES - _U64.size
    return at, at + meta.page_bytes


def last_transaction(file: Path) -> int | None:
    """Return the number of the last committed transaction; None if it cannot be read."""
    with contextlib.suppress(OSError), _opened(file) as descriptor:
        meta = read_meta(descriptor)
        return None if meta is None else meta.transaction
    return None


def check_whole(file: Path, descriptor: int | None = None) -> None:
    """Check that the file contains all pages that LMDB may touch. If a meta page is damaged, pass:
    LMDB will report it.

    Args:
        descriptor: of the file, if it is open already; it may have been moved since.

    Raises:
        DataLossError: STORE_CUT: the file is empty, or ends before its last page in use.
        FileNotFoundError: the file does not exist.
    """
    with _opened(file) if descriptor is None else contextlib.nullcontext(descriptor) as descriptor:
        for _ in range(_ATTEMPTS):
            size = os.fstat(descriptor).st_size
            if size == 0:
                raise _cut(file, "the file is empty; LMDB would treat it as new")
            meta = read_meta(descriptor)
            if meta is None:
                return
            # Read the size again: a commit first extends the file, then writes its meta page.
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
            raise _cut(file, f"expected {expected} bytes, got {size}")
        # Another process commits all the time, so it has the file mapped: the file is usable.


def _cut(file: Path, what: str) -> DataLossError:
    return DataLossError(
        f"the store's file was truncated ({file}: {what}); restore a backup, or drop the "
        "collection",
        Reason.STORE_CUT,
    )


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[int]:
    # Only for data.mdb: closing a descriptor of lock.mdb would release this process's locks on it.
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
    """Return how many of these pages are in the list of free pages; 0 if it is unreadable."""
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
