"""FAISS index files, written and read without FAISS: the only package that knows their bytes.

layout       the bytes
read         an index; read_graph: its graph
refusals     what can be done about an index that can't be read
write        an index
"""

from __future__ import annotations

__all__ = ["read", "write"]
