"""Reads and writes FAISS index files without FAISS; only this package knows their bytes.

layout       the byte layout
read         reads an index; read_graph: its graph
refusals     messages for indexes that can't be read, with alternatives
write        writes an index
"""

from __future__ import annotations

__all__ = ["read", "write"]
