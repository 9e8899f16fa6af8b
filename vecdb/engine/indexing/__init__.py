"""Which graph work is due, and which process does it?

merge_policy   decides which segments to merge next
indexer        builds and merges the graphs of one collection
process        main program of the indexer's child process
supervisor     starts the child process, sends it work, ends it
progress       what the child process does, and how long it will take
backpressure   delays writers while indexing is behind
outdated       when columns are to be made again
rewriting      rewrites flat segments without deleted rows
trimming       removes tombstones that nothing needs
"""

from __future__ import annotations

__all__ = ["backpressure", "indexer", "merge_policy", "rewriting", "supervisor", "trimming"]
