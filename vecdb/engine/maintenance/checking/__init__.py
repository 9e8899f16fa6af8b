"""Checks and repairs a data folder, each in a child process.

process    entry point of ``vecdb.check``: starts the processes and builds the report
check      checks a folder, one collection at a time
catalog    checks the catalogue against the folders
walk       reads a collection's LMDB databases into arrays
store      checks these arrays against each other
vectors    checks blocks of vectors, and the rows of segments
segments   checks the files of segments
graph      checks the arrays of graphs
findings   merges problems of the same kind into one
repair     rebuilds caches; orphans: collections that the catalogue does not name
"""

from __future__ import annotations

__all__ = ["process"]
