"""The snapshot lease of an export: keeps the state at one seq readable for file and sidecar.

After the export the lease passes to the receiver, as the token of a scroll at that seq: this
process or a client then reads ids and metadata for the sidecar, in the order of the export's rows.
Until the token is handed over, the export owns the lease and releases it at its end.
"""

from __future__ import annotations

import contextlib
import math
import time

from vecdb import limits
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout, leases
from vecdb.engine.store.layout import Lease
from vecdb.engine.store.scroll_token import ScrollToken, pack_token
from vecdb.engine.store.store import Store
from vecdb.errors import VecdbError

__all__ = ["ExportLease"]

_RENEWED_BELOW_S = limits.LEASE_S / 2


class ExportLease:
    """A lease that can be taken, moved to a later seq, and renewed. For one thread at a time.

    Attributes:
        live_count: live rows at the seq at which the lease was last taken.
    """

    def __init__(self, store: Store, collection_id: str) -> None:
        self._store = store
        self._collection_id = collection_id
        self._lease: Lease | None = None
        self._renewed_at = 0.0
        self.live_count = 0

    @property
    def seq(self) -> int:
        """The seq of the lease."""
        assert self._lease is not None
        return self._lease.seq

    def take(self) -> None:
        """Take a lease on the committed state; release the one held before.

        Raises:
            ResourceExhaustedError: TOO_MANY_SCROLLS, or the disk is full.
        """
        self.release()

        def write(transaction: Transaction) -> tuple[Lease, int]:
            live_count = self._store.read_counters(transaction).live_count
            return leases.take_lease(self._store, transaction), live_count

        self._lease, self.live_count = self._store.environment.transact(write)
        self._renewed_at = time.monotonic()

    def move_to(self, seq: int, next_row: int) -> None:
        """Move the lease to a later state, which was committed after the lease was taken.

        Raises:
            FailedPreconditionError: PIN_EXPIRED.
        """
        assert self._lease is not None and seq >= self._lease.seq
        if (seq, next_row) != (self._lease.seq, self._lease.next_row):
            moved = self._lease._replace(seq=seq, next_row=next_row)
            self._lease = self._store.environment.transact(lambda t: self._put(t, moved))

    def _put(self, transaction: Transaction, moved: Lease) -> Lease:
        held = leases.check_lease(self._store, transaction, moved.id)
        moved = moved._replace(expiry_ns=held.expiry_ns)
        database = self._store.environment.handles.pins
        transaction.put(moved.id, layout.pack_lease(moved), db=database)
        return moved

    def renew(self) -> None:
        """Renew the lease if half of its time has passed. Cheap; call it often.

        Raises:
            FailedPreconditionError: PIN_EXPIRED.
        """
        if self._lease is None or time.monotonic() - self._renewed_at < _RENEWED_BELOW_S:
            return
        lease_id = self._lease.id
        self._lease = self._store.environment.transact(
            lambda transaction: leases.renew_lease(self._store, transaction, lease_id)
        )
        self._renewed_at = time.monotonic()

    def token(self) -> str:
        """Renew the lease and return the token of a scroll under it.

        Raises:
            FailedPreconditionError: PIN_EXPIRED.
        """
        assert self._lease is not None
        self._renewed_at = -math.inf
        self.renew()
        return pack_token(ScrollToken(self._lease.id, self._lease.seq, 0, self._collection_id))

    def hand_over(self) -> None:
        """Pass the lease to the receiver of the token."""
        self._lease = None

    def release(self) -> None:
        """Release the lease, unless it was handed over."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(VecdbError):  # If this fails, the lease expires.
                self._store.environment.transact(
                    lambda transaction: leases.release_lease(self._store, transaction, lease.id)
                )
