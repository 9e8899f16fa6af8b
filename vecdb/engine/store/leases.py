"""Snapshot leases: a long read keeps its snapshot readable without an open read transaction.

A lease protects one seq: while it is valid, no process purges what a reader at that seq needs. It
is stored in the LMDB database ``pins``, so that all processes see it. Its holder renews it. A lease
that is not renewed in time has expired, even if its process was killed; an expired lease protects
nothing and cannot be renewed. Leases expire by the store's clock (``clock.py``), which wall-clock
jumps do not affect. An expiry more than one lease period ahead comes from an earlier version, which
used the wall clock: the next removal of expired leases shortens it to one period.

Functions with a ``transaction`` argument work in the caller's transaction; those that write need
one of ``environment.transact``. Leases change neither seq nor generation.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from vecdb import limits
from vecdb.engine.kv.transaction import DatabaseHandle, Transaction
from vecdb.engine.store import layout
from vecdb.engine.store.layout import Lease
from vecdb.engine.store.store import Store
from vecdb.errors import (
    DataLossError,
    FailedPreconditionError,
    OutcomeUnknownError,
    ResourceExhaustedError,
    UnavailableError,
    VecdbError,
)
from vecdb.reasons import Reason

__all__ = [
    "check_lease",
    "keep_lease",
    "leased",
    "oldest_lease",
    "oldest_leased_seq",
    "release_lease",
    "remove_expired_leases",
    "renew_lease",
    "take_lease",
]


_RENEWED_BELOW: Final = 0.75
"""A lease is renewed once less than this fraction is left, since each renewal costs a commit."""

_UNWRITABLE: Final = (ResourceExhaustedError, UnavailableError, OutcomeUnknownError)


def take_lease(store: Store, transaction: Transaction, *, limited: bool = True) -> Lease:
    """Take a lease on the latest committed state, and remove all expired leases.

    Args:
        limited: refuse the lease if there are ``limits.LEASES_MAX`` already. False for reads that
            hold a lease only during one call: they must not fail because many scrolls are open.

    Raises:
        NotFoundError: the collection was dropped.
        ResourceExhaustedError: TOO_MANY_SCROLLS: the limit is reached, and no scroll of this
            process was idle long enough to be ended.
    """
    store.check_not_dropped(transaction)
    remove_expired_leases(store, transaction)
    held = transaction.stat(_database(store))["entries"]
    if limited and held >= limits.LEASES_MAX and not _end_idle_scroll(store, transaction):
        raise ResourceExhaustedError(
            f"the collection has {held} open scrolls (limit {limits.LEASES_MAX}); close some, or "
            f"retry later: a scroll ends after {limits.LEASE_S:g} s without a request for a page",
            Reason.TOO_MANY_SCROLLS,
        )
    state, counters = store.read_state(transaction), store.read_counters(transaction)
    now_ns = _now_ns(store, transaction)
    lease = Lease(uuid.uuid4().bytes, state.seq, counters.next_row, _lease_end(now_ns))
    _put(store, transaction, lease)
    return lease


def check_lease(store: Store, transaction: Transaction, lease_id: bytes) -> Lease:
    """Return a lease that is still valid.

    Raises:
        FailedPreconditionError: PIN_EXPIRED: the lease has expired or was released.
        DataLossError: the lease is damaged.
    """
    value = transaction.get(lease_id, db=_database(store))
    lease = None if value is None else layout.unpack_lease(lease_id, value)
    if lease is None or lease.expiry_ns <= _now_ns(store, transaction):
        raise FailedPreconditionError(
            f"the scroll has ended: no page was requested for {limits.LEASE_S:g} s, or it was "
            "idle while too many scrolls were open, or it was closed; start a new scroll",
            Reason.PIN_EXPIRED,
        )
    return lease


@contextlib.contextmanager
def leased(store: Store) -> Iterator[Callable[[], None]]:
    """Hold a lease on the latest committed state. Must not be called inside a transaction.

    Yields a function that renews the lease when needed. Work that may take longer than a lease
    period calls it between its steps, from any thread, outside transactions; most calls do nothing.

    If the store cannot be written, there is no lease: this process cannot purge either. If another
    process can write and purges, the reads themselves raise that their snapshot is too old.
    """
    lease = None
    with contextlib.suppress(*_UNWRITABLE):
        lease = store.environment.transact(lambda t: take_lease(store, t, limited=False))
    if lease is None:
        yield lambda: None
        return
    held, renewing = [lease], threading.Lock()

    def keep() -> None:
        if not renewing.acquire(blocking=False):
            return  # Another thread is renewing.
        try:
            if held:
                held[0] = keep_lease(store, held[0])
        except FailedPreconditionError:
            held.clear()  # Too late: reads whose snapshot is too old raise that themselves.
        finally:
            renewing.release()

    try:
        yield keep
    finally:
        with contextlib.suppress(VecdbError):  # The lease then expires.
            store.environment.transact(lambda t: release_lease(store, t, lease.id))


def keep_lease(store: Store, lease: Lease) -> Lease:
    """Renew a lease if less than three quarters of it are left; return the lease.

    Must not be called inside a transaction. If the store cannot be written, returns the lease as
    it is.

    Raises:
        FailedPreconditionError: PIN_EXPIRED: the lease has expired or was released.
    """
    with store.environment.read() as transaction:
        left_s = (lease.expiry_ns - _now_ns(store, transaction)) / 1e9
    if left_s < _RENEWED_BELOW * limits.LEASE_S:
        with contextlib.suppress(*_UNWRITABLE):
            return store.environment.transact(lambda t: renew_lease(store, t, lease.id))
    return lease


def renew_lease(store: Store, transaction: Transaction, lease_id: bytes) -> Lease:
    """Extend a lease to a full period from now; return the new lease.

    Raises:
        FailedPreconditionError: PIN_EXPIRED: the lease has expired or was released.
    """
    lease = check_lease(store, transaction, lease_id)
    lease_end = _lease_end(_now_ns(store, transaction))
    renewed = lease._replace(expiry_ns=max(lease.expiry_ns, lease_end))
    _put(store, transaction, renewed)
    return renewed


def release_lease(store: Store, transaction: Transaction, lease_id: bytes) -> bool:
    """Delete a lease; return False if there was none."""
    return transaction.delete(lease_id, db=_database(store))


def remove_expired_leases(store: Store, transaction: Transaction) -> int:
    """Remove leases that have expired or are damaged; return how many were removed.

    Purging calls this in the transaction that begins a pass, so that no lease outlives its rows.
    The scan is short: only leases of single calls come on top of ``limits.LEASES_MAX``.
    """
    store.clock.advance(transaction)
    now_ns = _now_ns(store, transaction)
    expired, shortened = [], []
    with transaction.cursor(_database(store)) as cursor:
        for key, value in cursor.iternext(keys=True, values=True):
            # A damaged lease has no readable seq and expiry, so its scroll ends here.
            with contextlib.suppress(DataLossError):
                lease = layout.unpack_lease(key, value)
                if lease.expiry_ns > _lease_end(now_ns):
                    shortened.append(lease._replace(expiry_ns=_lease_end(now_ns)))
                if lease.expiry_ns > now_ns:
                    continue
            expired.append(bytes(key))
    for lease in shortened:
        _put(store, transaction, lease)
    for lease_id in expired:
        transaction.delete(lease_id, db=_database(store))
    return len(expired)


def _end_idle_scroll(store: Store, transaction: Transaction) -> bool:
    """End the longest idle scroll of this process; return False if none is idle long enough."""
    for lease_id in store.scroll_uses.idle():
        if release_lease(store, transaction, lease_id):
            return True
        store.scroll_uses.forget(lease_id)
    return False


def oldest_lease(store: Store, transaction: Transaction) -> Lease | None:
    """Return the valid lease with the smallest seq, or None; of equal seqs the one that expires
    last."""
    now_ns = _now_ns(store, transaction)
    live = (lease for lease in _leases(store, transaction) if lease.expiry_ns > now_ns)
    return min(live, key=lambda lease: (lease.seq, -lease.expiry_ns), default=None)


def oldest_leased_seq(store: Store, transaction: Transaction) -> int | None:
    """Return the smallest seq under a valid lease, or None. Rows live at that seq must stay."""
    oldest = oldest_lease(store, transaction)
    return None if oldest is None else oldest.seq


def _leases(store: Store, transaction: Transaction) -> Iterator[Lease]:
    with transaction.cursor(_database(store)) as cursor:
        for key, value in cursor.iternext(keys=True, values=True):
            yield layout.unpack_lease(key, value)


def _put(store: Store, transaction: Transaction, lease: Lease) -> None:
    # Without a clock record the time would stand still, and the lease would never expire.
    store.clock.advance(transaction)
    transaction.put(lease.id, layout.pack_lease(lease), db=_database(store))


def _database(store: Store) -> DatabaseHandle:
    return store.environment.handles.pins


def _now_ns(store: Store, transaction: Transaction) -> int:
    return store.clock.read(transaction)


def _lease_end(now_ns: int) -> int:
    return now_ns + int(limits.LEASE_S * 1e9)
