"""What is compiled?

compiled       all kernels under one name; in its order they are in compiling, instructions,
               byte_instructions, distance, inputs, candidates, best_first, walk, sketches,
               sketch_walk, single, scan, byte_codes, code_scan, node_scan, code_ranges,
               single_matching, build_codes, build and lists
loading        loading or compiling the kernels, once per process
cache          whether numba's cache is warm, and the lock for compiling
cache_folder   the folder of the cache, named after the sources
cache_locator  makes numba use that folder
pool           sharing of the cores among concurrent searches
"""

from __future__ import annotations

__all__ = ["compiled", "loading", "pool"]
