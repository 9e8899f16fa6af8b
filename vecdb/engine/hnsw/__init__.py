"""How is a graph built and repaired?

graph          the arrays of a graph
builder        builds graphs with hnswlib and converts its file to arrays
batch_builder  builds graphs in batches, on codes
layers         the levels of a graph that is built in batches
choice         which of the two builders suits some rows
build_rows     the rows of a graph under construction; duplicates
finishing      what both builders do with a whole graph
graph_checks   checks the arrays of a graph against each other
build_space    the vectors that a graph is built on, per metric
file_format    the format of the file that hnswlib saves
reachability   finds unreachable nodes and adds links to them
repair         removes deleted nodes and relinks their neighbours
"""

from __future__ import annotations

__all__ = [
    "batch_builder",
    "build_space",
    "builder",
    "choice",
    "file_format",
    "graph",
    "graph_checks",
    "reachability",
    "repair",
]
