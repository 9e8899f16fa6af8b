"""How do data leave and come back?

export           collections as files of other libraries
importing        files of other libraries as collections
faiss            FAISS files, read and written without FAISS
hnswlib_file     reading hnswlib's files
untrusted_file   reading a file field by field and by size
"""

from __future__ import annotations

__all__ = ["export", "importing"]
