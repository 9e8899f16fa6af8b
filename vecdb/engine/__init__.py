"""The database engine: everything but gRPC, the command line and the public vocabulary.

Packages from the top layer to the bottom. Each imports only from packages below it, and from
another package only the modules in its ``__all__``:

api           What does an embedded user call?
maintenance   How is a folder checked, backed up and compacted?
interchange   How are collections exported and imported?
runtime       Which objects does a process hold for an open folder?
indexing      Which graph work is due, and which process does it?
search        How is a query executed?
segments      What is a segment, and what is its lifecycle?
hnsw          How is a graph built and repaired?
store         How is committed state stored?
kernels       What is compiled?
kv            How is LMDB used?
system        What does vecdb need from the operating system?

``testing`` has what tests need beyond the public surface.
"""

from __future__ import annotations

__all__ = [
    "api",
    "hnsw",
    "indexing",
    "interchange",
    "kernels",
    "kv",
    "maintenance",
    "runtime",
    "search",
    "segments",
    "store",
    "system",
    "testing",
]
