"""Pins: long readers hold a state of the collection without holding a transaction.

A pin is a lease on a seq, in the database ``leases``, so that every process respects it: as long as
it lives nothing is purged that a reader at that seq needs. Whoever holds it renews it; one that was
not renewed in time has expired, whatever became of its holder, and counts for nothing from then on.
An expired pin never comes back to life. Leases go by the store's clock (``clock.py``), which
no jump of the wall clock moves. One that lasts for longer than leases do was taken by the wall
clock of an earlier version: it is cut to their length when expired ones are removed next.

These functions do their work in a transaction of the caller; those that change something need one
of ``environment.transact``. Neither seq nor generation changes with pins.
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
"""A lease of which less is left is renewed: doing it each time would cost a commit."""

_UNWRITABLE: Final = (ResourceExhaustedError, UnavailableError, OutcomeUnknownError)


def take_lease(store: Store, transaction: Transaction, *, limited: bool = True) -> Lease:
    """Pin what is committed now. Expired pins of others are removed on the way.

    Args:
        limited: refuse it beside as many as scrolls may be. A read that pins what it needs for a
            moment is there for no longer than its call, and must not fail because scrolls are many.

    Raises:
        NotFoundError: the collection was dropped.
        ResourceExhaustedError: there are as many as may be, and no scroll of this process has
            rested for long enough to end for it.
    """
    store.check_not_dropped(transaction)
    remove_expired_leases(store, transaction)
    held = transaction.stat(_database(store))["entries"]
    if limited and held >= limits.LEASES_MAX and not _end_idle_scroll(store, transaction):
        raise ResourceExhaustedError(
            f"{held} scrolls of the collection are under way, at most {limits.LEASES_MAX} may be; "
            f"those that are asked for no page end after {limits.LEASE_S:g} s",
            Reason.TOO_MANY_SCROLLS,
        )
    state, counters = store.read_state(transaction), store.read_counters(transaction)
    now_ns = _now_ns(store, transaction)
    lease = Lease(uuid.uuid4().bytes, state.seq, counters.next_row, _lease_end(now_ns))
    _put(store, transaction, lease)
    return lease


def check_lease(store: Store, transaction: Transaction, lease_id: bytes) -> Lease:
    """A pin that lives.

    Raises:
        FailedPreconditionError: it has expired or was released.
    """
    value = transaction.get(lease_id, db=_database(store))
    lease = None if value is None else layout.unpack_lease(lease_id, value)
    if lease is None or lease.expiry_ns <= _now_ns(store, transaction):
        raise FailedPreconditionError(
            "the scroll has ended: no page was asked for in "
            f"{limits.LEASE_S:g} s, or for a while beside too many others, or it was closed; "
            "begin a new one",
            Reason.PIN_EXPIRED,
        )
    return lease


@contextlib.contextmanager
def leased(store: Store) -> Iterator[Callable[[], None]]:
    """Nothing that can be read now is purged in the meantime. Not inside a transaction.

    Gives a function that keeps the lease: whoever may take longer than a lease calls it between the
    steps of the work, outside of transactions, from any thread; mostly it does nothing.

    Where nothing can be written it does without, as nothing can be purged there either; beside
    another process that can, who is overtaken is told where it reads.
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
            return  # Another thread is at it.
        try:
            if held:
                held[0] = keep_lease(store, held[0])
        except FailedPreconditionError:
            held.clear()  # Too late: who is overtaken now is told where it reads.
        finally:
            renewing.release()

    try:
        yield keep
    finally:
        with contextlib.suppress(VecdbError):  # Its lease ends by itself.
            store.environment.transact(lambda t: release_lease(store, t, lease.id))


def keep_lease(store: Store, lease: Lease) -> Lease:
    """The pin, its lease begun anew if a good part of it is over. Not inside a transaction.

    Where nothing can be written, the lease that there is goes on.

    Raises:
        FailedPreconditionError: it has expired or was released.
    """
    with store.environment.read() as transaction:
        left_s = (lease.expiry_ns - _now_ns(store, transaction)) / 1e9
    if left_s < _RENEWED_BELOW * limits.LEASE_S:
        with contextlib.suppress(*_UNWRITABLE):
            return store.environment.transact(lambda t: renew_lease(store, t, lease.id))
    return lease


def renew_lease(store: Store, transaction: Transaction, lease_id: bytes) -> Lease:
    """Begin its lease anew.

    Raises:
        FailedPreconditionError: it has expired or was released.
    """
    lease = check_lease(store, transaction, lease_id)
    lease_end = _lease_end(_now_ns(store, transaction))
    renewed = lease._replace(expiry_ns=max(lease.expiry_ns, lease_end))
    _put(store, transaction, renewed)
    return renewed


def release_lease(store: Store, transaction: Transaction, lease_id: bytes) -> bool:
    """Let it go; False if it is not there any more."""
    return transaction.delete(lease_id, db=_database(store))


def remove_expired_leases(store: Store, transaction: Transaction) -> int:
    """Remove pins that have expired or are damaged; how many. There are hardly more
    than ``limits.LEASES_MAX``: those of reads at this moment.

    Who purges does this in the same transaction, so that no pin is left whose rows have gone.
    """
    store.clock.advance(transaction)
    now_ns = _now_ns(store, transaction)
    expired, shortened = [], []
    with transaction.cursor(_database(store)) as cursor:
        for key, value in cursor.iternext(keys=True, values=True):
            # One that is damaged says neither what it holds nor until when: its scroll ends here.
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
    """End the scroll of this process that has rested for longest; False if none has for long."""
    for lease_id in store.scroll_uses.idle():
        if release_lease(store, transaction, lease_id):
            return True
        store.scroll_uses.forget(lease_id)
    return False


def oldest_lease(store: Store, transaction: Transaction) -> Lease | None:
    """The living pin with the smallest seq, of several the one that lives longest; None without
    any."""
    now_ns = _now_ns(store, transaction)
    live = (lease for lease in _leases(store, transaction) if lease.expiry_ns > now_ns)
    return min(live, key=lambda lease: (lease.seq, -lease.expiry_ns), default=None)


def oldest_leased_seq(store: Store, transaction: Transaction) -> int | None:
    """The smallest seq under a living pin: what was there then must stay. None without any."""
    oldest = oldest_lease(store, transaction)
    return None if oldest is None else oldest.seq


def _leases(store: Store, transaction: Transaction) -> Iterator[Lease]:
    with transaction.cursor(_database(store)) as cursor:
        for key, value in cursor.iternext(keys=True, values=True):
            yield layout.unpack_lease(key, value)


def _put(store: Store, transaction: Transaction, lease: Lease) -> None:
    store.clock.advance(transaction)  # So that the lease ends though nobody writes.
    transaction.put(lease.id, layout.pack_lease(lease), db=_database(store))


def _database(store: Store) -> DatabaseHandle:
    return store.environment.database(b"pins")


def _now_ns(store: Store, transaction: Transaction) -> int:
    return store.clock.read(transaction)


def _lease_end(now_ns: int) -> int:
    return now_ns + int(limits.LEASE_S * 1e9)
