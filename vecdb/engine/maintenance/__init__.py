"""How is a folder checked, backed up and compacted?

checking     vecdb.check and its repair
backup       vecdb.backup and vecdb.restore
compaction   vecdb.compact: rewrites a folder that no process has open
"""

from __future__ import annotations

__all__ = ["backup", "checking", "compaction"]
