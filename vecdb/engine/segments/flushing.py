"""Flushing: the memtable becomes a flat segment, and small flat segments are joined.

The writing process does this in a thread of its own, once the rows that are in no segment take more
than ``seal_bytes``. It holds the flush lock (the file ``seal.lock``) while it works; if another
process holds the lock, that process flushes, or it builds a graph and holds flushes off for a
moment. A flush reads rows from the store and writes files in sequence; graphs are built by the
indexer.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.segments.lifecycle import (
    FLUSH_LOCK,
    Reservation,
    collect_garbage,
    discard_reservations,
    publish,
    quarantine,
    reserve,
)
from vecdb.engine.segments.segment import (
    RowArrays,
    Segment,
    SegmentDamagedError,
    padded_width,
    write_segment,
)
from vecdb.engine.store.segment_table import SegmentEntry, in_place
from vecdb.engine.store.store import Store
from vecdb.engine.store.tombstones import read_deleted
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import file_lock
from vecdb.errors import DataLossError
from vecdb.reasons import Reason
from vecdb.types import Metric

__all__ = [
    "flat_rows_max",
    "flush",
    "intact_rows",
    "intact_segment",
    "load_rows",
    "row_bytes",
    "write_and_publish",
]

_SLICE_ROWS, _SLICE_BYTES = 4_000, 64 * 1024**2
"""Read in one transaction: about 250 MB if each row has 64 KiB of metadata."""

_LOADED_BYTES = 128 * 1024**2
"""Memory for the vectors of an interval that is taken at once; more as they turn out to be live."""

SEGMENTS_BEFORE_JOINING = 12
"""Flat segments are joined while there are more segments than this."""

SEGMENTS_MAX = 13
"""With more segments than this, joined segments may exceed the usual maximum size.

