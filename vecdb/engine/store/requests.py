"""Writes with a request id: one that is repeated has one effect.

In the transaction that applies a batch its request id is written down with the receipt and a
digest of all that was asked for (``layout.batch_digest``). Who comes with the same id and the same
batch within the window is given that receipt again, whichever process wrote it and whatever became
of it; another batch under the id is refused. A batch that was refused left nothing, so that it may
be tried again under its id.

A second entry a request, by its seq, leads from the oldest to the newest. Each write with an id
removes a few that have passed the window: more than it adds, so that what is kept is bounded by
what is written in a window. Where nobody writes with ids nothing is removed and nothing grows. Time
is that of the store's clock (``clock.py``), which no jump of the wall clock moves. A stamp
that lies ahead of it was made by the wall clock of an earlier version: the window of such a request
begins when it becomes the oldest.

A damaged entry concerns nobody else's write. While a request can't be read, a write under its id is
refused with DATA_LOSS, since it may be a second one; it is forgotten when a younger one is.
"""

from __future__ import annotations

import contextlib

from vecdb import limits
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.named_database import NamedDatabase
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.engine.store.layout import Request
from vecdb.errors import DataLossError, FailedPreconditionError
from vecdb.reasons import Reason
from vecdb.types import Receipt

__all__ = ["Requests"]

REMOVED_AT_ONCE_MAX = 16
"""Expired requests that one write removes at most."""


_AHEAD_MAX = 1_000
"""Oldest requests with a stamp ahead of the clock that one write puts right at most."""


class Requests:
    """The requests that one store knows. Keeps nothing between calls."""

    _requests = NamedDatabase(b"requests")

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def answered(
        self, transaction: Transaction, request_id: bytes, digest: bytes, now_ns: int
    ) -> Receipt | None:
        """The receipt of the batch that was applied under this id, None if there is none.

        The entry is put again as it was. So the answer waits for a sync of its own, since the
        process that wrote the batch may have ended before its sync did.

        Raises:
            FailedPreconditionError: REQUEST_ID_REUSED: it was another batch.
            DataLossError: what is known of this id can't be read.
        """
        known = self._known(transaction, request_id)
        if known is None or known.time_ns < _oldest_ns(now_ns):
            return None
        if known.digest != digest:
            raise FailedPreconditionError(
                f"request_id {request_id.decode()!r} is that of another batch, which was applied "
                f"at seq {known.seq}; this one's SHA-256 begins with {digest.hex()[:8]}, that "
                f"one's with {known.digest.hex()[:8]}",
                Reason.REQUEST_ID_REUSED,
            )
        self._put(transaction, request_id, known)
        return Receipt(known.seq, known.rows, repeated=True)

    def remember(
        self,
        transaction: Transaction,
        request_id: bytes,
        digest: bytes,
        receipt: Receipt,
        now_ns: int,
    ) -> None:
        """Write down that a batch was applied, and forget some that are past the window."""
        self._forget_expired(transaction, now_ns)
        known = self._known(transaction, request_id)
        if known is not None:  # Past the window, or it would have been the answer.
            transaction.delete(layout.request_age_key(known.seq), db=self._requests)
        request = Request(receipt.seq, now_ns, digest, receipt.count)
        self._put(transaction, request_id, request)
        key = layout.request_age_key(receipt.seq)
        transaction.put(key, layout.seal_value(key, request_id), db=self._requests)

    def _forget_expired(self, transaction: Transaction, now_ns: int) -> None:
        oldest_ns = _oldest_ns(now_ns)
        expired: list[bytes] = []
        ahead: list[tuple[bytes, Request]] = []
        damaged: list[bytes] = []
        with transaction.cursor(self._requests) as cursor:
            if not cursor.set_range(layout.REQUEST_AGES):
                return
            for key, value in cursor.iternext(keys=True, values=True):
                entries = [bytes(key)]
                try:
                    entries.append(bytes(layout.open_value(key, value, "request")))
                    known = self._known(transaction, entries[1])
                except DataLossError:
                    # Nothing says when it was written, but a younger one that is past the window.
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
            transaction.delete(entry, db=self._requests)
        for request_id, request in ahead:
            self._put(transaction, request_id, request)

    def lost_age(self, transaction: Transaction, key: bytes, value: memoryview) -> bytes | None:
        """The key under which a request should be found by its age, if it is not; None if it is,
        if nothing can be known of it, and of an entry by age."""
        if key.startswith(layout.REQUEST_AGES):
            return None
        with contextlib.suppress(DataLossError):
            age_key = layout.request_age_key(layout.unpack_request(key, value).seq)
            age = transaction.get(age_key, db=self._requests) or b""
            return None if bytes(age) == layout.seal_value(age_key, key) else age_key
        return None

    def _known(self, transaction: Transaction, request_id: bytes) -> Request | None:
        value = transaction.get(request_id, db=self._requests)
        return None if value is None else layout.unpack_request(request_id, value)

    def _put(self, transaction: Transaction, request_id: bytes, request: Request) -> None:
        value = layout.pack_request(request_id, request)
        transaction.put(request_id, value, db=self._requests)


def _oldest_ns(now_ns: int) -> int:
    """What was written down before this is past the window."""
    return now_ns - int(limits.REQUEST_WINDOW_S * 1e9)
