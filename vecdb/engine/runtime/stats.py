"""``Collection.stats``: rows, segments and bytes at one seq."""

from __future__ import annotations

from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.segments.columns.column_part import columns_left_out_text, columns_text
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.parts import codes_of
from vecdb.engine.store.leases import oldest_lease
from vecdb.engine.store.segment_table import FLAT_KIND, GRAPH_KIND, in_place
from vecdb.types import CollectionStats, SegmentStats

__all__ = ["collection_stats"]


def collection_stats(opened: OpenCollection, indexer: str) -> CollectionStats:
    """Return the state of an open collection.

    Args:
        indexer: what the indexer does for the collection, as text.
    """
    store = opened.store
    snapshot = opened.snapshots.snapshot()
    with store.environment.read() as transaction:
        store.check_not_dropped(transaction)
        entries = store.read_segments(transaction)
        lease, now_ns = oldest_lease(store, transaction), store.clock.read(transaction)
    readers, oldest_reader_lag = store.environment.readers()
    size = {number: entry.file_bytes for number, entry in in_place(entries)}
    segments = [
        SegmentStats(
            number=s.number,
            kind=GRAPH_KIND if s.parts.has(GRAPH) else FLAT_KIND,
            first_row=s.first_row,
            end_row=s.end_row,
            rows=s.node_count,
            dead=s.deleted_count,
            bytes=size.get(s.number, 0),
            codes=codes_of(s.parts),
            codes_left_out=s.why_without_codes(store.config),
            columns=columns_text(s.parts),
            columns_left_out=columns_left_out_text(s.parts),
        )
        for s in snapshot.segments
    ]
    return CollectionStats(
        live_count=snapshot.live_count,
        seq=snapshot.state.seq,
        generation=snapshot.state.generation,
        next_row=snapshot.counters.next_row,
        sealed_to=snapshot.counters.sealed_to,
        fresh_rows=snapshot.memtable_live_count,
        unindexed_rows=snapshot.unindexed_count,
        store_bytes=store.environment.file_bytes(),
        segment_bytes=sum(s.bytes for s in segments),
        indexer=indexer,
        backlog_bytes=opened.backpressure.backlog_bytes,
        write_delay_s=opened.backpressure.delay_s,
        segments=segments,
        oldest_pin_seq=None if lease is None else lease.seq,
        oldest_pin_expires_s=None if lease is None else (lease.expiry_ns - now_ns) / 1e9,
        readers=readers,
        oldest_reader_lag=oldest_reader_lag,
        recall_hour=opened.meter.hour(),
        recall_day=opened.meter.day(),
    )
