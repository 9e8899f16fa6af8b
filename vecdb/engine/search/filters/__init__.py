"""Which rows match a filter, and what values do their fields have?

matching           which rows match a filter; id_rows: the rows of a set of ids
column_matches     which nodes match by the columns of a segment, and which are undecided
recent_columns     columns in memory, of rows in no graph; row_runs: intervals of rows
matched_rows       the live rows that match a filter; segment_ids: the ids of rows
listing            ids in order, page by page
column_values      the values of fields by the columns of a segment
facets             values of a field and their counts; the fields
"""

from __future__ import annotations

__all__ = ["column_matches", "column_values", "facets", "listing", "matched_rows", "matching"]
