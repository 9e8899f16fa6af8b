"""What does a process hold of an open folder?

runtime           all of it, from open to close
options           what a folder is opened with
catalog           names of collections; catalog_loss: what if it is gone
data_folder       the folder as a whole: format, leftovers
open_collection   what is open of one collection; stats, opening_checks
store_lru         closes the stores that were used least recently
upkeep            the thread that flushes and purges
"""

from __future__ import annotations

__all__ = ["catalog", "catalog_loss", "data_folder", "open_collection", "options", "runtime"]
