"""What is true? The LMDB store of one collection.

layout          keys and values, byte by byte
store           one collection's store: state, counters, transactions
rows            ids, records, vectors, tombstones, log
segment_table   reading the table of segments
tombstones      reading which rows were deleted
batch           a checked write
conditions      insert_only and if_seq
writer          commits batches, one thread a collection
requests        request ids and their receipts
leases          snapshot leases: what long reads keep from being purged
scroll          pages of a long read; scroll_token, scroll_uses
purging         removes deleted rows
stored_name     the collection's name in its own store
clock           time that no jump of the wall clock moves
"""

from __future__ import annotations

__all__ = [
    "batch",
    "layout",
    "leases",
    "purging",
    "requests",
    "rows",
    "scroll",
    "scroll_token",
    "segment_table",
    "store",
    "stored_name",
    "tombstones",
    "writer",
]
