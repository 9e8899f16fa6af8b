"""What does an embedded user call?

database     the façade of an open folder
collection   the façade of one collection
ingest       upsert_many
"""

from __future__ import annotations

__all__ = ["collection", "database"]
