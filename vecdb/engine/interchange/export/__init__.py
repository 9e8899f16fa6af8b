"""Exports collections as index files of other libraries.

export          writes the bytes of the file
source          finds a single graph that holds all live rows at one seq
lease           the snapshot lease of an export
merge           builds a graph for the export, in a child process
merge_process   starts that process and reads its result
ids             the integer ids that rows get in the file
"""

from __future__ import annotations

__all__ = ["export"]
