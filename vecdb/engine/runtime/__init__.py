"""Which objects does a process hold for an open folder?

runtime           the open folder, from open to close
options           the options of ``vecdb.open``
catalog           names of collections; catalog_entry: one of them
catalog_loss      detecting a lost catalogue
data_folder       format file and leftovers of a folder
open_collection   one open collection; opening_checks: checks when it is opened
changing          deletes and patches rows by id or filter
stats             the result of Collection.stats
metering          the thread that measures the recall of searches
upkeep            the thread that flushes and purges
"""

from __future__ import annotations

__all__ = [
    "catalog",
    "catalog_entry",
    "catalog_loss",
    "changing",
    "data_folder",
    "open_collection",
    "options",
    "runtime",
]
