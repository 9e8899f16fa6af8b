"""How are collections exported and imported?

export           writes collections as index files of other libraries
importing        reads index files of other libraries into collections
faiss            reads and writes FAISS files without FAISS
hnswlib_file     reads hnswlib's files
untrusted_file   reads a file field by field with every size checked
"""

from __future__ import annotations

__all__ = ["export", "importing"]
