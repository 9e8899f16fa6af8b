"""Collections as files that other libraries open.

export          produces the bytes
source          finds one graph of one seq
lease           the snapshot lease of an export
merge           builds a graph for the export, in a process of its own
merge_process   starts that process and reads its result
ids             the numbers that rows get
"""

from __future__ import annotations

__all__ = ["export"]
