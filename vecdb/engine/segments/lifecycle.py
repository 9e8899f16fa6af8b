"""The life of a segment in the store: reserved → published → retired → removed.

A reservation takes a number (never used again) and names the lock under which the work is done,
"seal" or "graph". If its holder is killed, the next holder of that lock discards the reservation.
Publishing makes a segment visible and retires all segments that it replaces, in one transaction,
after its files are on disk. So the live segments (and quarantined ones, which keep their place
until they are rebuilt) always own intervals of rows that partition [0, sealed_to).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.segments.segment import remove_segment_folder
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import SegmentEntry, in_place
from vecdb.engine.store.store import Store
from vecdb.engine.system.failpoints import failpoint

__all__ = [
    "FLUSH_LOCK",
    "GRAPH_LOCK",
    "Reservation",
    "collect_garbage",
    "discard_reservations",
    "forget_segments",
    "publish",
    "quarantine",
    "quarantine_parts",
    "remove_drafts",
    "reserve",
    "widen",
]

FLUSH_LOCK = "seal"
GRAPH_LOCK = "graph"


@dataclass(frozen=True)
class Reservation:
    """The number of a segment to be written, its interval, and the seq when it was reserved."""

    number: int
    first_row: int
    end_row: int
    seq: int


def reserve(
    store: Store,
    lock: str,
    first_row: int,
    end_row: int,
    *,
    replacing: Sequence[int] | None = None,
    lost_seq: int | None = None,
    keep_tombstones: bool = False,
) -> Reservation | None:
    """Reserve a number for an interval.

    Args:
        lock: FLUSH_LOCK or GRAPH_LOCK; it must be held.
        replacing: numbers of the segments whose rows will be copied. If other segments are in
            place now, tombstones of the copied rows may have been removed.
        lost_seq: seq at which the rows of quarantined segments were read from the store. If the
            store was purged past it, tombstones may have been removed likewise.
        keep_tombstones: the new segment will have rows that are deleted already: no tombstone of
            the interval is removed. False: those before the reservation may be.

    Returns:
        None if a reservation under the other lock overlaps the interval, or if tombstones may have
        been removed: read the segments again.
    """

    def write(transaction: Transaction) -> Reservation | None:
        store.check_not_dropped(transaction)
        if _reserved_by_another(store, transaction, lock, first_row, end_row):
            return None
        if _has_changed(store, transaction, (first_row, end_row), replacing, lost_seq):
            return None
        counters = store.read_counters(transaction)
        taken = Reservation(
            counters.next_segment, first_row, end_row, store.read_state(transaction).seq
        )
        counters.next_segment += 1
        store.write_counters(transaction, counters)
        seq = 0 if keep_tombstones else taken.seq
        entry = SegmentEntry.reserved(lock, first_row, end_row, seq)
        store.write_segment(transaction, taken.number, entry)
        return taken

    return store.environment.transact(write)


def widen(
    store: Store,
    old: Reservation,
    end_row: int,
    *,
    replacing: Sequence[int] | None = None,
    lost_seq: int | None = None,
) -> Reservation | None:
    """Extend a reservation under GRAPH_LOCK to the right; arguments and None as for ``reserve``."""

    def write(transaction: Transaction) -> Reservation | None:
        if _reserved_by_another(store, transaction, GRAPH_LOCK, old.end_row, end_row):
            return None
        if _has_changed(store, transaction, (old.end_row, end_row), replacing, lost_seq):
            return None
        entry = store.read_segments(transaction)[old.number]
        seq = store.read_state(transaction).seq
        store.write_segment(transaction, old.number, replace(entry, end_row=end_row))
        return Reservation(old.number, old.first_row, end_row, seq)

    return store.environment.transact(write)


def _reserved_by_another(
    store: Store, transaction: Transaction, lock: str, first_row: int, end_row: int
) -> bool:
    return any(
        entry.is_reserved and entry.lock != lock and entry.overlaps(first_row, end_row)
        for entry in store.read_segments(transaction).values()
    )


def _has_changed(
    store: Store,
    transaction: Transaction,
    interval: tuple[int, int],
    replacing: Sequence[int] | None,
    lost_seq: int | None,
) -> bool:
    """Return whether other segments are in place in the interval, or rows were purged since."""
    if lost_seq is not None and store.purged_to(transaction) > lost_seq:
        return True
    if replacing is None:
        return False
    first, end = interval
    present = {
        number
        for number, entry in in_place(store.read_segments(transaction))
        if entry.overlaps(first, end)
    }
    return present != set(replacing)


def publish(store: Store, reservation: Reservation, entry: SegmentEntry) -> bool:
    """Make a written segment visible and retire the segments that it replaces.

    Returns:
        False, and nothing changes, if the reservation is gone, or if the segments in place no
        longer begin and end where its interval does.
    """

    def write(transaction: Transaction) -> bool:
        store.check_not_dropped(transaction)
        entries = store.read_segments(transaction)
        reserved = entries.get(reservation.number)
        if reserved is None or not reserved.is_reserved:
            return False
        counters = store.read_counters(transaction)
        first, end = reservation.first_row, reservation.end_row
        replaced = [item for item in in_place(entries) if item[1].overlaps(first, end)]
        edges = [edge for _, old in replaced for edge in (old.first_row, old.end_row)]
        covered_to = max(edges, default=first)
        begins_well = min(edges, default=first) == first and first <= counters.sealed_to
        ends_well = covered_to == end or (
            covered_to == counters.sealed_to < end <= counters.next_row
        )
        if not (begins_well and ends_well):
            return False
        for number, old in replaced:
            store.write_segment(transaction, number, old.retired())
        store.write_segment(transaction, reservation.number, entry)
        counters.sealed_to = max(counters.sealed_to, end)
        store.write_counters(transaction, counters)
        raise_generation(store, transaction)
        return True

    return store.environment.transact(write)


def raise_generation(store: Store, transaction: Transaction) -> None:
    """Make every process read the table of segments again for its next snapshot."""
    state = store.read_state(transaction)
    store.write_state(transaction, layout.State(state.seq, state.generation + 1))


def quarantine(store: Store, number: int, generation: int | None = None) -> bool:
    """Quarantine a published segment whose files are missing or damaged.

    The store serves its rows until the indexer has rebuilt it.

    Args:
        generation: do nothing if the table of segments has changed since this one, as a missing
            file may be that of a replaced segment. None: quarantine it if it is published, which
            fits bytes that were seen to be damaged.

    Returns:
        True if it was quarantined now.

    Raises:
        NotFoundError: the collection was dropped, and its files with it.
    """

    return _change_published(store, number, generation, SegmentEntry.quarantined)


def quarantine_parts(
    store: Store, number: int, names: Iterable[str], generation: int | None = None
) -> bool:
    """Note optional parts of a published segment as lost; it serves its rows without them.

    Args:
        names: of the parts.
        generation: as for ``quarantine``.

    Returns:
        True if they were noted now.

    Raises:
        NotFoundError: the collection was dropped, and its files with it.
    """

    def without_parts(entry: SegmentEntry) -> SegmentEntry | None:
        return None if set(names) <= set(entry.lost_parts) else entry.without_parts(names)

    return _change_published(store, number, generation, without_parts)


def _change_published(
    store: Store,
    number: int,
    generation: int | None,
    change: Callable[[SegmentEntry], SegmentEntry | None],
) -> bool:
    """Write the changed entry of a published segment and raise the generation.

    Args:
        generation: do nothing if the table of segments has changed since this one.
        change: returns None if there is nothing to change.

    Returns:
        Whether the entry was changed.
    """

    def write(transaction: Transaction) -> bool:
        store.check_not_dropped(transaction)
        if generation not in (None, store.read_state(transaction).generation):
            return False
        entry = store.read_segments(transaction).get(number)
        changed = change(entry) if entry is not None and entry.is_published else None
        if changed is None:
            return False
        store.write_segment(transaction, number, changed)
        raise_generation(store, transaction)
        return True

    return store.environment.transact(write)


def forget_segments(store: Store) -> None:
    """Empty the table of segments, if its entries contradict each other or can't be read.

    All rows are served from the store until they are flushed again. Both locks must be held; the
    caller removes the files.
    """

    def write(transaction: Transaction) -> None:
        database = store.environment.handles.segments
        with transaction.cursor(database) as cursor:
            numbers = [int.from_bytes(key, "big") for key in cursor.iternext(values=False)]
        transaction.drop(database, delete=False)
        counters = store.read_counters(transaction)
        counters.next_segment = max([counters.next_segment, *(n + 1 for n in numbers)])
        counters.sealed_to = 0
        store.write_counters(transaction, counters)
        raise_generation(store, transaction)

    store.environment.transact(write)


def discard_reservations(store: Store, segments: Path, lock: str) -> None:
    """Remove segments that earlier holders of ``lock`` reserved and did not publish.

    The lock must be held.
    """
    with store.environment.read() as transaction:
        entries = store.read_segments(transaction)
    stale = [n for n, e in entries.items() if e.is_reserved and e.lock == lock]
    _remove(store, segments, stale)


def remove_drafts(folder: Path) -> None:
    """Remove drafts of graphs from a collection's folder, left by processes that were killed.

    They are hnswlib's files and the segments of exports. The graph lock must be held.
    """
    for draft in folder.glob("graph-*.hnsw"):
        draft.unlink(missing_ok=True)
    for draft in folder.glob("export-*"):
        shutil.rmtree(draft, ignore_errors=True)


def collect_garbage(store: Store, segments: Path) -> None:
    """Remove retired segments; readers that map their files can use them until they unmap them."""
    with store.environment.read() as transaction:
        entries = store.read_segments(transaction)
    _remove(store, segments, [n for n, e in entries.items() if e.is_retired])


def _remove(store: Store, segments: Path, numbers: list[int]) -> None:
    """Unlink segments. Those that can't be unlinked stay retired, so that a later call retries."""
    if not numbers:
        return
    gone = {number: remove_segment_folder(segments / str(number)) for number in numbers}
    failpoint("collect.unlinked")

    def write(transaction: Transaction) -> None:
        present = store.read_segments(transaction)
        for number in numbers:
            if number in present:
                left = None if gone[number] else present[number].retired()
                store.write_segment(transaction, number, left)

    store.environment.transact(write)
