"""Rewrite flat segments without their deleted rows (graphs are rewritten by the indexer)."""

from __future__ import annotations

from pathlib import Path

from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.segments.flushing import intact_rows, write_and_publish
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.lifecycle import (
    FLUSH_LOCK,
    collect_garbage,
    discard_reservations,
    reserve,
)
from vecdb.engine.store.store import Store
from vecdb.engine.store.tombstones import read_deleted
from vecdb.engine.system.files import file_lock

__all__ = ["rewrite_flat"]


def rewrite_flat(
    store: Store, folder: Path, collection_id: str, snapshot: Snapshot, *, codes: bool
) -> None:
    """Rewrite each flat segment of which less than half of the rows are live.

    Does nothing while another process or thread holds the flush lock, and skips segments that are
    damaged or reserved.

    Args:
        codes: whether they get parts that only code rows.

    Raises:
        ResourceExhaustedError: the disk is full.
        NotFoundError: the collection was dropped.
    """
    sparse = [
        s
        for s in snapshot.segments
        if not s.parts.has(GRAPH) and 2 * s.live_count < len(s.content.rows)
    ]
    if not sparse:
        return
    with file_lock(folder / "seal.lock", wait=False) as held:
        if not held:
            return
        segments = folder / "segments"
        discard_reservations(store, segments, FLUSH_LOCK)
        with store.environment.read() as transaction:
            entries = store.read_segments(transaction)
        for segment in sparse:
            entry = entries.get(segment.number)
            if entry is None or not entry.is_published:
                continue
            content = intact_rows(store, segments, collection_id, segment.number, entry)
            taken = None
            if content is not None:
                taken = reserve(
                    store,
                    FLUSH_LOCK,
                    segment.first_row,
                    segment.end_row,
                    replacing=[segment.number],
                )
            if content is None or taken is None:
                continue
            deleted = read_deleted(store, taken.first_row, taken.end_row, taken.seq)
            live = content.without(deleted)
            write_and_publish(store, segments, collection_id, taken, live, codes=codes)
        collect_garbage(store, segments)
