"""What is compiled?

compiled   the kernels: distances, graph walk, scan, preparation of vectors
loading    loads or compiles them, once a process
cache      whether numba's cache is warm, and who may compile
pool       shares the cores among searches
"""

from __future__ import annotations

__all__ = ["compiled", "loading", "pool"]
