"""Checks and repairs a data folder, each in a child process.

process    entry point of ``vecdb.check``: starts the processes and builds the report
check      checks a folder, one collection at a time
catalog    checks the catalogue against the folders
walk       reads a collection's LMDB databases into arrays
store      checks these arrays against each other
vectors    checks blocks of vectors
segments   checks the files of segments
parts      runs the deep checks that the kinds of parts define
findings   merges problems of the same kind into one
repair     rebuilds caches; orphans: collections that the catalogue does not name
"""

from __future__ import annotations

__all__ = ["process"]
