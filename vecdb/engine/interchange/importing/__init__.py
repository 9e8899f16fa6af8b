"""Index files of other libraries become collections.

import_file     one import, from the file to the report
incoming        spools files that arrive in parts
foreign_index   what the readers make of a file
settings        metric, M and ef_construction, from file, sidecar and caller
names           ids and metadata, from the sidecar
take_over       the file's graph becomes a segment
"""

from __future__ import annotations

__all__ = ["foreign_index", "import_file", "incoming"]
