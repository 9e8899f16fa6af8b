"""Merge the results of a snapshot's search units into the hits of a call.

Each part (one per segment, and a last one for all rows outside segments) holds scores and nodes for
all queries of a call. This module merges them by (distance, row) and adds ids: from the segments,
or, like metadata, from the store in short transactions. It works on the whole batch of queries at
once, since a numpy call costs more than the few numbers that one query has.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.plan import SearchPlan
from vecdb.engine.search.snapshots.lookup import read_records, read_vectors
from vecdb.engine.search.snapshots.snapshot import SearchUnit, Snapshot
from vecdb.engine.segments.segment import RowArrays, SegmentDamagedError
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.reasons import Reason
from vecdb.types import HitColumns, Metric, SearchInfo, SegmentPlan

__all__ = [
    "Best",
    "Found",
    "Results",
    "Wanted",
    "answers",
    "columns_of",
    "distances_of",
    "explained",
    "info_of",
    "merged",
    "rows_of",
]

_NO_ROW = np.int64(2**63 - 1)
_ZERO, _ONE = np.float32(0), np.float32(1)

_FEW_HITS = 256
"""Up to this many hits are sorted as tuples, faster than the overhead of the numpy calls."""


class Found(NamedTuple):
    """The results of one part, for q queries.

    Attributes:
        scores: float32 (q, k), ascending; only the first ``counts[i]`` of row i are set.
        nodes: int64 (q, k), as scores.
        counts: int64 (q,), hits found.
        visited, deleted: int64 (q,), nodes compared, and how many of them were deleted.
        walked: whether the graph was walked; else the part was scanned.
        rows: int64 (n,), row numbers of the nodes, or None if nodes are row numbers themselves.
        content: the segment's arrays, or None for rows outside segments.
    """

    scores: npt.NDArray[np.float32]
    nodes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    visited: npt.NDArray[np.int64]
    deleted: npt.NDArray[np.int64]
    walked: bool
    rows: npt.NDArray[np.int64] | None
    content: RowArrays | None

    @staticmethod
    def empty(unit: SearchUnit, queries: int, k: int, *, walked: bool) -> Found:
        """Return empty arrays for the results of all queries in a unit."""
        shape = (queries, min(k, unit.count))
        # Counts must begin at 0: a scan adds to the heaps that they describe.
        return Found(
            np.empty(shape, np.float32),
            np.empty(shape, np.int64),
            np.zeros(queries, np.int64),
            np.zeros(queries, np.int64),
            np.zeros(queries, np.int64),
            walked,
            unit.rows,
            unit.content,
        )


class Results(NamedTuple):
    """The results of all parts.

    Attributes:
        parts: as found. plan: how.
        units: of the plan.
        matching: number of rows that match the filter, None without one.
        without_match: further units, of which no live row matches.
        unread: rows that were read from the store to be compared, and how many of them match.
    """

    parts: list[Found]
    plan: SearchPlan
    units: Sequence[SearchUnit]
    matching: int | None = None
    without_match: Sequence[SearchUnit] = ()
    unread: tuple[int, int] = (0, 0)


class Wanted(NamedTuple):
    """What the hits contain (k, metadata, vectors), the call's memory, and whether ``info`` says
    how each segment was searched."""

    k: int
    metadata: bool
    vectors: bool
    memory: CallMemory
    explain: bool = False


def answers(
    store: Store,
    snapshot: Snapshot,
    results: Results,
    queries: int,
    wanted: Wanted,
    deadline: Deadline,
) -> HitColumns:
    """Return the merged hits of all parts, with ids and, if wanted, metadata and vectors.

    Raises:
        ResourceExhaustedError: the answer would be too large, or memory is short.
        DataLossError: a value is damaged, or was purged since the snapshot was created.
        DeadlineExceededError, CancelledError: between two slices of rows.
    """
    best = merged(results.parts, wanted.k) if results.parts else None
    return columns_of(store, snapshot, results, best, queries, wanted, deadline)


def columns_of(
    store: Store,
    snapshot: Snapshot,
    results: Results,
    best: Best | None,
    queries: int,
    wanted: Wanted,
    deadline: Deadline,
) -> HitColumns:
    """Return chosen hits as ``answers`` does; ``best``: None without parts."""
    parts = results.parts
    visited = _summed([part.visited for part in parts], queries).tolist()
    deleted = _summed([part.deleted for part in parts], queries).tolist()
    info = info_of(snapshot, parts, results.plan)
    if wanted.explain:
        info = info._replace(explain=explained(results))
    gated: list[int] = []
    if results.matching is not None:
        info, gated, deleted = info._replace(matches=results.matching), deleted, [0] * queries
    if best is None:
        vectors = np.zeros((0, store.config.dim), np.float32) if wanted.vectors else None
        no_scores, nothing = np.zeros(0, np.float32), [0] * queries
        return HitColumns(nothing, [], no_scores, None, vectors, info, visited, deleted, gated)
    ids, raw, vectors = _named(store, snapshot, parts, best, wanted, deadline)
    distances = distances_of(best.scores, store.config.metric)
    counts = best.counts.tolist()
    return HitColumns(counts, ids, distances, raw, vectors, info, visited, deleted, gated)


def _summed(counts: Sequence[npt.NDArray[np.int64]], queries: int) -> npt.NDArray[np.int64]:
    """Return the counts per query, int64 (q,), summed over the parts."""
    total = counts[0].copy() if counts else np.zeros(queries, np.int64)
    for more in counts[1:]:
        total += more
    return total


class Best(NamedTuple):
    """The hits of all queries, concatenated.

    scores: float32 (m,). nodes: int64 (m,). origins, rows: int64 (m,), index of the part, and row
    number; None if there is only one part. counts: int64 (q,), hits per query.
    """

    scores: npt.NDArray[np.float32]
    nodes: npt.NDArray[np.int64]
    origins: npt.NDArray[np.int64] | None
    rows: npt.NDArray[np.int64] | None
    counts: npt.NDArray[np.int64]

    def of_part(self, number: int) -> npt.NDArray[np.int64]:
        """Return the positions of one part's hits. Requires several parts."""
        assert self.origins is not None
        places: npt.NDArray[np.int64] = (self.origins == number).nonzero()[0]
        return places


