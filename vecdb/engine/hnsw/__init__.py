"""How is a graph built and repaired?

graph          the arrays of a graph
builder        builds graphs with hnswlib and converts its file to arrays
graph_checks   checks the arrays of a graph against each other
build_space    the vectors that a graph is built on, per metric
file_format    the format of the file that hnswlib saves
reachability   finds unreachable nodes and adds links to them
repair         removes deleted nodes and relinks their neighbours
"""

from __future__ import annotations

__all__ = [
    "build_space",
    "builder",
    "file_format",
    "graph",
    "graph_checks",
    "reachability",
    "repair",
]
