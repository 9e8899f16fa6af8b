"""How is a query executed?

search             runs queries over the search units of a snapshot
filtered           units and answers of searches with filters
filter_plan        the cheapest way to search a unit with a filter
walk_shapes        how many nodes walks visit in a graph, measured
node_scans         scans of the nodes that match
matching           which rows match a filter; id_rows: the rows of a set of ids
single             the short way of one query in one graph
plan               walk or scan for each unit, with which effort, and the recall to expect
disk_reads         whether searches wait for the disk
hits               merges the units' results; adds ids, metadata and vectors
variants           queries by example (examples), within_distance, and in groups (grouping, by
                   group_values), from more candidates than a plain search asks for
request            the arguments of a search; call_bytes: the memory that it reserves
snapshot           one committed state: segments, delete bitmaps, memtable
column_matches     which nodes match by the columns of a segment, and which are undecided
column_values      the values of fields by the columns of a segment
snapshot_manager   creates snapshots and caches the newest
recent_batches     vectors of the newest batches, for the next snapshot
memtable           rows not yet in a segment
facets             values of a field and their counts; the fields
listing            ids in order, page by page
matched_rows       the live rows that match a filter; segment_ids: the ids of rows
streaming          reads rows that a snapshot does not hold from the store, in slices
lookup             reads rows by id or row number
meter              measures recall with real queries; samples: taking them from searches
real_curves        curves measured with real queries; recall_history: recall of the last day
"""

from __future__ import annotations

__all__ = [
    "facets",
    "listing",
    "lookup",
    "matched_rows",
    "matching",
    "meter",
    "samples",
    "search",
    "segment_ids",
    "snapshot",
    "snapshot_manager",
]
