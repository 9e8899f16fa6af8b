"""Purging: what nobody can read any more leaves the store.

Death is logical (``dead`` says when a row died), and so is a change of metadata (a new version of
the record). The bytes go later, in the order of the log. A pass takes the oldest entries of the
log, up to some seq, says so in ``meta``, removes what died and was replaced in them, a few thousand
rows a transaction and by ascending row, and then the entries themselves. So ``Store.purged_to``
always says how far purging has come, and a pass that was cut short is simply made again.

    record     deleted, or all of its versions but the last; never later than its vector
    vector     its block is deleted when none of its rows lives, and written anew without them when
               fewer than three quarters do; until then the bytes stay
    death      goes when the vector has gone and no segment, in place or being made, can hold the
               row: at once for a row that was never flushed, otherwise by ``trim_tombstones``

Whoever is still reading is respected: a pin keeps what a reader at its seq needs, by whichever
process it was taken. Searches need no pin: they notice when they were overtaken (``purged_to`` has
passed the seq of the view that they make, or a record is gone) and look again. That this happens
seldom is what the grace is for: the last minute's deaths stay, unless there would be too many.
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
"""Seconds that the bytes of dead rows stay for those who are just reading them."""

GARBAGE_FRACTION_MAX: Final = 0.25
GARBAGE_ROWS_MIN: Final = 256
"""With more garbage than this, as a fraction of the live rows and at least so many, there is no
grace, or a collection that is written anew each minute would take many times its size."""

_FAR_TOO_MUCH: Final = 2.0
"""As a multiple of that: here a commit waits until it is less, or for so many seconds."""

_RELIEF_S: Final = 0.25

LIVE_FRACTION_MIN: Final = 0.75
"""A block of which less is alive is written anew."""

_PASS_ROWS, _PASS_ENTRIES = 1_000_000, 4_000
"""What a pass takes at most: 8 MB in memory."""

_STEP_ROWS: Final = 4_000
"""Rows of a transaction: some 50 ms."""

_NO_ROWS = np.zeros(0, np.int64)


def garbage_rows(store: Store, transaction: Transaction) -> int:
    """Records that are of no live row, or have been replaced by a newer version."""
    records: int = transaction.stat(store.environment.database(b"records"))["entries"]
    return max(0, records - store.read_counters(transaction).live_count)


class Purger:
    """Purges one collection, and remembers what takes long to look up. For many threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._busy = threading.Lock()
        self._pass: PurgePass | None = None
        self._tombstones: dict[int, int] = {}

    def purge_old(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Let go of what is too much, whatever its age, and of all that has been dead for a
        while.

        Args:
            should_stop: asked before each step; whoever purges next goes on with what is left.
        """
        while not should_stop():
            with self._store.environment.read() as transaction:
                garbage = garbage_rows(self._store, transaction)
                live_count = self._store.read_counters(transaction).live_count
            if not self._is_pressing(garbage, live_count):
                break
            with self._busy:
                if not self._step(garbage):
                    break  # A pin holds the rest.
        purge_all(self._store, should_stop=should_stop)

    def relieve(self, garbage: int, live_count: int) -> bool:
        """Purge a little, whatever its age, if too much has died, or for a moment if it is far too
        much. Called after each commit, so that writers pay for the space that they take.

        Args:
            garbage, live_count: rows, as of that commit.

        Returns:
            True if it is still far too much: then ``purge_old`` should go on, in another thread.
        """
        if not self._is_pressing(garbage, live_count) or not self._busy.acquire(blocking=False):
            return False
        ends = time.monotonic() + _RELIEF_S
        try:
            while True:
                purged = self._step(garbage)
                garbage -= purged
                if not purged or garbage <= _FAR_TOO_MUCH * _tolerated(live_count):
                    return False
                if time.monotonic() > ends:
                    return True
        finally:
            self._busy.release()

    def _is_pressing(self, garbage: int, live_count: int) -> bool:
        return garbage > _tolerated(live_count) or self._pass is not None

    def _step(self, garbage: int) -> int:
        """Go on with the pass under way, or with a new one; 0 if there is nothing to do."""
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
    """Purge all that has been dead for so long, or until ``should_stop``, which is asked before
    each step; returns rows purged."""
    total = 0
    while not should_stop():
        purge = PurgePass.begin(store, rows_max=_PASS_ROWS, grace_s=grace_s)
        if purge is None:
            break
        while not purge.done and not should_stop():
            total += purge.step()
    return total


class PurgePass:
    """One pass, a transaction at a time. For one thread; several passes at once do no harm.

    Attributes:
        done: nothing is left to do.
        tombstones: key of a block → purged rows that are still in it, as far as known. Looking
            them up takes longer than all the rest, so who makes many passes hands on the same dict.
            A count that is off makes no harm: before a block is touched they are looked up.
    """

    def __init__(
        self, store: Store, seq: int, died: npt.NDArray[np.int64], changed: npt.NDArray[np.int64]
    ) -> None:
        self.tombstones: dict[int, int] = {}
        self._store = store
        self._seq = seq
        self._died = died
        self._changed = changed
        self.done = False

    @staticmethod
    def begin(store: Store, *, rows_max: int, grace_s: float) -> PurgePass | None:
        """Choose what to purge: the oldest log entries, as many as have about ``rows_max`` rows.

        Returns:
            None if there is nothing that may be purged now.

        Raises:
            NotFoundError: the collection was dropped.
        """
        # A damaged pin is removed with those that have expired, when something is written.
        with contextlib.suppress(DataLossError), store.environment.read() as transaction:
            if _chosen(store, transaction, 1, grace_s) is None:
                return None

        def write(transaction: Transaction) -> PurgePass | None:
            store.check_not_dropped(transaction)
            # Expired pins go first, or some would be left whose rows have gone. One that is taken
            # later is of a later seq.
            leases.remove_expired_leases(store, transaction)
            chosen = _chosen(store, transaction, min(rows_max, _PASS_ROWS), grace_s)
            if chosen is None:
                return None
            store.write_purging(transaction, chosen._seq)
            return chosen

        return store.environment.transact(write)

    def step(self) -> int:
        """Go on by one transaction; returns rows purged."""
        if len(self._died):
            rows, self._died = self._died[:_STEP_ROWS], self._died[_STEP_ROWS:]
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
    died, changed = [_NO_ROWS.astype(np.uint64)], [_NO_ROWS.astype(np.uint64)]
    with transaction.cursor(store.environment.database(b"log")) as cursor:
        for key, value in cursor.iternext(keys=True, values=True):
            seq = int.from_bytes(key, "big")
            if rows >= rows_max or count >= _PASS_ENTRIES or (leased is not None and seq > leased):
                break
            try:
                entry = layout.unpack_log(key, value)
            except DataLossError:
                # What died in it is not known, so its bytes stay. The log is only a help.
                last_seq, count = seq, count + 1
                continue
            # An entry from the future was written by the wall clock of an earlier version: nobody
            # can say how old it is, and nothing depends on it.
            if now_ns - grace_ns < entry.time_ns <= now_ns:
                break
            last_seq, count = seq, count + 1
            died.append(entry.died)
            changed.append(entry.changed)
            rows += len(entry.died) + len(entry.changed)
    if last_seq is None:
        return None
    all_deleted = np.unique(np.concatenate(died)).astype(np.int64)
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
    """Remove the entries of the log that have been dealt with."""
    store.check_not_dropped(transaction)
    with transaction.cursor(store.environment.database(b"log")) as cursor:
        found = cursor.first()
        while found and int.from_bytes(cursor.key(), "big") <= seq:
            cursor.delete()
            found = bool(cursor.key())
    store.end_purging(transaction, seq)


def _delete_records(store: Store, transaction: Transaction, rows: npt.NDArray[np.int64]) -> None:
    """Every version of the records of rows."""
    with transaction.cursor(store.environment.database(b"records")) as cursor:
        for row in rows.tolist():
            first = layout.record_key(row, 0)
            prefix = first[:8]
            # Rows that died together were often added together: then the cursor is there already.
            if bytes(cursor.key())[:8] != prefix and not cursor.set_range(first):
                return
            while bytes(cursor.key())[:8] == prefix:
                cursor.delete()


def _delete_old_versions(
    store: Store, transaction: Transaction, rows: npt.NDArray[np.int64], seq: int
) -> None:
    """Of each row, the versions of its record before the one that a reader at ``seq`` sees."""
    store.check_not_dropped(transaction)
    with transaction.cursor(store.environment.database(b"records")) as cursor:
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
    """Delete or rewrite the blocks that hold these rows, where too little of them is left."""
    blocks, dim = store.environment.database(b"blocks"), store.config.dim
    reservations = reserved_intervals(store.read_segments(transaction))
    sealed_to = store.read_counters(transaction).sealed_to
    for key, value, own in store.rows.blocks_holding(transaction, rows):
        held, first = layout.held_rows(key, value, dim), int.from_bytes(key, "big")
        if first in tombstones:
            tombstones[first] += len(own)
            if len(held) - tombstones[first] >= LIVE_FRACTION_MIN * len(held):
                continue
        dead = own
        if len(own) < len(held):
            dead = store.rows.read_deleted(transaction, int(held[0]), int(held[-1]) + 1, seq)
        alive = ~np.isin(held, dead, assume_unique=True)
        live = int(np.count_nonzero(alive))
        tombstones[first] = len(held) - live
        if live >= LIVE_FRACTION_MIN * len(held):
            continue
        if live == 0:
            transaction.delete(key, db=blocks)
            del tombstones[first]
        else:
            try:
                _, vectors = layout.unpack_block(key, value, dim)
            except DataLossError:
                continue  # Its bytes are evidence; who reads its rows is told.
            kept = np.ascontiguousarray(vectors[alive])
            transaction.put(key, layout.pack_block(key, kept, held[alive]), db=blocks)
            tombstones[first] = 0
        gone = held[~alive]
        # Some of them are another step's. A record goes with its vector, also where the death stays
        # for now: if a segment that is being made is without the row, trimming forgets its death.
        _delete_records(store, transaction, gone)
        gone = gone[gone >= sealed_to]
        for begin, end, _ in reservations:
            gone = gone[(gone < begin) | (gone >= end)]
        store.remove_tombstones(transaction, gone)
