"""What is a segment, and how does it live?

segment          an interval of rows as arrays on disk that all processes map
parts            the table of the kinds of parts that a segment can have
part_kind        what a kind defines: writer, reader, checksum, whether a search needs it
row_arrays       vectors, row numbers and ids: the parts of every segment
graph_part       the graph, if there is one
array_files      .npy files: mapping and comparing them
lifecycle        reserve, publish, retire, garbage-collect; quarantine
flushing         rows of the store become a flat segment
flush_failures   when a failed flush is retried
verifying        compares mapped segments with their checksums
rebuilding       writes segments that lost an optional part again
"""

from __future__ import annotations

__all__ = [
    "flush_failures",
    "flushing",
    "lifecycle",
    "parts",
    "rebuilding",
    "segment",
    "verifying",
]
