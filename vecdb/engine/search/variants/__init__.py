"""How is a query answered that needs more candidates than k?

variants           chooses between the kinds below
examples           queries by the ids of similar and dissimilar rows
within_distance    all rows within a distance
grouping           k groups of rows; group_values: the group of each row
candidates         merged candidates of all units
"""

from __future__ import annotations

__all__ = ["variants"]
