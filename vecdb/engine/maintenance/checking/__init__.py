"""Checking a data folder and repairing it, each in a process of its own.

process    starts the processes: ``vecdb.check`` begins here
check      checks a folder, a collection at a time
catalog    names and folders
walk       all that LMDB holds of a collection, as arrays
store      what these arrays say of each other
vectors    blocks of vectors, and the rows of segments
segments   their files
graph      their graphs
findings   joins many problems of a kind
repair     rebuilds caches; orphans: collections that the catalogue does not name
"""

from __future__ import annotations

__all__ = ["process"]
