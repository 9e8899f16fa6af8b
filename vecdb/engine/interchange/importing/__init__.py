"""Imports index files of other libraries into collections.

import_file     one import, from the file to the report
incoming        spools files that arrive in parts
foreign_index   the common result of the file readers
settings        settings of the collection, from file, sidecar and caller
names           ids and metadata, from the sidecar
take_over       publishes the file's graph as a segment
"""

from __future__ import annotations

__all__ = ["foreign_index", "import_file", "incoming"]
