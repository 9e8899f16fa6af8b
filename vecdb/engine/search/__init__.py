"""How is a query answered?

search             sends queries through the parts of a snapshot
hits               merges what they gave and adds ids and metadata
snapshot           one committed state: segments, delete bitmaps, memtable
snapshot_manager   makes snapshots and keeps the newest
snapshot_budget    bounds the memory of all snapshots
memtable           rows not yet in a segment
streaming          rows read from the store in slices for one search
lookup             rows by id
"""

from __future__ import annotations

__all__ = ["lookup", "search", "snapshot", "snapshot_budget", "snapshot_manager"]
