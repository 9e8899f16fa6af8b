"""The part of a segment that holds its graph.

links.npy           int32 (n, 2M), padded with -1: neighbours on level 0
upper_offsets.npy   int32 (n + 1,): node i's neighbours on level L of 1 and more are
upper_links.npy     int32 (…, M), padded with -1: upper_links[upper_offsets[i] + L - 1]
entry, top_level    in the manifest: node where a walk begins, and its level; -1 without nodes
"""

from __future__ import annotations

from collections.abc import Iterator

from vecdb.checking import NOTE
from vecdb.engine.hnsw.graph import HNSWLIB, Graph
from vecdb.engine.hnsw.graph_checks import graph_faults, self_links
from vecdb.engine.hnsw.reachability import reachable_nodes
from vecdb.engine.segments.part_check import PartCheck, PartFinding, StoreRecords, is_among
from vecdb.engine.segments.part_kind import CheckedSegment, PartData, PartFiles, PartKind
from vecdb.engine.segments.row_arrays import ROW_IDS
from vecdb.engine.system.mapped_pages import use_large_pages

__all__ = ["GRAPH"]


class _GraphCheck(PartCheck):
    """Checks the arrays of a graph, and that every live node can be reached."""

    def __init__(self, graph: Graph, segment: CheckedSegment) -> None:
        self._graph, self._segment = graph, segment

    def examine(self, records: StoreRecords) -> Iterator[PartFinding]:
        graph, number = self._graph, self._segment.number
        faults = graph_faults(graph, self._segment.config.M)
        for fault in faults:
            yield PartFinding("GRAPH", f"segment {number}: {fault}", unusable=True)
        if faults:
            return
        if count := self_links(graph):
            what = f"segment {number}: {count:,} nodes are their own neighbours"
            yield PartFinding("GRAPH", what, NOTE)
        rows = self._segment.parts[ROW_IDS].rows
        lost = rows[~reachable_nodes(graph)]
        lost = lost[is_among(lost, records.live_rows)]
        what = f"of {len(rows):,} rows of segment {number} can't be reached in its graph"
        yield PartFinding("GRAPH_UNREACHABLE", what, rows=lost)


class _GraphPart(PartKind[Graph]):
    name = "graph"
    arrays = ("links", "upper_offsets", "upper_links")

    def write(self, value: Graph) -> PartData:
        arrays = {
            "links": value.links,
            "upper_offsets": value.upper_offsets,
            "upper_links": value.upper_links,
        }
        fields: dict[str, int | str] = {"entry": value.entry, "top_level": value.top_level}
        if value.built_by != HNSWLIB:
            fields["built_by"] = value.built_by
        return PartData(arrays, fields)

    def read(self, files: PartFiles) -> Graph:
        graph = Graph(
            **{name: files.arrays[name] for name in self.arrays},
            entry=files.manifest["entry"],
            top_level=files.manifest["top_level"],
            built_by=files.manifest.get("built_by", HNSWLIB),
        )
        files.check(
            fit=len(graph.links) == files.count and graph.upper_offsets.shape == (files.count + 1,)
        )
        use_large_pages(graph.links)
        return graph

    def check(self, value: Graph, segment: CheckedSegment) -> PartCheck:
        return _GraphCheck(value, segment)


GRAPH = _GraphPart()
