"""Checks on opening a collection: its counters against the databases that they count.

LMDB's own pages have no checksum, and a counter's checksum only proves that the value was written
at some time. If pages were lost or reverted to an older state, counters and databases disagree. The
checks read the ends of a few databases and walk none, so that opening stays cheap.
"""

from __future__ import annotations

from itertools import pairwise

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import in_place
from vecdb.engine.store.store import Store
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["check_counters"]


def check_counters(store: Store, transaction: Transaction) -> None:
    """Compare counters and ``state`` with the databases that they describe.

    An entry of ``segments`` whose own checksum fails is ignored here: rows can be read without it,
    and reading the segments reports it.

    Raises:
        DataLossError: COUNTERS, with both numbers; or a counter's checksum fails.
    """
    counters, state = store.read_counters(transaction), store.read_state(transaction)

    def differ(name: str, count: int, found: int, relation: str = "") -> DataLossError:
        return DataLossError(
            f"{store.environment.folder}: the counter {name} is {count}, but there is "
            f"{relation}{found}: parts of the store have been lost or changed",
            Reason.COUNTERS,
        )

    live = transaction.stat(store.environment.handles.ids)["entries"]
    if live != counters.live_count:
        raise differ("live_count", counters.live_count, live, "a number of ids of ")
    for name in (b"records", b"blocks", b"dead"):
        last_row = _last_key(store, transaction, name)
        if last_row is not None and last_row >= counters.next_row:
            raise differ("next_row", counters.next_row, last_row, f"in {name.decode()} a row ")
    # Trimming removes the oldest log entries, so the log may be empty.
    last_seq = _last_key(store, transaction, b"log")
    if last_seq is not None and last_seq != state.seq:
        raise differ("seq", state.seq, last_seq, "a last log entry ")
    if counters.sealed_to > counters.next_row:
        raise differ("sealed_to", counters.sealed_to, counters.next_row, "a next_row of ")
    last_segment = _last_key(store, transaction, b"segments")
    if last_segment is not None and last_segment >= counters.next_segment:
        raise differ("next_segment", counters.next_segment, last_segment, "a segment ")
    try:
        placed = [entry for _, entry in in_place(store.read_segments(transaction))]
    except DataLossError:
        return
    edges = [(0, 0), *((e.first_row, e.end_row) for e in placed)]
    for (_, end), (first, _) in pairwise(edges):
        if first != end:
            raise differ("sealed_to", counters.sealed_to, first, f"after row {end} a segment from ")
    if edges[-1][1] != counters.sealed_to:
        raise differ("sealed_to", counters.sealed_to, edges[-1][1], "an end of the segments at ")


def _last_key(store: Store, transaction: Transaction, name: bytes) -> int | None:
    """Return the number at the start of a database's last key, or None if it is empty."""
    with transaction.cursor(store.environment.database(name)) as cursor:
        if not cursor.last():
            return None
        row: int = int.from_bytes(bytes(cursor.key())[: len(layout.row_key(0))], "big")
        return row
