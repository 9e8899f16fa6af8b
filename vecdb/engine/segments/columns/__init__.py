"""How are the rows found whose metadata match, without reading their records?

node_sets    sets of nodes, as ascending lists or bitmaps
numbers      one exact order of integers and doubles
collecting   gathers the values of fields from records
building     builds fields from collected values
field        the column of a field and its order: what equals, lies between, or begins with
blob         how fields are stored: sections of one array, and their directory
columns      the columns of a segment, and finding fields and ids in them
evaluating   which nodes match a filter, for certain or perhaps
comparing    the deep check of columns
column_part  the part of a segment that holds columns
"""

from __future__ import annotations

__all__ = ["building", "collecting", "column_part", "columns", "evaluating", "field", "node_sets"]
