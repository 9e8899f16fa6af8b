"""Which recall do real queries get?

meter              measures recall with real queries
samples            takes these queries from searches
real_curves        curves measured with real queries, shared by all processes
recall_history     recall of the last day
"""

from __future__ import annotations

__all__ = ["meter", "real_curves", "samples"]
