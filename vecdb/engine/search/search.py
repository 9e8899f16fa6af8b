"""Searching: a view, a plan for each of its parts, kernels over them, and one merged answer.

Fresh rows and flat segments are scanned exactly; graphs are walked. k means k: where a walk finds
fewer live rows than there are (it gave up among deleted rows), that segment is scanned instead.
Rows that the view does not hold are scanned as they are read from the store, a slice at a time.

One query runs on its caller's thread, a batch on several (``kernel_pool``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.search.hits import Found, Wanted, answers
from vecdb.engine.search.snapshot import NOTHING_DELETED, SearchUnit, Snapshot
from vecdb.engine.search.snapshot_manager import SnapshotManager
from vecdb.engine.search.streaming import SnapshotTooOldError, read_slices
from vecdb.engine.segments.segment import padded_width
from vecdb.engine.store.leases import leased
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import DataLossError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, HitColumns, Metric
from vecdb.vector_arrays import as_queries

__all__ = ["SCAN_SLICE_FLOATS", "SORT_SLICE_HITS", "SearchRequest", "Searcher"]

SCAN_SLICE_FLOATS = 8_000_000
"""Floats that a scan slice compares: about 5 ms."""

_HEAP_FLOATS = 8
"""What a level of a heap costs, in floats compared: a row may sift through all levels of it."""

SORT_SLICE_HITS = 250_000
"""Hits that are sorted between two checks of the deadline: about 20 ms."""

_HIT_BYTES_MIN = 7
"""A hit in an answer has at least a distance and an id of one byte with its length."""

_FOUND_BYTES, _MERGED_BYTES, _NAMED_BYTES, _RECORD_BYTES = 12, 56, 260, 500
"""Memory for a row that a part has found, for merging it with those of others, and for a hit as
Python has it, with an id alone or with a record (without the bytes of its metadata)."""

_PERHAPS_A_SEGMENT = (Reason.SEGMENT, Reason.RECORD_MISSING, Reason.VECTOR_MISSING)
"""Reasons of a DataLossError that a damaged segment may have, as its rows are believed."""

_BEFORE = 2**62
"""What row numbers are lowered by while a slice is scanned, so that they come before its nodes."""

_WALKS_AT_FIRST = 4
"""Queries of the first slices; later ones are sized by what these took."""

_SCANNED_TOGETHER = 16
"""Queries that go through an area together."""


class SearchRequest(NamedTuple):
    """One call of ``search``, as given: checked by ``Searcher.run``.

    queries: anything that converts to float32 of shape (q, dim).
    """

    queries: Any
    k: int = 10
    ef: int | None = None
    exact: bool = False
    include_metadata: bool = True
    include_vectors: bool = False


class Searcher:
    """Answers searches of one collection. Safe to use from many threads."""

    def __init__(self, store: Store, snapshots: SnapshotManager, pool: KernelPool) -> None:
        self._store = store
        self._snapshots = snapshots
        self._pool = pool
        kernels = load_kernels()
        euclidean = store.config.metric is Metric.EUCLIDEAN
        self._metric_code: int = kernels.EUCLIDEAN if euclidean else kernels.INNER

    def run(self, request: SearchRequest, deadline: Deadline) -> HitColumns:
        """The answers to all queries.

        Raises:
            InvalidArgumentError: a query, k or ef is wrong.
            ResourceExhaustedError: the answer would be too large, or memory is short.
            DeadlineExceededError, CancelledError: between two slices of work.
            SnapshotTooOldError: rows that are read from the store were purged meanwhile, twice, as
                nothing could be written that holds them.
        """
        with self._store.call_memory.of_call() as memory:
            return self._run(request, deadline, memory)

    def _run(self, request: SearchRequest, deadline: Deadline, memory: CallMemory) -> HitColumns:
        config = self._store.config
        queries = _checked_queries(request.queries, config)
        k = checks.check_k(request.k, max(1, len(queries)))
        ef = checks.check_effort(request.ef, k)
        kernels = load_kernels()
        prepared = np.empty((len(queries), padded_width(config.dim)), np.float32)
        kernels.prepare_rows(queries, prepared, config.metric is Metric.COSINE)
        wanted = Wanted(k, ef, request.include_metadata, request.include_vectors, memory)
        snapshot = self._snapshots.snapshot()
        try:
            return self._answer(snapshot, prepared, wanted, request.exact, deadline)
        except DataLossError as error:
            # What can't be right may come from a segment whose checksums were not compared yet.
            if error.reason in _PERHAPS_A_SEGMENT and not snapshot.verified:
                self._snapshots.verify(deadline.check)
            # A record may have been purged between the view and the reading of metadata: then the
            # row has died since, and a newer view does not return it. If there is none, or once
            # more under a pin, the bytes are really bad.
            if self._snapshots.snapshot() is snapshot:
                raise
        except SnapshotTooOldError:
            pass  # The same, of rows that are read from the store.
        memory.begin_again()
        with leased(self._store) as keep:
            newer = self._snapshots.snapshot()
            # It may take longer than a lease: each check of the deadline keeps the pin.
            return self._answer(newer, prepared, wanted, request.exact, deadline.also(keep))

    def _answer(
        self,
        snapshot: Snapshot,
        queries: npt.NDArray[np.float32],
        wanted: Wanted,
        exact: bool,
        deadline: Deadline,
    ) -> HitColumns:
        _take_memory(snapshot, len(queries), wanted, self._store.config.dim)
        parts: list[Found] = []
        for unit in snapshot.units if len(queries) else ():
            if exact or unit.graph is None:
                parts.append(self._scan(unit, queries, wanted.k, deadline))
                continue
            found = self._walk(unit, unit.graph, queries, wanted, deadline)
            expected = min(wanted.k, unit.live_count)
            if min(found.counts.tolist()) < expected:
                self._scan_where_short(found, unit, queries, expected, deadline)
            parts.append(found)
        if not snapshot.holds_all and len(queries):
            parts.append(self._scan_unread(snapshot, queries, wanted.k, deadline))
        return answers(self._store, snapshot, parts, len(queries), wanted, deadline)

    def _walk(
        self,
        unit: SearchUnit,
        graph: Graph,
        queries: npt.NDArray[np.float32],
        wanted: Wanted,
        deadline: Deadline,
    ) -> Found:
        found = _nothing_yet(unit, len(queries), wanted.k, walked=True)
        k, metric = found.nodes.shape[1], self._metric_code
        walk_graph = load_kernels().walk

        def walk(scratch: object, first: int, last: int) -> None:
            walk_graph(
                scratch, unit.vectors, graph, unit.dead, queries, first, last, metric, k,
                wanted.ef, found.nodes, found.scores, found.counts, found.visited, found.deleted,
            )  # fmt: skip

        self._pool.run(len(queries), _WALKS_AT_FIRST, deadline, walk)
        return found

    def _scan(
        self, unit: SearchUnit, queries: npt.NDArray[np.float32], k: int, deadline: Deadline
    ) -> Found:
        found = _nothing_yet(unit, len(queries), k, walked=False)

        def scan(until: Deadline, first: int, last: int) -> None:
            self._scan_unit(unit, found, queries, first, last, until)
            self._sort(found, first, last, until)

        self._pool.share(len(queries), _SCANNED_TOGETHER, deadline, scan)
        found.visited[:] = unit.count
        return found

    def _scan_unit(
        self,
        unit: SearchUnit,
        found: Found,
        queries: npt.NDArray[np.float32],
        first: int,
        last: int,
        deadline: Deadline,
    ) -> None:
        """Add what is near in an area to the heaps of queries first to last - 1."""
        # Queries of a piece share each block of rows while it is in the cache.
        k, scan_rows = found.nodes.shape[1], load_kernels().scan_rows
        pair = unit.vectors.shape[1] + _HEAP_FLOATS * k.bit_length()
        step = max(1, SCAN_SLICE_FLOATS // (pair * (last - first)))

        def scan_slice(_: object, start: int, stop: int) -> None:
            scan_rows(
                unit.vectors, unit.dead, start, stop, queries, first, last, self._metric_code, k,
                found.scores, found.nodes, found.counts,
            )  # fmt: skip

        for start in range(0, unit.count, step):
            self._pool.call(deadline, scan_slice, start, min(unit.count, start + step))
            self._pool.yield_to_waiters()

    def _sort(self, found: Found, first: int, last: int, deadline: Deadline) -> None:
        """Turn the heaps of queries first to last - 1 into lists."""
        sort_heaps = load_kernels().sort_heaps

        def sort_slice(_: object, start: int, stop: int) -> None:
            sort_heaps(found.scores, found.nodes, found.counts, start, stop)

        step = max(1, SORT_SLICE_HITS // found.nodes.shape[1])
        for start in range(first, last, step):
            self._pool.call(deadline, sort_slice, start, min(last, start + step))
            self._pool.yield_to_waiters()

    def _scan_unread(
        self, snapshot: Snapshot, queries: npt.NDArray[np.float32], k: int, deadline: Deadline
    ) -> Found:
        """Scan the rows that belong to no mapped segment, those that the view holds too, in the
        order of their numbers; nodes are row numbers.

        One set of heaps goes through all slices. Between two of them it holds row numbers, during
        a slice the nodes of that, and row numbers lowered so far that they come before.
        """
        intervals = snapshot.lost if snapshot.rest is None else (*snapshot.lost, snapshot.rest)
        count = snapshot.memtable.count + sum(i.end_row - i.first_row for i in intervals)
        shape = (len(queries), min(k, count))
        found = Found(
            np.empty(shape, np.float32),
            np.full(shape, -1, np.int64),
            np.zeros(len(queries), np.int64),
            np.zeros(len(queries), np.int64),
            np.zeros(len(queries), np.int64),
            False,
            None,
            None,
        )
        nodes = found.nodes
        for unit in self._units_in_no_segment(snapshot, deadline):
            nodes -= _BEFORE

            def scan(until: Deadline, first: int, last: int, unit: SearchUnit = unit) -> None:
                self._scan_unit(unit, found, queries, first, last, until)

            self._pool.share(len(queries), _SCANNED_TOGETHER, deadline, scan)
            found.visited[:] += unit.count
            of_slice = nodes >= 0
            nodes[~of_slice] += _BEFORE
            nodes[of_slice] = unit.rows[nodes[of_slice]]
        self._pool.share(
            len(queries),
            _SCANNED_TOGETHER,
            deadline,
            lambda until, first, last: self._sort(found, first, last, until),
        )
        return found

    def _units_in_no_segment(self, snapshot: Snapshot, deadline: Deadline) -> Iterator[SearchUnit]:
        """The parts of ``_scan_unread``, ascending; one is to be used before the next."""
        seq = snapshot.state.seq
        for rows, vectors in read_slices(self._store, snapshot.lost, seq, deadline):
            yield SearchUnit(vectors, len(rows), NOTHING_DELETED, len(rows), rows)
        if snapshot.memtable.live_count:
            yield snapshot.memtable_unit
        if snapshot.rest is not None:
            for rows, vectors in read_slices(self._store, (snapshot.rest,), seq, deadline):
                yield SearchUnit(vectors, len(rows), NOTHING_DELETED, len(rows), rows)

    def _scan_where_short(
        self,
        found: Found,
        unit: SearchUnit,
        queries: npt.NDArray[np.float32],
        expected: int,
        deadline: Deadline,
    ) -> None:
        """Scan for those queries whose walk found fewer than there are."""
        short = np.flatnonzero(found.counts < expected)
        scanned = self._scan(unit, queries[short], found.nodes.shape[1], deadline)
        found.scores[short], found.nodes[short] = scanned.scores, scanned.nodes
        found.counts[short] = scanned.counts
        found.visited[short] += scanned.visited


def _take_memory(snapshot: Snapshot, queries: int, wanted: Wanted, dim: int) -> None:
    """Say what the answer to so many queries has at least, and what finding it takes."""
    hits = queries * min(wanted.k, snapshot.live_count)
    wanted.memory.answer(hits * (_HIT_BYTES_MIN + (4 * dim if wanted.vectors else 0)))
    counts = [unit.count for unit in snapshot.units]
    if not snapshot.holds_all:
        counts.append(snapshot.counters.next_row)
    found = queries * sum(min(wanted.k, count) for count in counts)
    merging = _MERGED_BYTES if len(counts) > 1 else 0
    with_records = wanted.metadata and snapshot.counters.metadata_count > 0
    naming = _RECORD_BYTES if with_records else _NAMED_BYTES
    wanted.memory.take(found * (_FOUND_BYTES + merging) + hits * naming)


def _nothing_yet(unit: SearchUnit, queries: int, k: int, *, walked: bool) -> Found:
    """Room for the results of all queries."""
    shape = (queries, min(k, unit.count))
    # Counts begin at 0, since a scan goes on from them.
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


def _checked_queries(queries: object, config: CollectionConfig) -> npt.NDArray[np.float32]:
    return checks.check_vectors(as_queries(queries, config.dim), config.dim, config.metric, "query")
