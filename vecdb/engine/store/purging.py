"""Purging: remove deleted rows and replaced record versions from the store.

A deletion first writes only a tombstone (in the LMDB database ``dead``), and a change of metadata
only a new version of the record. Purging removes the bytes later, in the order of the log. A pass
takes the oldest log entries up to some seq, writes that seq to ``meta``, removes the rows deleted
and the versions replaced in those entries, in ascending order and a few thousand rows a
transaction, and then removes the entries. ``Store.purged_to`` is therefore always correct, and an
interrupted pass is repeated from its start.

    record      deleted rows: all versions; live rows: all versions but the last. Never removed
                later than the row's vector.
    vector      a block without live rows is deleted; one of which less than three quarters is live
                is rewritten without its deleted rows. Until then the bytes stay.
    tombstone   removed once the vector is gone and no segment, published or reserved, can hold the
                row: for a row that was never flushed in the same transaction, otherwise by
                ``trim_tombstones``

A lease of any process protects what a reader at its seq needs. Searches take no lease. They detect
that their snapshot is too old (``purged_to`` is greater than the seq of the snapshot being
created, or a record is missing) and start again. To make that rare, rows deleted in the last minute
are not purged, unless there are too many.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout, leases
from vecdb.engine.store.segment_table import reserved_intervals
from vecdb.engine.store.store import Store
from vecdb.errors import DataLossError

__all__ = ["GRACE_S", "PurgePass", "Purger", "garbage_rows", "purge_all"]

GRACE_S: Final = 60.0
"""Purge delay: seconds that deleted rows stay for searches in progress."""

GARBAGE_FRACTION_MAX: Final = 0.25
GARBAGE_ROWS_MIN: Final = 256
"""With more garbage than this fraction of the live rows (and than this number) the purge delay does
not apply: otherwise a collection that is replaced each minute would take many times its size."""

_RELIEF_MULTIPLE: Final = 2.0
"""With more garbage than this multiple of the above, commits wait until there is less, each for at
most ``_RELIEF_S``."""

_RELIEF_S: Final = 0.25

LIVE_FRACTION_MIN: Final = 0.75
"""A block with a smaller fraction of live rows is rewritten."""

_PASS_ROWS, _PASS_ENTRIES = 1_000_000, 4_000
"""A pass handles at most this much: 8 MB of row numbers in memory."""

_STEP_ROWS: Final = 4_000
"""Rows per transaction, about 50 ms of the write lock."""

_NO_ROWS = np.zeros(0, np.int64)


def garbage_rows(store: Store, transaction: Transaction) -> int:
    """Return the number of records that belong to deleted rows or were replaced by a newer
    version."""
    records: int = transaction.stat(store.environment.handles.records)["entries"]
    return max(0, records - store.read_counters(transaction).live_count)


class Purger:
    """Purges one collection and caches deleted rows per block, which take long to look up.

    Thread-safe.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._busy = threading.Lock()
        self._pass: PurgePass | None = None
        self._tombstones: dict[int, int] = {}

    def purge_old(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Purge all garbage older than the purge delay, and excess garbage of any age.

        Args:
            should_stop: called before each step; the next purge continues with the rest.
        """
        while not should_stop():
            with self._store.environment.read() as transaction:
                garbage = garbage_rows(self._store, transaction)
                live_count = self._store.read_counters(transaction).live_count
            if not self._is_pressing(garbage, live_count):
                break
            with self._busy:
                if not self._step(garbage):
                    break  # A lease protects the rest.
        purge_all(self._store, should_stop=should_stop)

    def relieve(self, garbage: int, live_count: int) -> bool:
        """Purge one step of any age if there is too much garbage, and for up to ``_RELIEF_S`` if
        there is far too much. Called after each commit, so that writers slow down to the speed of
        purging.

        Args:
            garbage, live_count: rows, as of that commit.

        Returns:
            True if there is still far too much: then call ``purge_old`` in another thread.
        """
        if not self._is_pressing(garbage, live_count) or not self._busy.acquire(blocking=False):
            return False
        ends = time.monotonic() + _RELIEF_S
        try:
            while True:
                purged = self._step(garbage)
                garbage -= purged
                if not purged or garbage <= _RELIEF_MULTIPLE * _tolerated(live_count):
                    return False
                if time.monotonic() > ends:
                    return True
        finally:
            self._busy.release()

    def _is_pressing(self, garbage: int, live_count: int) -> bool:
        return garbage > _tolerated(live_count) or self._pass is not None

    def _step(self, garbage: int) -> int:
        """Do one step of the current pass or of a new one; return 0 if there is nothing to do."""
        try:
            if self._pass is None:
                wanted = max(GARBAGE_ROWS_MIN, garbage // 2)
                self._pass = PurgePass.begin(self._store, rows_max=wanted, grace_s=0.0)
                if self._pass is None:
                    return 0
                self._pass.tombstones = self._tombstones
            purged = self._pass.step()
            if self._pass.done:
                self._pass = None
            return max(1, purged)
        except BaseException:
            self._pass = None
            raise


def _tolerated(live_count: int) -> float:
    return max(GARBAGE_ROWS_MIN, GARBAGE_FRACTION_MAX * live_count)


def purge_all(
    store: Store, grace_s: float = GRACE_S, should_stop: Callable[[], bool] = lambda: False
) -> int:
    """Purge all rows and versions deleted or replaced at least ``grace_s`` seconds ago.

    Args:
        should_stop: called before each step; True ends the purge.

    Returns:
        The number of rows purged.

    Raises:
        NotFoundError: the collection was dropped.
    """
    total = 0
    while not should_stop():
        purge = PurgePass.begin(store, rows_max=_PASS_ROWS, grace_s=grace_s)
        if purge is None:
            break
        while not purge.done and not should_stop():
            total += purge.step()
    return total


class PurgePass:
    """One pass, one transaction at a time.

    Not thread-safe. Several passes may run at the same time, in one process or many.

    Attributes:
        done: whether the pass is complete.
        tombstones: key of a block → purged rows that its bytes still hold, as far as known. The
            look-up takes longer than the rest of a pass, so consecutive passes share the dict.
            Wrong counts are harmless: before a block is changed the tombstones are read.
    """

    def __init__(
        self, store: Store, seq: int, deleted: npt.NDArray[np.int64], changed: npt.NDArray[np.int64]
    ) -> None:
        self.tombstones: dict[int, int] = {}
        self._store = store
        self._seq = seq
        self._deleted = deleted
        self._changed = changed
        self.done = False

    @staticmethod
    def begin(store: Store, *, rows_max: int, grace_s: float) -> PurgePass | None:
        """Begin a pass over the oldest log entries with about ``rows_max`` rows.

        Returns:
            None if nothing may be purged now.

        Raises:
            NotFoundError: the collection was dropped.
        """
        # Check without the write lock first. A damaged lease makes this check fail; the write
        # transaction below removes it.
        with contextlib.suppress(DataLossError), store.environment.read() as transaction:
            if _chosen(store, transaction, 1, grace_s) is None:
                return None

        def write(transaction: Transaction) -> PurgePass | None:
            store.check_not_dropped(transaction)
            # Expired leases are removed first, or some would outlive their rows. A lease that is
            # taken later protects a later seq.
            leases.remove_expired_leases(store, transaction)
            chosen = _chosen(store, transaction, min(rows_max, _PASS_ROWS), grace_s)
            if chosen is None:
                return None
            store.write_purging(transaction, chosen._seq)
            return chosen

        return store.environment.transact(write)

    def step(self) -> int:
        """Run one transaction of the pass; return the number of rows purged."""
        if len(self._deleted):
            rows, self._deleted = self._deleted[:_STEP_ROWS], self._deleted[_STEP_ROWS:]
            self._store.environment.transact(
                lambda t: _purge(self._store, t, rows, self._seq, self.tombstones)
            )
        elif len(self._changed):
            rows, self._changed = self._changed[:_STEP_ROWS], self._changed[_STEP_ROWS:]
            self._store.environment.transact(
                lambda t: _delete_old_versions(self._store, t, rows, self._seq)
            )
        else:
            rows, self.done = _NO_ROWS, True
            self._store.environment.transact(lambda t: _end(self._store, t, self._seq))
        return len(rows)


def _chosen(
    store: Store, transaction: Transaction, rows_max: int, grace_s: float
) -> PurgePass | None:
    leased = leases.oldest_leased_seq(store, transaction)
    now_ns, grace_ns = store.clock.read(transaction), int(grace_s * 1e9)
    last_seq, rows, count = None, 0, 0
    deleted, changed = [_NO_ROWS.astype(np.uint64)], [_NO_ROWS.astype(np.uint64)]
    with transaction.cursor(store.environment.handles.log) as cursor:
        for key, value in cursor.iternext(keys=True, values=True):
            seq = int.from_bytes(key, "big")
            if rows >= rows_max or count >= _PASS_ENTRIES or (leased is not None and seq > leased):
                break
            try:
                entry = layout.unpack_log(key, value)
            except DataLossError:
                # The rows deleted in this entry are unknown, so their bytes stay.
                last_seq, count = seq, count + 1
                continue
            # An entry from the future was written by an earlier version with the wall clock. Its
            # age is unknown, so the purge delay does not apply.
            if now_ns - grace_ns < entry.time_ns <= now_ns:
                break
            last_seq, count = seq, count + 1
            deleted.append(entry.deleted)
            changed.append(entry.changed)
            rows += len(entry.deleted) + len(entry.changed)
    if last_seq is None:
        return None
    all_deleted = np.unique(np.concatenate(deleted)).astype(np.int64)
    all_changed = np.unique(np.concatenate(changed)).astype(np.int64)
    return PurgePass(store, last_seq, all_deleted, np.setdiff1d(all_changed, all_deleted))


def _purge(
    store: Store,
    transaction: Transaction,
    rows: npt.NDArray[np.int64],
    seq: int,
    tombstones: dict[int, int],
) -> None:
    store.check_not_dropped(transaction)
    _delete_records(store, transaction, rows)
    _sparse_blocks(store, transaction, rows, seq, tombstones)


def _end(store: Store, transaction: Transaction, seq: int) -> None:
    """Remove the log entries that the pass has processed."""
    store.check_not_dropped(transaction)
    with transaction.cursor(store.environment.handles.log) as cursor:
        found = cursor.first()
        while found and int.from_bytes(cursor.key(), "big") <= seq:
            cursor.delete()
            found = bool(cursor.key())
    store.end_purging(transaction, seq)


def _delete_records(store: Store, transaction: Transaction, rows: npt.NDArray[np.int64]) -> None:
    """Delete every version of the records of some rows."""
    with transaction.cursor(store.environment.handles.records) as cursor:
        for row in rows.tolist():
            first = layout.record_key(row, 0)
            prefix = first[:8]
            # Rows deleted together were often added together: then no seek is needed.
            if bytes(cursor.key())[:8] != prefix and not cursor.set_range(first):
                return
            while bytes(cursor.key())[:8] == prefix:
                cursor.delete()


def _delete_old_versions(
    store: Store, transaction: Transaction, rows: npt.NDArray[np.int64], seq: int
) -> None:
    """Delete each row's record versions older than the one that a reader at ``seq`` sees."""
    store.check_not_dropped(transaction)
    with transaction.cursor(store.environment.handles.records) as cursor:
        for row in rows.tolist():
            versions = []
            found = cursor.set_range(layout.record_key(row, 0))
            while found:
                at, version = layout.unpack_record_key(cursor.key())
                if at != row or version > seq:
                    break
                versions.append(version)
                found = cursor.next()
            for version in versions[:-1]:
                cursor.set_key(layout.record_key(row, version))
                cursor.delete()


def _sparse_blocks(
    store: Store,
    transaction: Transaction,
    rows: npt.NDArray[np.int64],
    seq: int,
    tombstones: dict[int, int],
) -> None:
    """Delete or rewrite the blocks of these rows that have too few live rows left."""
    blocks, dim = store.environment.handles.blocks, store.config.dim
    reservations = reserved_intervals(store.read_segments(transaction))
    sealed_to = store.read_counters(transaction).sealed_to
    for key, value, own in store.rows.blocks_holding(transaction, rows):
        held, first = layout.held_rows(key, value, dim), int.from_bytes(key, "big")
        if first in tombstones:
            tombstones[first] += len(own)
            if len(held) - tombstones[first] >= LIVE_FRACTION_MIN * len(held):
                continue
        deleted = own
        if len(own) < len(held):
            deleted = store.rows.read_deleted(transaction, int(held[0]), int(held[-1]) + 1, seq)
        live = ~np.isin(held, deleted, assume_unique=True)
        live_count = int(np.count_nonzero(live))
        tombstones[first] = len(held) - live_count
        if live_count >= LIVE_FRACTION_MIN * len(held):
            continue
        if live_count == 0:
            transaction.delete(key, db=blocks)
            del tombstones[first]
        else:
            try:
                _, vectors = layout.unpack_block(key, value, dim)
            except DataLossError:
                continue  # A damaged block stays as evidence; reading its rows raises.
            kept = np.ascontiguousarray(vectors[live])
            transaction.put(key, layout.pack_block(key, kept, held[live]), db=blocks)
            tombstones[first] = 0
        gone = held[~live]
        # Some of these rows belong to later steps, but no record may outlive its vector, even while
        # its tombstone stays: a reserved segment may be without the row, and then trimming removes
        # the tombstone.
        _delete_records(store, transaction, gone)
        gone = gone[gone >= sealed_to]
        for begin, end, _ in reservations:
            gone = gone[(gone < begin) | (gone >= end)]
        store.remove_tombstones(transaction, gone)
