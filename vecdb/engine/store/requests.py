"""Request ids: a write that is repeated with the same request id is applied once.

The transaction that applies a batch also stores its request id with the receipt and a digest of the
whole batch (``digest.py``). If the same batch comes again under the same id within the
window, any process returns the stored receipt. A different batch under the id is refused. A batch
that was refused stores nothing, so its id may be used again.

A second entry per request, keyed by seq, lists requests from the oldest to the newest. Each write
with a request id removes a few expired requests, more than it adds, so the number kept is bounded
by the number written in one window. Writes without ids remove nothing and add nothing. Windows end
by the store's clock (``clock.py``), which wall-clock jumps do not affect. A timestamp ahead of that
clock comes from an earlier version, which used the wall clock: the window of such a request begins
when it becomes the oldest.

Ids that a batch skipped have an entry of their own in ``meta``, so that a request has the size that
earlier versions read. It goes with its request, or later if an earlier version removed that.

A damaged entry affects only writes under its own id: they are refused with DATA_LOSS, since the
batch may have been applied already. The entry is removed when the next younger one expires.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import islice, takewhile

from vecdb import limits
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.engine.store.layout import Request
from vecdb.errors import DataLossError, FailedPreconditionError
from vecdb.reasons import Reason
from vecdb.types import Receipt

__all__ = ["Requests"]

REMOVED_AT_ONCE_MAX = 16
"""One write removes at most this many expired requests."""


_AHEAD_MAX = 1_000
"""One write corrects at most this many timestamps that are ahead of the clock."""


class Requests:
    """The request ids of one store. Holds no state between calls."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._handles = environment.handles

    def answered(
        self, transaction: Transaction, request_id: bytes, digest: bytes, now_ns: int
    ) -> Request | None:
        """Return the entry of the batch that was applied under this id, or None.

        Writes the entry again unchanged. So the answer waits for a sync of its own: the process
        that wrote the batch may have been killed before its sync completed.

        Raises:
            FailedPreconditionError: REQUEST_ID_REUSED: a different batch was applied under it.
            DataLossError: the entry of this id is damaged.
        """
        known = self._known(transaction, request_id)
        if known is None or known.time_ns < _oldest_ns(now_ns):
            return None
        if known.digest != digest:
            raise FailedPreconditionError(
                f"request_id {request_id.decode()!r} was used for a different batch, applied at "
                f"seq {known.seq} (its SHA-256 begins with {known.digest.hex()[:8]}, this batch's "
                f"with {digest.hex()[:8]}); use a new request_id for each batch",
                Reason.REQUEST_ID_REUSED,
            )
        self._put(transaction, request_id, known)
        return known

    def skipped(self, transaction: Transaction, request: Request) -> list[int]:
        """Return the positions of the ids that the batch of a request skipped.

        Raises:
            DataLossError: their entry is damaged.
        """
        key = layout.skipped_key(request.seq)
        value = transaction.get(key, db=self._handles.meta)
        return [] if value is None else layout.unpack_skipped(key, value)

    def remember(
        self,
        transaction: Transaction,
        request_id: bytes,
        digest: bytes,
        receipt: Receipt,
        now_ns: int,
        skipped: Sequence[int] = (),
    ) -> None:
        """Store the receipt of a batch, and remove some expired requests. skipped: positions of
        the receipt's ``skipped`` in the batch."""
        self._forget_expired(transaction, now_ns)
        known = self._known(transaction, request_id)
        if known is not None:  # Expired, or ``answered`` would have returned its receipt.
            transaction.delete(layout.request_age_key(known.seq), db=self._handles.requests)
        request = Request(receipt.seq, now_ns, digest, receipt.count)
        self._put(transaction, request_id, request)
        if skipped:
            key = layout.skipped_key(receipt.seq)
            transaction.put(key, layout.pack_skipped(key, skipped), db=self._handles.meta)
        key = layout.request_age_key(receipt.seq)
        transaction.put(key, layout.pack_value(key, request_id), db=self._handles.requests)

    def _forget_expired(self, transaction: Transaction, now_ns: int) -> None:
        oldest_ns = _oldest_ns(now_ns)
        expired: list[bytes] = []
        ahead: list[tuple[bytes, Request]] = []
        damaged: list[bytes] = []
        with transaction.cursor(self._handles.requests) as cursor:
            if not cursor.set_range(layout.REQUEST_AGES):
                return
            for key, value in cursor.iternext(keys=True, values=True):
                entries = [bytes(key)]
                try:
                    entries.append(bytes(layout.unpack_value(key, value, "request")))
                    known = self._known(transaction, entries[1])
                except DataLossError:
                    # Its time is unknown. Once a younger request has expired, so has this one.
                    damaged += entries
                    continue
                if known is not None:
                    if known.time_ns > now_ns and len(ahead) < _AHEAD_MAX:
                        ahead.append((entries[1], known._replace(time_ns=now_ns)))
                        continue
                    if known.time_ns >= oldest_ns or ahead:
                        break
                    expired += damaged
                    damaged.clear()
                expired += entries
                if len(expired) >= 2 * REMOVED_AT_ONCE_MAX:
                    break
        for entry in expired:
            transaction.delete(entry, db=self._handles.requests)
        self._forget_skipped(transaction, max(filter(_is_age, expired), default=b""))
        for request_id, request in ahead:
            self._put(transaction, request_id, request)

    def _forget_skipped(self, transaction: Transaction, last_age: bytes) -> None:
        """Remove entries of skipped ids up to the seq of an expired request."""
        last = layout.SKIPPED + last_age.removeprefix(layout.REQUEST_AGES)
        gone: list[bytes] = []
        with transaction.cursor(self._handles.meta) as cursor:
            if last_age and cursor.set_range(layout.SKIPPED):
                keys = map(bytes, cursor.iternext(values=False))
                older = takewhile(lambda key: layout.SKIPPED < key <= last, keys)
                gone = list(islice(older, REMOVED_AT_ONCE_MAX))
        for key in gone:
            transaction.delete(key, db=self._handles.meta)

    def lost_age(self, transaction: Transaction, key: bytes, value: memoryview) -> bytes | None:
        """Return the key of the index by age that is missing or wrong for a request.

        Returns:
            None if the index is right, if the request is damaged, or if ``key`` itself is an entry
            of the index.
        """
        if key.startswith(layout.REQUEST_AGES):
            return None
        with contextlib.suppress(DataLossError):
            age_key = layout.request_age_key(layout.unpack_request(key, value).seq)
            age = transaction.get(age_key, db=self._handles.requests) or b""
            return None if bytes(age) == layout.pack_value(age_key, key) else age_key
        return None

    def _known(self, transaction: Transaction, request_id: bytes) -> Request | None:
        value = transaction.get(request_id, db=self._handles.requests)
        return None if value is None else layout.unpack_request(request_id, value)

    def _put(self, transaction: Transaction, request_id: bytes, request: Request) -> None:
        value = layout.pack_request(request_id, request)
        transaction.put(request_id, value, db=self._handles.requests)


def _is_age(key: bytes) -> bool:
    return key.startswith(layout.REQUEST_AGES)


def _oldest_ns(now_ns: int) -> int:
    """Return the time before which requests have expired."""
    return now_ns - int(limits.REQUEST_WINDOW_S * 1e9)
