"""Index files of other libraries become collections.

import_file      one import, from the file to the report
untrusted_file   reads what nobody vouches for
foreign_index    what the readers (``faiss/``, ``hnsw_file.py``) make of a file
names            ids and metadata of its rows, from the file beside it
incoming         files that come in parts are spooled first
take_over        its graph becomes a segment
"""

from __future__ import annotations

__all__: list[str] = []
