"""The part of a segment that holds its graph.

links.npy           int32 (n, 2M), padded with -1: neighbours on level 0
upper_offsets.npy   int32 (n + 1,): node i's neighbours on level L of 1 and more are
upper_links.npy     int32 (…, M), padded with -1: upper_links[upper_offsets[i] + L - 1]
entry, top_level    in the manifest: node where a walk begins, and its level; -1 without nodes
"""

from __future__ import annotations

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.segments.part_kind import PartData, PartFiles, PartKind

__all__ = ["GRAPH"]


class _GraphPart(PartKind[Graph]):
    name = "graph"
    arrays = ("links", "upper_offsets", "upper_links")

    def write(self, value: Graph) -> PartData:
        arrays = {
            "links": value.links,
            "upper_offsets": value.upper_offsets,
            "upper_links": value.upper_links,
        }
        return PartData(arrays, {"entry": value.entry, "top_level": value.top_level})

    def read(self, files: PartFiles) -> Graph:
        graph = Graph(
            **{name: files.arrays[name] for name in self.arrays},
            entry=files.manifest["entry"],
            top_level=files.manifest["top_level"],
        )
        files.check(
            fit=len(graph.links) == files.count and graph.upper_offsets.shape == (files.count + 1,)
        )
        return graph


GRAPH = _GraphPart()
