"""How is one query answered with little work around the kernel?

single             the short way of one query in a few units
single_ways        what it prepares for each unit of a snapshot
single_hits        hits from what the kernels wrote
single_filtered    the short way of one query with a filter, in one graph
"""

from __future__ import annotations

__all__ = ["single", "single_filtered"]
