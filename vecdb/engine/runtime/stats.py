"""What ``Collection.stats`` tells: rows, segments and bytes at one seq."""

from __future__ import annotations

from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.store.leases import oldest_pin
from vecdb.engine.store.segment_table import in_place
from vecdb.types import CollectionStats, SegmentStats

__all__ = ["collection_stats"]


def collection_stats(opened: OpenCollection, indexer: str) -> CollectionStats:
    """Return the state of a collection that is open.

    Args:
        indexer: what the indexer does for it.
    """
    store = opened.store
    view = opened.views.view()
    with store.environment.read() as transaction:
        store.check_not_dropped(transaction)
        entries = store.read_segments(transaction)
        pin, now_ns = oldest_pin(store, transaction), store.clock.read(transaction)
    readers, oldest_reader_lag = store.environment.readers()
    size = {number: entry["bytes"] for number, entry in in_place(entries)}
    segments = [
        SegmentStats(
            number=s.number,
            kind="flat" if s.graph is None else "graph",
            first_row=s.first_row,
            end_row=s.end_row,
            rows=s.node_count,
            dead=s.dead_count,
            bytes=size.get(s.number, 0),
        )
        for s in view.segments
    ]
    return CollectionStats(
        live_count=view.live_count,
        seq=view.state.seq,
        generation=view.state.generation,
        next_row=view.counters.next_row,
        sealed_to=view.counters.sealed_to,
        fresh_rows=view.fresh_live_count,
        unindexed_rows=view.unindexed_count,
        store_bytes=store.environment.file_bytes(),
        segment_bytes=sum(s.bytes for s in segments),
        indexer=indexer,
        backlog_bytes=opened.backpressure.backlog_bytes,
        write_delay_s=opened.backpressure.delay_s,
        segments=segments,
        oldest_pin_seq=None if pin is None else pin.seq,
        oldest_pin_expires_s=None if pin is None else (pin.expiry_ns - now_ns) / 1e9,
        readers=readers,
        oldest_reader_lag=oldest_reader_lag,
    )
