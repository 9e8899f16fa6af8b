"""What graph work is next, and who does it?

merge_policy   decides
indexer        does the work in one collection
process        the indexer's process
supervisor     starts, feeds and ends it
backpressure   slows writers down while graphs are behind
rewriting      rewrites flat segments without deleted rows
trimming       removes tombstones that nothing needs
"""

from __future__ import annotations

__all__ = ["backpressure", "indexer", "merge_policy", "rewriting", "supervisor", "trimming"]
