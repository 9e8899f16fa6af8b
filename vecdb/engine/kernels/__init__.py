"""What is compiled?

compiled   the kernels: distances, graph walk, scan, preparation of vectors
loading    loading or compiling the kernels, once per process
cache      whether numba's cache is warm, and the lock for compiling
pool       sharing of the cores among concurrent searches
"""

from __future__ import annotations

__all__ = ["compiled", "loading", "pool"]
