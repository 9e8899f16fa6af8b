"""How is a graph built and repaired?

graph          a graph as arrays
builder        hnswlib builds it; its file is taken apart
build_space    the vectors that a graph is built on
file_format    the file that hnswlib saves
reachability   links that make every node reachable
repair         removes deleted nodes and relinks their neighbours
"""

from __future__ import annotations

__all__ = ["build_space", "builder", "file_format", "graph", "reachability", "repair"]
