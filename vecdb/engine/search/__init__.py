"""How is a query executed?

search             runs queries over the search units of a snapshot
single             package: the short way of one query
variants           package: queries by example, within a distance, and in groups
filtered           units and answers of searches with filters
node_scans         scans of the nodes that match
hits               merges the units' results; adds ids, metadata and vectors
plan               walk or scan for each unit, with which effort, and the recall to expect
filter_plan        the cheapest way to search a unit with a filter
walk_shapes        how many nodes walks visit in a graph, measured
disk_reads         whether searches wait for the disk
request            the arguments of a search; call_bytes: the memory that it reserves
filters            package: which rows match a filter, and the values of their fields
recall             package: the recall that real queries get
snapshots          package: the committed state that a search sees
"""

from __future__ import annotations

__all__ = ["filters", "recall", "search", "snapshots"]
