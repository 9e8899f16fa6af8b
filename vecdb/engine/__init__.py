"""The database itself: everything but the command line, gRPC and the public vocabulary.

Packages from the top floor to the ground; each imports only from packages below it, and from
another package only the modules in its ``__all__``:

api           What does an embedded user call?
maintenance   How is a folder checked, copied and compacted?
interchange   How do data leave and come back?
runtime       What does a process hold of an open folder?
indexing      What graph work is next, and who does it?
search        How is a query answered?
segments      What is a segment, and how does it live?
hnsw          How is a graph built and repaired?
store         What is true?
kernels       What is compiled?
kv            How is LMDB spoken to?
system        What do we ask of the machine?

``testing`` is what tests need beside the public surface.
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
