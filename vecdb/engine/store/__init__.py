"""How is committed state stored? In one LMDB store per collection; all else derives from it.

layout          format of every key and value; number_tables: many values at once
store           one collection's store: state, counters, applying batches
rows            reads ids, records, vectors, tombstones and the log
segment_table   reads the table of segments
tombstones      reads deleted rows in short transactions
metadata_rows   reads the metadata of many rows, in short transactions
changed_rows    which rows have got other metadata since a seq
batch           a validated write and its options
digest          what makes a batch the same as an earlier one
changes         which rows a delete or patch changes, and to what
filtered_rows   rows that match a filter, brought up to date in a write
conditions      checks insert_only and if_seq
writer          commits batches in groups, one thread per collection
requests        request ids and their receipts (idempotent writes)
leases          snapshot leases: keep the rows that long reads need from being purged
scroll          pages of a long read; scroll_token: tokens; scroll_uses: times of use
purging         removes deleted rows and old record versions
recall_sums     what real queries have shown of the recall of each graph
stored_name     copy of the collection's name in its own store
clock           a clock that wall-clock jumps do not affect
"""

from __future__ import annotations

__all__ = [
    "batch",
    "changes",
    "digest",
    "filtered_rows",
    "layout",
    "leases",
    "metadata_rows",
    "purging",
    "recall_sums",
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
