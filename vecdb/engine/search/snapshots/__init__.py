"""What committed state does a search see?

snapshot           one committed state: segments, delete bitmaps, memtable
snapshot_manager   creates snapshots and caches the newest
recent_batches     vectors of the newest batches, for the next snapshot
memtable           rows not yet in a segment
streaming          reads rows that a snapshot does not hold from the store, in slices
lookup             reads rows by id or row number
"""

from __future__ import annotations

__all__ = ["lookup", "memtable", "snapshot", "snapshot_manager", "streaming"]
