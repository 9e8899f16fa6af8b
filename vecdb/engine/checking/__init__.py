"""Checking a data folder and repairing it, each in a process of its own.

process    starts the processes and hears them out: ``vecdb.check`` begins here
check      goes through a folder, a collection at a time
catalog    names and folders
walk       all that LMDB holds of a collection, as arrays
store      what these arrays say of each other
vectors    blocks of vectors, and the rows of segments
segments   their files
graph      their graphs
findings   makes one problem of many of a kind
repair     builds again what is a cache
"""

from __future__ import annotations

__all__: list[str] = []
