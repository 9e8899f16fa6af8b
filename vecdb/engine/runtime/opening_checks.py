"""What is compared when a collection is opened: its counters with the databases that they count.

LMDB's own pages have no checksum, and a counter's checksum only says that it was once written. If
pages were lost or came back in an older state, one shows that the other does not go with it. All of
it takes the ends of a few databases and no walk, so that opening stays cheap.
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
    """Compare counters and ``state`` with what they speak of.

    An entry of ``segments`` whose own checksum fails is passed over here: rows can be read without
    it, and whoever needs the segments comes upon it.

    Raises:
        DataLossError: COUNTERS, both numbers in the message; or a counter's checksum fails.
    """
    counters, state = store.read_counters(transaction), store.read_state(transaction)

    def differ(what: str, said: int, found: int, relation: str = "") -> DataLossError:
        return DataLossError(
            f"{store.environment.folder}: the counter {what} is {said}, but there is "
            f"{relation}{found}: parts of the store have been lost or changed",
            Reason.COUNTERS,
        )

    live = transaction.stat(store.environment.database(b"ids"))["entries"]
    if live != counters.live_count:
        raise differ("live_count", counters.live_count, live, "a number of ids of ")
    for name in (b"records", b"blocks", b"dead"):
        last_row = _last_key(store, transaction, name)
        if last_row is not None and last_row >= counters.next_row:
            raise differ("next_row", counters.next_row, last_row, f"in {name.decode()} a row ")
    # The log may have been trimmed from its old end, and be empty.
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
    """The number that the last key of a database begins with; None if the database is empty."""
    with transaction.cursor(store.environment.database(name)) as cursor:
        if not cursor.last():
            return None
        row: int = int.from_bytes(bytes(cursor.key())[: len(layout.row_key(0))], "big")
        return row
