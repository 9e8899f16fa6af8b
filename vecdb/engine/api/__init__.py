"""What does an embedded user call?

database     façade of an open folder
collection   façade of one collection
ingest       upsert_many
"""

from __future__ import annotations

__all__ = ["collection", "database"]
