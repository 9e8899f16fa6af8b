"""Sealing: fresh rows become a flat segment, and small flat segments join to larger ones.

The process that writes does this, in a thread of its own, when a commit has brought the rows that
are in no segment past ``seal_bytes``. It holds ``flush.lock`` meanwhile; if another process holds
it, that one seals. Reading rows back from the store and writing a file in sequence is all there is
to it: graphs are the indexer's work.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

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
"""What a transaction reads: of rows with metadata of 64 KiB each some 250 MB."""

SEGMENTS_BEFORE_JOINING = 12
"""Segments in place before flat ones join."""

SEGMENTS_MAX = 13
"""Flat segments have a usual greatest size, since joining writes both anew; with more segments than
this it no longer counts. A graph job holds at most 12 of them, so that there are never more than
16, as long as they fit into one graph."""


def row_bytes(store: Store) -> int:
    """What a row takes in a flat segment, without its id."""
    return 4 * padded_width(store.config.dim)


_FLAT_FLUSHES_MAX = 16
"""A flat segment usually holds at most this many times what it takes to seal one."""


def flat_rows_max(store: Store, seal_bytes: int, graph_rows_max: int) -> int:
    """Rows that a flat segment usually has at most."""
    return max(1, min(_FLAT_FLUSHES_MAX * seal_bytes // row_bytes(store), graph_rows_max))


def load_rows(store: Store, first_row: int, end_row: int, seq: int) -> RowArrays:
    """The rows of an interval that were live at ``seq``, read from the store in short
    transactions."""
    step = max(1, min(_SLICE_ROWS, _SLICE_BYTES // (4 * store.config.dim)))
    parts = [
        _load_slice(store, start, min(start + step, end_row), seq)
        for start in range(first_row, end_row, step)
    ]
    return RowArrays.joined(parts, padded_width(store.config.dim))


def _load_slice(store: Store, first_row: int, end_row: int, seq: int) -> RowArrays:
    dim, width = store.config.dim, padded_width(store.config.dim)
    raw = np.empty((end_row - first_row, dim), np.float32)
    present = np.zeros(end_row - first_row, bool)
    ids: list[bytes] = []
    with store.environment.read() as transaction:
        for rows, vectors in store.rows.iterate_blocks(transaction, first_row, end_row):
            raw[rows - first_row] = vectors
            present[rows - first_row] = True
        present[store.rows.read_deleted(transaction, first_row, end_row, seq) - first_row] = False
        recorded = np.zeros(len(present), bool)
        for row, encoded in store.rows.iterate_ids(transaction, first_row, end_row):
            if present[row - first_row]:
                recorded[row - first_row] = True
                ids.append(encoded)
        if (present & ~recorded).any() and store.purged_to(transaction) <= seq:
            row = first_row + int(np.flatnonzero(present & ~recorded)[0])
            raise DataLossError(f"row {row} has no record", Reason.RECORD_MISSING)
        # Where purging has passed this seq, a row without a record has died since.
        present &= recorded
    kept = np.flatnonzero(present)
    if len(kept) < len(raw):
        raw = raw[kept]
    vectors = np.empty((len(raw), width), np.float32)
    load_kernels().prepare_rows(raw, vectors, store.config.metric is Metric.COSINE)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return RowArrays(vectors, kept + first_row, offsets, np.frombuffer(b"".join(ids), np.uint8))


def flush(
    store: Store,
    folder: Path,
    collection_id: str,
    *,
    bytes_min: int,
    rows_max: int,
    joined_rows_max: int,
) -> bool:
    """Seal the fresh rows if they take ``bytes_min`` or more (1: if there are any).

    Args:
        rows_max: of one segment as a rule; more rows become several.
        joined_rows_max: of one segment when there would be too many otherwise.

    Returns:
        False if another process is at it.
    """
    with file_lock(folder / "seal.lock", wait=False) as held:
        if not held:
            return False
        segments = folder / "segments"
        segments.mkdir(exist_ok=True)  # Segments may be deleted at any time, all together too.
        discard_reservations(store, segments, FLUSH_LOCK)
        target = 0
        while True:
            with store.environment.read() as transaction:
                counters = store.read_counters(transaction)
            # Rows that come in meanwhile are another call's work, or writers could keep it here.
            target = target or counters.next_row
            memtable = target - counters.sealed_to
            if memtable <= 0 or memtable * row_bytes(store) < bytes_min:
                break
            end_row = counters.sealed_to + min(memtable, rows_max)
            taken = reserve(store, FLUSH_LOCK, counters.sealed_to, end_row, replacing=[])
            if taken is None:
                break
            failpoint("seal.claimed")
            content = load_rows(store, taken.first_row, taken.end_row, taken.seq)
            write_and_publish(store, segments, collection_id, taken, content)
            _join_flat(store, segments, collection_id, rows_max, joined_rows_max)
        collect_garbage(store, segments)
    return True


def write_and_publish(
    store: Store, segments: Path, collection_id: str, taken: Reservation, content: RowArrays
) -> None:
    """Write the files of a reserved flat segment and publish it."""
    entry = write_segment(
        segments / str(taken.number),
        number=taken.number,
        collection_id=collection_id,
        metric=store.config.metric,
        first_row=taken.first_row,
        end_row=taken.end_row,
        seq=taken.seq,
        content=content,
        graph=None,
    )
    publish(store, taken, entry)
    failpoint("seal.published")


def _join_flat(
    store: Store, segments: Path, collection_id: str, rows_max: int, joined_rows_max: int
) -> None:
    """While there are too many segments, join the two flat neighbours that are smallest
    together."""
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
        # None of these deaths is removed while the interval is claimed.
        dead = read_deleted(store, taken.first_row, taken.end_row, taken.seq)
        content = RowArrays.joined(
            [part.without(dead) for part in parts if part is not None],
            padded_width(store.config.dim),
        )
        write_and_publish(store, segments, collection_id, taken, content)


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
    """The flat neighbours to join, or None. An interval that a graph job claimed is left alone."""
    placed = in_place(entries)
    if len(placed) <= SEGMENTS_BEFORE_JOINING:
        return None
    if len(placed) > SEGMENTS_MAX:
        rows_max = joined_rows_max
    claimed = [e for e in entries.values() if e.is_reserved]

    def free(entry: SegmentEntry) -> bool:
        return (
            entry.is_published
            and not entry.has_graph
            and not any(c.overlaps(entry.first_row, entry.end_row) for c in claimed)
        )

    pairs = [
        (left, right)
        for left, right in pairwise(placed)
        if free(left[1]) and free(right[1]) and left[1].count + right[1].count <= rows_max
    ]
    return min(pairs, key=lambda pair: pair[0][1].file_bytes + pair[1][1].file_bytes, default=None)