That maximum exists because joining rewrites both segments. A graph job holds at most 12 segments,
so there are at most 16, as long as they fit into one graph."""


def row_bytes(store: Store) -> int:
    """Return the bytes of a row in a flat segment, without its id."""
    return 4 * padded_width(store.config.dim)


_FLAT_FLUSHES_MAX = 16
"""Usual maximum size of a flat segment, in multiples of ``seal_bytes``."""


def flat_rows_max(store: Store, seal_bytes: int, graph_rows_max: int) -> int:
    """Return the usual maximum of rows in a flat segment."""
    return max(1, min(_FLAT_FLUSHES_MAX * seal_bytes // row_bytes(store), graph_rows_max))


def load_rows(store: Store, first_row: int, end_row: int, seq: int) -> RowArrays:
    """Return the rows of an interval that were live at ``seq``.

    They are read from the store in short transactions.

    Raises:
        DataLossError: RECORD_MISSING, a live row has no record; or a checksum differs.
    """
    count, width = max(0, end_row - first_row), padded_width(store.config.dim)
    # Each row goes straight to its place: first use of memory may take longer than copying.
    vectors = np.empty((min(count, _LOADED_BYTES // (4 * width) + 1), width), np.float32)
    step = max(1, min(_SLICE_ROWS, _SLICE_BYTES // (4 * store.config.dim)))
    rows, ids, filled = [np.zeros(0, np.int64)], [], 0
    for start in range(first_row, end_row, step):
        stop = min(start + step, end_row)
        if filled + stop - start > len(vectors):  # Of many row numbers few may be live.
            larger = np.empty((min(count, 2 * len(vectors) + step), width), np.float32)
            larger[:filled] = vectors[:filled]
            vectors = larger
        held, names = _load_slice(store, start, stop, seq, vectors[filled : filled + stop - start])
        rows.append(held)
        ids += names
        filled += len(held)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    id_bytes = np.frombuffer(b"".join(ids), np.uint8)
    return RowArrays(vectors[:filled], np.concatenate(rows), offsets, id_bytes)


def _load_slice(
    store: Store, first_row: int, end_row: int, seq: int, out: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], list[bytes]]:
    """Write the live rows of an interval to the beginning of ``out``; return their numbers and
    ids."""
    prepare, is_cosine = load_kernels().prepare_rows, store.config.metric is Metric.COSINE
    present = np.zeros(end_row - first_row, bool)
    stored, filled, next_row = [np.zeros(0, np.int64)], 0, first_row
    ids: list[bytes] = []
    with store.environment.read() as transaction:
        for rows, vectors in store.rows.iterate_blocks(transaction, first_row, end_row):
            if rows[0] < next_row:  # Blocks overlap only if the store is damaged.
                rows, vectors = rows[rows >= next_row], vectors[rows >= next_row]
                if len(rows) == 0:
                    continue
            next_row = int(rows[-1]) + 1
            raw = vectors if vectors.flags.aligned else vectors.copy()
            prepare(np.ascontiguousarray(raw), out[filled : filled + len(rows)], is_cosine)
            present[rows - first_row] = True
            stored.append(rows)
            filled += len(rows)
        present[store.rows.read_deleted(transaction, first_row, end_row, seq) - first_row] = False
        recorded = np.zeros(len(present), bool)
        for row, encoded in store.rows.iterate_ids(transaction, first_row, end_row):
            if present[row - first_row]:
                recorded[row - first_row] = True
                ids.append(encoded)
        if (present & ~recorded).any() and store.purged_to(transaction) <= seq:
            row = first_row + int(np.flatnonzero(present & ~recorded)[0])
            raise DataLossError(f"row {row} has no record", Reason.RECORD_MISSING)
        # If the store was purged past this seq, a row without a record was deleted since.
        present &= recorded
    held = np.concatenate(stored)
    kept = present[held - first_row]
    if not kept.all():
        held = held[kept]
        out[: len(held)] = out[:filled][kept]
    return held, ids


def flush(
    store: Store,
    folder: Path,
    collection_id: str,
    *,
    bytes_min: int,
    rows_max: int,
    joined_rows_max: int,
    codes: bool = True,
) -> bool:
    """Flush the memtable if it takes ``bytes_min`` bytes or more (1: if it has any rows).

    Args:
        rows_max: usual maximum of one segment; more rows become several segments.
        joined_rows_max: maximum of one segment if there would be too many segments otherwise.
        codes: whether segments get parts that only code rows.

    Returns:
        False if another process is flushing, or has reserved rows: the flush is to be tried again.
    """
    with file_lock(folder / "seal.lock", wait=False) as held:
        if not held:
            return False
        segments = folder / "segments"
        segments.mkdir(exist_ok=True)  # The folder of segments may be deleted at any time.
        discard_reservations(store, segments, FLUSH_LOCK)
        target = 0
        while True:
            with store.environment.read() as transaction:
                counters = store.read_counters(transaction)
            # Later rows are left to the next call: else writers could keep this one going.
            target = target or counters.next_row
            memtable = target - counters.sealed_to
            if memtable <= 0 or memtable * row_bytes(store) < bytes_min:
                break
            end_row = counters.sealed_to + min(memtable, rows_max)
            taken = reserve(store, FLUSH_LOCK, counters.sealed_to, end_row, replacing=[])
            if taken is None:
                return False
            failpoint("flush.reserved")
            content = load_rows(store, taken.first_row, taken.end_row, taken.seq)
            write_and_publish(store, segments, collection_id, taken, content, codes=codes)
            _join_flat(store, segments, collection_id, rows_max, joined_rows_max, codes)
        collect_garbage(store, segments)
    return True


def write_and_publish(
    store: Store,
    segments: Path,
    collection_id: str,
    taken: Reservation,
    content: RowArrays,
    *,
    codes: bool,
) -> None:
    """Write the files of a reserved flat segment and publish it.

    Args:
        codes: whether it gets parts that only code rows.
    """
    entry = write_segment(
        segments / str(taken.number),
        number=taken.number,
        collection_id=collection_id,
        config=store.config,
        first_row=taken.first_row,
        end_row=taken.end_row,
        seq=taken.seq,
        given=content.parts,
        codes=codes,
    )
    publish(store, taken, entry)
    failpoint("flush.published")


def _join_flat(
    store: Store,
    segments: Path,
    collection_id: str,
    rows_max: int,
    joined_rows_max: int,
    codes: bool,
) -> None:
    """While there are too many segments, join the smallest pair of flat neighbours."""
    while True:
        with store.environment.read() as transaction:
            entries = store.read_segments(transaction)
        pair = _smallest_pair(entries, rows_max, joined_rows_max)
        if pair is None:
            return
        (left, left_entry), (right, right_entry) = pair
        parts = [
            intact_rows(store, segments, collection_id, number, entry)
            for number, entry in ((left, left_entry), (right, right_entry))
        ]
        if None in parts:
            return
        taken = reserve(
            store,
            FLUSH_LOCK,
            left_entry.first_row,
            right_entry.end_row,
            replacing=[left, right],
        )
        if taken is None:
            return
        # No tombstone of the interval is removed while it is reserved.
        deleted = read_deleted(store, taken.first_row, taken.end_row, taken.seq)
        content = RowArrays.joined(
            [part.without(deleted) for part in parts if part is not None],
            padded_width(store.config.dim),
        )
        write_and_publish(store, segments, collection_id, taken, content, codes=codes)


def intact_rows(
    store: Store, segments: Path, collection_id: str, number: int, entry: SegmentEntry
) -> RowArrays | None:
    """Return the rows of ``intact_segment``, or None."""
    segment = intact_segment(store, segments, collection_id, number, entry)
    return None if segment is None else segment.content


def intact_segment(
    store: Store, segments: Path, collection_id: str, number: int, entry: SegmentEntry
) -> Segment | None:
    """Return a segment whose checksums are right, or None.

    A segment with a damaged needed part is quarantined, unless it was replaced since ``entry`` was
    read.
    """
    generation = store.current_state().generation
    try:
        segment = Segment(segments / str(number), number, collection_id, entry)
        segment.verify()
    except (SegmentDamagedError, FileNotFoundError):
        with store.environment.read() as transaction:
            present = store.read_segments(transaction).get(number)
        if present == entry:
            quarantine(store, number, generation)
        return None
    return segment


def _smallest_pair(
    entries: dict[int, SegmentEntry], rows_max: int, joined_rows_max: int
) -> tuple[tuple[int, SegmentEntry], tuple[int, SegmentEntry]] | None:
    """Return the flat neighbours to join, or None. Rows reserved by a graph job are left out."""
    placed = in_place(entries)
    if len(placed) <= SEGMENTS_BEFORE_JOINING:
        return None
    if len(placed) > SEGMENTS_MAX:
        rows_max = joined_rows_max
    reserved = [e for e in entries.values() if e.is_reserved]

    def free(entry: SegmentEntry) -> bool:
        return (
            entry.is_published
            and not entry.has_graph
            and not any(r.overlaps(entry.first_row, entry.end_row) for r in reserved)
        )

    pairs = [
        (left, right)
        for left, right in pairwise(placed)
        if free(left[1]) and free(right[1]) and left[1].count + right[1].count <= rows_max
    ]
    return min(pairs, key=lambda pair: pair[0][1].file_bytes + pair[1][1].file_bytes, default=None)
