"""USearch: its HNSW index in memory, rows of 8 bits a component."""

from __future__ import annotations

from vecdb_bench.targets import usearch_

__all__ = ["Adapter"]


class Adapter(usearch_.Adapter):
    """As in float32."""

    dtype = "i8"
