"""Scrolling: read all rows of a collection at one seq, in pages, by ascending row number.

The first page takes a lease (``leases.py``). Each later page is requested with a token that names
the lease and the next row. Between pages no transaction is open and this process holds no state
that the next page needs, so another process may read it.

A row is live at seq S if it was added at or before S and not deleted at or before S. Rows added by
then are those below the lease's ``next_row``. The tombstones hold the seq of each deletion. A row's
metadata at S is its last record version with a seq of at most S. Later deletions and changes do not
affect the scroll, and nothing that it needs is purged while the lease is valid.

With a filter, the caller may know rows among which are all that match. Then only their records are
read, and compared with the filter.

A page is read in slices. Each slice is one short transaction, even if most rows that it passes are
deleted, and checks the lease first, so that nothing that it reads can have been purged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vecdb import checks, limits
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import leases
from vecdb.engine.store.layout import Lease
from vecdb.engine.store.scroll_token import ScrollToken, pack_token, unpack_token
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import (
    DataLossError,
    InvalidArgumentError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    VecdbError,
)
from vecdb.filters import Filter
from vecdb.reasons import Reason
from vecdb.types import Records, ScrollPage

__all__ = ["Candidates", "PageRequest", "end_scroll", "read_page"]

Rows = npt.NDArray[np.int64]

Candidates: TypeAlias = Callable[[Filter, int, Deadline], Rows | None]
"""Returns rows, ascending, among which are all that were live at a seq and matched a filter, and
none that was not live then but later ones; None if it does not know. The seq is leased."""

_SLICE_ROWS, _SLICE_ROWS_MIN = 16_384, 512
_SLICE_BYTES = 32 * 1024**2
"""A transaction reads about this much at most, which takes about 30 ms."""

_PASSED_ROWS_MAX = 200_000
"""Rows that a page with a filter reads at most, and one slice: about a second."""

_ROW_OVERHEAD = 16
"""Bytes per row that a message takes beyond id, vector and metadata."""


@dataclass(frozen=True)
class PageRequest:
    """Validated options of a page. ``batch``: most rows. ``bytes_max``: of ids, vectors and
    metadata together. ``filter``: only rows that match; None for all."""

    batch: int
    include_metadata: bool = True
    include_vectors: bool = True
    bytes_max: int = limits.SCROLL_PAGE_BYTES_MAX
    filter: Filter | None = None


@dataclass
class _Rows:
    """The rows of a page so far."""

    nbytes: int = 0
    full: bool = False
    passed: int = 0
    ids: list[str] = field(default_factory=list)
    metadata: list[bytes] = field(default_factory=list)
    vectors: list[npt.NDArray[np.float32]] = field(default_factory=list)


def read_page(
    store: Store,
    collection_id: str,
    token: str | None,
    request: PageRequest,
    deadline: Deadline,
    *,
    ends: bool = True,
    candidates: Candidates | None = None,
) -> ScrollPage:
    """Return the first page, or the page of a token. The last page ends the scroll.

    A page that fails does not change the scroll: request it again with the same token.

    Args:
        ends: False if the caller releases the scroll's lease itself after the last page.
        candidates: finds rows for pages with a filter; None to compare all.

    Raises:
        InvalidArgumentError: BAD_TOKEN: the token is malformed or of another collection.
        FailedPreconditionError: PIN_EXPIRED: the scroll has ended.
        ResourceExhaustedError: too many scrolls are open, or the disk is full.
        NotFoundError: the collection was dropped.
        DataLossError: a row in the page is damaged.
        DeadlineExceededError, CancelledError.
    """
    if token is not None:
        place = _checked_token(token, collection_id)
        return _page(store, place, request, deadline, candidates, ends=ends)
    deadline.check()
    lease = store.environment.transact(lambda transaction: leases.take_lease(store, transaction))
    try:
        place = ScrollToken(lease.id, lease.seq, 0, collection_id)
        return _page(store, place, request, deadline, candidates, ends=ends)
    except BaseException:
        with contextlib.suppress(VecdbError):
            _release(store, lease.id)
        raise


def end_scroll(store: Store, collection_id: str, token: str) -> None:
    """Release a scroll's lease; does nothing if the scroll has ended already.

    Raises:
        InvalidArgumentError: BAD_TOKEN: the token is malformed or of another collection.
    """
    _release(store, _checked_token(token, collection_id).lease_id)


def _release(store: Store, lease_id: bytes) -> None:
    store.scroll_uses.forget(lease_id)
    store.environment.transact(
        lambda transaction: leases.release_lease(store, transaction, lease_id)
    )


def _checked_token(token: object, collection_id: str) -> ScrollToken:
    place = unpack_token(checks.check_token(token))
    if place is None:
        raise InvalidArgumentError(
            "expected a token that a scroll page returned, got other text", Reason.BAD_TOKEN
        )
    if place.collection_id != collection_id:
        raise InvalidArgumentError(
            "the token belongs to a scroll of another collection", Reason.BAD_TOKEN
        )
    return place


def _page(
    store: Store,
    place: ScrollToken,
    request: PageRequest,
    deadline: Deadline,
    candidates: Candidates | None,
    *,
    ends: bool,
) -> ScrollPage:
    row_bytes = limits.ID_BYTES.maximum + _ROW_OVERHEAD
    if request.include_vectors:
        row_bytes += 4 * store.config.dim
    if request.include_metadata:
        row_bytes += store.metadata_bytes_max
    with store.call_memory.of_call() as memory:
        memory.answer(min(request.bytes_max, request.batch * row_bytes))
        some = None
        if candidates is not None and request.filter is not None:
            some = candidates(request.filter, place.seq, deadline)
        return _filled_page(store, place, request, deadline, some, ends)


def _filled_page(
    store: Store,
    place: ScrollToken,
    request: PageRequest,
    deadline: Deadline,
    some: Rows | None,
    ends: bool,
) -> ScrollPage:
    got, row = _Rows(), place.row
    while True:
        deadline.check()
        with store.environment.read() as transaction:
            store.check_not_dropped(transaction)
            lease = leases.check_lease(store, transaction, place.lease_id)
            if lease.seq != place.seq or row > lease.next_row:
                raise InvalidArgumentError(
                    "the token's seq or row does not match its scroll", Reason.BAD_TOKEN
                )
            if some is None:
                row = _read_slice(store, transaction, lease, row, request, got)
            else:
                row = _read_some(store, transaction, lease, row, some, request, got)
        if got.full or len(got.ids) == request.batch or row >= lease.next_row:
            break
        if got.passed > _PASSED_ROWS_MAX:
            break  # Few rows match. The caller gets those, and the next page goes on.
    token = None
    if row < lease.next_row:
        leases.keep_lease(store, lease)
        if ends:
            store.scroll_uses.note(lease.id)
        token = pack_token(place._replace(row=row))
    elif ends:
        # The last page. If the lease can't be released now, it expires.
        with contextlib.suppress(ResourceExhaustedError, UnavailableError, OutcomeUnknownError):
            _release(store, lease.id)
    return ScrollPage(_records(store, got, request, lease.seq), token)


def _read_slice(
    store: Store, transaction: Transaction, lease: Lease, row: int, request: PageRequest, got: _Rows
) -> int:
    """Add rows from ``row`` on to the page; return the row to go on at."""
    begin = store.rows.next_recorded(transaction, row)
    if begin is None or begin >= lease.next_row:
        return lease.next_row
    vector_bytes = 4 * store.config.dim if request.include_vectors else 0
    # More rows than wanted, as some may be deleted, but no more than a slice may read.
    window = max(_SLICE_ROWS_MIN, 2 * (request.batch - len(got.ids)))
    if request.filter is not None:
        window = _SLICE_ROWS
    window = min(window, _SLICE_ROWS, _SLICE_BYTES // max(1, vector_bytes))
    end = min(begin + window, lease.next_row)
    deleted = store.rows.read_deleted(transaction, begin, end, lease.seq)
    deleted_set, read_bytes = set(deleted.tolist()), 0
    rows: list[int] = []
    append_row, append_id, append_metadata = rows.append, got.ids.append, got.metadata.append
    room, wanted = request.bytes_max - got.nbytes, request.batch - len(got.ids)
    first_of_page = not got.ids
    matches = None if request.filter is None else request.filter.matches_json
    for at, encoded, metadata in store.rows.iterate_records(transaction, begin, end, lease.seq):
        read_bytes += len(metadata)
        if at not in deleted_set and (matches is None or matches(encoded.decode(), metadata)):
            size = vector_bytes + len(encoded) + _ROW_OVERHEAD
            if request.include_metadata:
                size += len(metadata)
            if (size > room and not first_of_page) or wanted == 0:
                got.full, end = True, at
                break
            room, wanted, first_of_page = room - size, wanted - 1, False
            append_row(at)
            append_id(encoded.decode())
            append_metadata(metadata)
        if read_bytes > _SLICE_BYTES:
            end = at + 1
            break
    got.nbytes = request.bytes_max - room
    got.passed += 0 if matches is None else end - begin
    if request.include_vectors and matches is not None:
        got.vectors.append(store.rows.read_vectors(transaction, rows))
    elif request.include_vectors:
        kept = np.array(rows, np.int64)
        got.vectors.append(_vectors(store, transaction, begin, end, kept, deleted))
    return end


def _read_some(
    store: Store,
    transaction: Transaction,
    lease: Lease,
    row: int,
    some: Rows,
    request: PageRequest,
    got: _Rows,
) -> int:
    """Do ``_read_slice`` for the rows that match among some."""
    assert request.filter is not None
    vector_bytes = 4 * store.config.dim if request.include_vectors else 0
    room, wanted = request.bytes_max - got.nbytes, request.batch - len(got.ids)
    most = max(1, _SLICE_BYTES // (vector_bytes + store.metadata_bytes_max))
    low, after = np.searchsorted(some, (row, lease.next_row)).tolist()
    high = min(after, low + most, low + wanted + 1)
    numbers = some[low:high].tolist()
    end = lease.next_row if high == after else numbers[-1] + 1
    matches, rows = request.filter.matches_json, list[int]()
    records = store.rows.read_records(transaction, numbers, lease.seq)
    for at, (name, metadata) in zip(numbers, records, strict=True):
        if not matches(name, metadata):
            continue
        size = vector_bytes + len(name.encode()) + _ROW_OVERHEAD
        if request.include_metadata:
            size += len(metadata)
        if (size > room and got.ids) or wanted == 0:
            got.full, end = True, at
            break
        room, wanted = room - size, wanted - 1
        rows.append(at)
        got.ids.append(name)
        got.metadata.append(metadata)
    got.nbytes = request.bytes_max - room
    if request.include_vectors:
        got.vectors.append(store.rows.read_vectors(transaction, rows))
    return end


def _vectors(
    store: Store,
    transaction: Transaction,
    begin: int,
    end: int,
    kept: npt.NDArray[np.int64],
    deleted: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Return the vectors of the rows ``kept``: those of the interval with a record, not deleted.

    Raises:
        DataLossError: a row has a record and no vector, or a vector and no record.
    """
    vectors = np.empty((len(kept), store.config.dim), np.float32)
    filled = np.zeros(len(kept), bool)
    for rows, block in store.rows.iterate_blocks(transaction, begin, end):
        if len(rows) == 0:
            continue
        first, last = np.searchsorted(kept, (rows[0], rows[-1] + 1)).tolist()
        if np.array_equal(rows, kept[first:last]):
            vectors[first:last], filled[first:last] = block, True
            continue
        inside = np.isin(rows, kept[first:last], assume_unique=True)
        places = np.searchsorted(kept, rows[inside])
        vectors[places], filled[places] = block[inside], True
        unknown = np.setdiff1d(rows[~inside], deleted, assume_unique=True)
        if len(unknown):
            raise DataLossError(f"row {unknown[0]} has no record", Reason.RECORD_MISSING)
    if not filled.all():
        missing = int(kept[np.flatnonzero(~filled)[0]])
        raise DataLossError(f"row {missing} has no vector", Reason.VECTOR_MISSING)
    return vectors


def _records(store: Store, got: _Rows, request: PageRequest, seq: int) -> Records:
    vectors = None
    if request.include_vectors:
        parts = got.vectors or [np.zeros((0, store.config.dim), np.float32)]
        vectors = parts[0] if len(parts) == 1 else np.concatenate(parts)
    metadata = got.metadata if request.include_metadata else [b""] * len(got.ids)
    return Records(got.ids, vectors, metadata, [], seq)
