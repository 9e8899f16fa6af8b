"""Writing segments again that lack an optional part, with all parts that can be derived.

A part is lost if its files are damaged or gone: its segment is written again at once. A segment of
an earlier version, or one written without codes, never had it: that waits for ``optimize``.

Files of a published segment never change, so the segment is written under a new number and replaces
the old one, as any other segment does. Given parts (rows and graph) are copied, deleted rows
included; all that are derived from them are derived again, so that they fit each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from vecdb.engine.segments.flushing import intact_segment
from vecdb.engine.segments.lifecycle import GRAPH_LOCK, publish, reserve
from vecdb.engine.segments.parts import derivable, given_parts
from vecdb.engine.segments.segment import write_segment
from vecdb.engine.store.metadata_rows import metadata_reader
from vecdb.engine.store.segment_table import SegmentEntry, in_place
from vecdb.engine.store.store import Store
from vecdb.engine.system.failpoints import failpoint

__all__ = ["rebuild_parts"]


def rebuild_parts(
    store: Store,
    segments: Path,
    collection_id: str,
    should_stop: Callable[[], bool],
    *,
    codes: bool = True,
    lacking: Collection[int] = (),
    outdated: Collection[int] = (),
) -> bool:
    """Write the published segments again that have lost parts; ``graph.lock`` must be held.

    Args:
        should_stop: asked before each segment.
        codes: whether parts that only code rows count, and are written.
        lacking: numbers of further segments to write, since they never had some part.
        outdated: numbers of further ones of which only the parts that are derived from metadata are
            to be derived again; their other files are used again.

    Returns:
        False if some were left: a flush has reserved their rows, or it was to stop.
    """
    with store.environment.read() as transaction:
        entries = store.read_segments(transaction)
    complete = True
    for number, entry in in_place(entries):
        # A part of a kind that this version does not know stays lost.
        whole = number in lacking or derivable(entry.lost_parts, codes=codes)
        due = whole or number in outdated
        if entry.is_published and due:
            done = not should_stop() and _rebuild(
                store, segments, collection_id, number, entry, codes=codes, whole=whole
            )
            complete = complete and done
    return complete


def _rebuild(
    store: Store,
    segments: Path,
    collection_id: str,
    number: int,
    entry: SegmentEntry,
    *,
    codes: bool,
    whole: bool,
) -> bool:
    segment = intact_segment(store, segments, collection_id, number, entry)
    if segment is None:
        return True  # Quarantined or replaced: either way it will be written as a whole.
    taken = reserve(
        store,
        GRAPH_LOCK,
        entry.first_row,
        entry.end_row,
        replacing=[number],
        keep_tombstones=True,
    )
    if taken is None:
        return False
    failpoint("parts.reserved")
    new = write_segment(
        segments / str(taken.number),
        number=taken.number,
        collection_id=collection_id,
        config=store.config,
        first_row=taken.first_row,
        end_row=taken.end_row,
        seq=segment.seq,
        given=given_parts(segment.parts),
        codes=codes,
        metadata=metadata_reader(store),
        kept=None if whole or segment.damaged_parts else segment,
    )
    return publish(store, taken, new)
