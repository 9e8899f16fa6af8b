"""How is a folder checked, copied and compacted?

checking     vecdb.check and its repair
backup       backups and restoring them
compaction   rewrites a folder that nobody has open
"""

from __future__ import annotations

__all__ = ["backup", "checking", "compaction"]