def _rows_of(part: Found, nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if part.rows is None:
        return nodes
    rows: npt.NDArray[np.int64] = part.rows[nodes]
    return rows


def rows_of(parts: Sequence[Found], best: Best) -> npt.NDArray[np.int64]:
    """Return the row numbers of hits, int64 (m,)."""
    return _rows_of(parts[0], best.nodes) if best.rows is None else best.rows


def merged(parts: Sequence[Found], k: int) -> Best:
    """Return the k nearest of all parts by (score, row), the order that each part already has."""
    if len(parts) == 1:
        part = parts[0]
        width = part.nodes.shape[1]
        if min(part.counts.tolist(), default=width) == width:
            scores, nodes = part.scores.ravel(), part.nodes.ravel()
        else:
            used = np.arange(width) < part.counts[:, None]
            scores, nodes = part.scores[used], part.nodes[used]
        return Best(scores, nodes, None, None, part.counts)
    if len(parts[0].counts) == 1 and sum(part.nodes.shape[1] for part in parts) <= _FEW_HITS:
        return _merged_few(parts, k)
    scores_by_part, rows_by_part, nodes_by_part = [], [], []
    for part in parts:
        used = np.arange(part.nodes.shape[1]) < part.counts[:, None]
        nodes = np.where(used, part.nodes, 0)
        scores_by_part.append(np.where(used, part.scores, np.float32(np.inf)))
        rows_by_part.append(np.where(used, _rows_of(part, nodes), _NO_ROW))
        nodes_by_part.append(nodes)
    scores, rows = np.concatenate(scores_by_part, axis=1), np.concatenate(rows_by_part, axis=1)
    nodes = np.concatenate(nodes_by_part, axis=1)
    origins = np.repeat(np.arange(len(parts)), [part.nodes.shape[1] for part in parts])
    order = np.lexsort((rows, scores), axis=-1)[:, :k]
    rows = np.take_along_axis(rows, order, axis=1)
    used = rows != _NO_ROW
    return Best(
        np.take_along_axis(scores, order, axis=1)[used],
        np.take_along_axis(nodes, order, axis=1)[used],
        origins[order][used],
        rows[used],
        used.sum(axis=1),
    )


def _merged_few(parts: Sequence[Found], k: int) -> Best:
    """Do ``merged`` for one query with few hits."""
    hits: list[tuple[float, int, int, int]] = []
    for number, part in enumerate(parts):
        count = int(part.counts[0])
        nodes = part.nodes[0, :count]
        hits += zip(
            part.scores[0, :count].tolist(),
            _rows_of(part, nodes).tolist(),
            repeat(number),
            nodes.tolist(),
            strict=False,
        )
    best = sorted(hits)[:k]
    return Best(
        np.array([hit[0] for hit in best], np.float32),
        np.array([hit[3] for hit in best], np.int64),
        np.array([hit[2] for hit in best], np.int64),
        np.array([hit[1] for hit in best], np.int64),
        np.array([len(best)], np.int64),
    )


def _named(
    store: Store,
    snapshot: Snapshot,
    parts: Sequence[Found],
    best: Best,
    wanted: Wanted,
    deadline: Deadline,
) -> tuple[list[str], list[bytes] | None, npt.NDArray[np.float32] | None]:
    """Return ids, metadata and vectors of the hits, reading the store in short transactions."""
    with_metadata = wanted.metadata and snapshot.counters.metadata_count > 0
    # The last parts are outside segments: chunks of the memtable, or rows read from the store.
    inside = sum(part.content is not None for part in parts)
    if not (with_metadata or wanted.vectors or inside < len(parts)):
        return _segment_ids(parts, best), None, None
    seq, rows = snapshot.state.seq, _rows(snapshot, parts, best)
    vectors = read_vectors(store, rows, deadline) if wanted.vectors else None
    if with_metadata:
        records = read_records(store, rows, seq, deadline, wanted.memory)
        return [r.id for r in records], [r.metadata for r in records], vectors
    ids = _segment_ids(parts, best)
    if inside < len(parts):
        at = list(range(len(rows)))
        if best.origins is not None:
            at = (best.origins >= inside).nonzero()[0].tolist()
        late = read_records(store, [rows[i] for i in at], seq, deadline)
        for i, record in zip(at, late, strict=True):
            ids[i] = record.id
    return ids, None, vectors


def _rows(snapshot: Snapshot, parts: Sequence[Found], best: Best) -> list[int]:
    """Return the row numbers of the hits.

    Raises:
        SegmentDamagedError: a row number is out of range.
    """
    rows = rows_of(parts, best)
    numbers: list[int] = rows.tolist()
    if numbers and not 0 <= min(numbers) <= max(numbers) < snapshot.counters.next_row:
        raise SegmentDamagedError(
            f"expected rows 0 to {snapshot.counters.next_row - 1} in the segments, got rows "
            f"{min(numbers)} to {max(numbers)}",
            Reason.SEGMENT,
        )
    return numbers


def _segment_ids(parts: Sequence[Found], best: Best) -> list[str]:
    """Return the ids of hits in segments; "" for the other hits."""
    ids = [""] * len(best.nodes)
    if best.origins is None:
        content = parts[0].content
        return ids if content is None else content.ids_of(best.nodes)
    for number in set(best.origins.tolist()):
        content = parts[number].content
        if content is not None:
            at = best.of_part(number)
            for i, name in zip(at.tolist(), content.ids_of(best.nodes[at]), strict=True):
                ids[i] = name
    return ids


def info_of(snapshot: Snapshot, parts: Sequence[Found], plan: SearchPlan) -> SearchInfo:
    """Return how parts were searched, without the counts of queries and filters."""
    ways = {part.walked for part in parts}
    walked, scanned = True in ways, False in ways or not ways
    way = "graph+scan" if walked and scanned else "graph" if walked else "scan"
    ef = max((unit.ef for unit in plan.units), default=0) if walked else 0
    return SearchInfo(
        way,
        not walked,
        ef,
        0,
        snapshot.live_count,
        snapshot.state.seq,
        snapshot.verified,
        unindexed_rows=snapshot.unindexed_count,
        recall=plan.recall,
    )


def explained(results: Results) -> tuple[SegmentPlan, ...]:
    """Return how each unit was searched, in the order of rows."""
    plans: list[tuple[int, SegmentPlan]] = []
    for unit, way in zip(results.units, results.plan.units, strict=True):
        costs = {} if way.costs is None else way.costs.in_microseconds()
        name = "graph" if way.walks else way.scan
        plan = SegmentPlan(unit.number, name, unit.count, unit.live_count, costs)
        plans.append((_first_row(unit), plan))
    for unit in results.without_match:
        plans.append((_first_row(unit), SegmentPlan(unit.number, "none", unit.count, 0, {})))
    ordered = [plan for _, plan in sorted(plans, key=itemgetter(0))]
    rows, matches = results.unread
    if rows:
        ordered.append(SegmentPlan(None, "rows", rows, matches, {}))
    return tuple(ordered)


def _first_row(unit: SearchUnit) -> int:
    return int(unit.rows[0]) if unit.count else -1


def distances_of(scores: npt.NDArray[np.float32], metric: Metric) -> npt.NDArray[np.float32]:
    """Convert kernel scores (squared distance or negated product) to distances as ``Metric``."""
    if metric is Metric.EUCLIDEAN:
        distances: npt.NDArray[np.float32] = np.sqrt(np.maximum(scores, _ZERO))
        return distances
    if metric is Metric.COSINE:
        cosine: npt.NDArray[np.float32] = np.maximum(scores + _ONE, _ZERO)
        return cosine
    copied: npt.NDArray[np.float32] = scores.copy()
    return copied
