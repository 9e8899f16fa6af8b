"""What is a segment, and what is its lifecycle?

segment          an interval of rows as arrays on disk that all processes map
parts            the table of the kinds of parts that a segment can have
part_kind        what a kind of part defines: writer, reader, checksum, deep check, derivation
part_check       the deep check of a part: its content compared with the store's records
row_arrays       the parts of every segment: vectors; row numbers and ids
graph_part       the part of graph segments: the HNSW graph
recall_part      the part with the recall curve: which effort reaches which recall in a graph
calibration      measures that on some rows of the graph
matches          which nodes of a segment match a filter
codecs           parts of coded rows, which a search reads in place of vectors
columns          the part that finds rows by their metadata
array_files      maps .npy files and compares them with their checksums
lifecycle        reserve, publish, retire, garbage-collect; quarantine
flushing         writes the memtable to a flat segment
verifying        compares mapped segments with their checksums
rebuilding       rewrites segments that have lost an optional part
"""

from __future__ import annotations

__all__ = [
    "calibration",
    "codecs",
    "columns",
    "flushing",
    "graph_part",
    "lifecycle",
    "matches",
    "part_check",
    "part_kind",
    "parts",
    "rebuilding",
    "recall_part",
    "segment",
    "verifying",
]
