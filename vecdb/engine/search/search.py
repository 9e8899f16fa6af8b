"""Search: take a snapshot, run kernels over each of its search units, and merge the results.

The memtable and flat segments are scanned exactly; graphs are walked (HNSW). A search returns
exactly k hits unless the collection has fewer than k live rows: if a walk finds too few live rows,
because it met too many deleted ones, that segment is scanned instead. Rows that the snapshot does
not hold are read from the store and scanned in slices.

With a filter, rows that do not match are treated as deleted ones (``matching``).

One query runs on its caller's thread, a batch of queries on several (``kernels/pool.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.search.call_bytes import take_hits_memory, take_search_memory
from vecdb.engine.search.disk_reads import DiskReads
from vecdb.engine.search.filtered import Selected, by_filter, groups_of, select, select_unit
from vecdb.engine.search.filters.matching import Matcher
from vecdb.engine.search.hits import Found, Results, Wanted, answers
from vecdb.engine.search.node_scans import NodeScans
from vecdb.engine.search.plan import CODED_ROWS_A_HIT, HEAP_FLOATS, Planner, Scan, UnitPlan, Wish
from vecdb.engine.search.recall.real_curves import RealCurves
from vecdb.engine.search.recall.samples import SampleTap
from vecdb.engine.search.request import SearchRequest
from vecdb.engine.search.single.single import SingleSearch
from vecdb.engine.search.single.single_filtered import SingleFiltered
from vecdb.engine.search.snapshots.snapshot import NOTHING_DELETED, SearchUnit, Snapshot
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.search.snapshots.streaming import SnapshotTooOldError, read_slices
from vecdb.engine.search.variants.variants import VariantSearch
from vecdb.engine.search.walk_shapes import WalkShapes
from vecdb.engine.segments.codecs.byte_codes import BYTE_CODES
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.segment import padded_width
from vecdb.engine.store.leases import leased
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.mapped_pages import read_in_order
from vecdb.engine.system.weighted_lru import WeightedLru
from vecdb.errors import DataLossError
from vecdb.filters import Filter
from vecdb.reasons import Reason
from vecdb.search_variants import PLAIN
from vecdb.types import HitColumns, Hits, Metric
from vecdb.vector_arrays import as_queries

__all__ = ["SCAN_SLICE_FLOATS", "SORT_SLICE_HITS", "SearchRequest", "Searcher"]

SCAN_SLICE_FLOATS = 8_000_000
"""Floats that one scan slice compares: about 5 ms."""

SORT_SLICE_HITS = 250_000
"""Hits that are sorted between two checks of the deadline: about 20 ms."""

_SEGMENT_REASONS = (Reason.SEGMENT, Reason.RECORD_MISSING, Reason.VECTOR_MISSING)
"""Reasons of a DataLossError that wrong row numbers in a damaged segment can cause."""

_ROW_OFFSET = 2**62
"""Offset that keeps earlier slices' row numbers below this slice's nodes."""

_WALKS_AT_FIRST = 4
"""Queries in the first slices of walks; later slices are sized by the time that these took."""

_SCANNED_TOGETHER = 16
"""Queries that are compared with each block of rows while it is in the CPU cache."""


class Searcher:
    """Answers searches of one collection. Thread-safe.

    Attributes:
        tap: takes samples of queries for the recall meter.
        matcher: finds which rows match a filter.
        real_curves: what that has measured, for plans. planner: makes the plans.
    """

    def __init__(
        self,
        store: Store,
        snapshots: SnapshotManager,
        pool: KernelPool,
        *,
        codes: bool = True,
        budget: WeightedLru | None = None,
    ) -> None:
        """codes: whether searches may use the codes of segments that have some.
        budget: as for ``Matcher``."""
        self._store = store
        self._codes = codes
        self._snapshots = snapshots
        self._pool = pool
        self.tap = SampleTap()
        self.matcher = Matcher(store, budget)
        self.real_curves = RealCurves(store.config.metric, self._plan_again)
        kernels = load_kernels()
        self.planner = Planner(self.real_curves, codes=codes)
        euclidean = store.config.metric is Metric.EUCLIDEAN
        self._metric_code: int = kernels.EUCLIDEAN if euclidean else kernels.INNER
        self._node_scans = NodeScans(pool, self._metric_code)
        self._walk_shapes = WalkShapes(self.walk)
        self._variants = VariantSearch(store, self)
        self._disk_reads = DiskReads()
        self.single = SingleSearch(
            store, snapshots, pool, self.tap, self.real_curves, self._disk_reads, codes=codes
        )
        self.single_filtered = SingleFiltered(
            store, snapshots, pool, self.matcher, self.planner, self._walk_shapes,
            self.real_curves, self._disk_reads, codes=codes,
        )  # fmt: skip

    def run(self, request: SearchRequest, deadline: Deadline) -> HitColumns:
        """Return the hits of all queries.

        Raises:
            InvalidArgumentError: a query, k, ef or target_recall is invalid.
            ResourceExhaustedError: the answer would be too large, or memory is short.
            NotFoundError: the collection was dropped.
            DataLossError: a row of the answer is damaged.
            DeadlineExceededError, CancelledError: between two slices of work.
            SnapshotTooOldError: rows were purged during the search, twice, since no lease could be
                written that protects them.
        """
        with self._store.call_memory.of_call() as memory:
            found = self._short(request, deadline, memory)
            return self._run(request, deadline, memory) if found is None else found

    def run_general(self, request: SearchRequest, deadline: Deadline) -> HitColumns:
        """Do ``run`` without trying the short way of ``single``."""
        with self._store.call_memory.of_call() as memory:
            return self._run(request, deadline, memory)

    def _short(
        self, request: SearchRequest, deadline: Deadline, memory: CallMemory
    ) -> HitColumns | None:
        """Return the hits of one query, if ``single`` can answer it."""
        query, dim = request.queries, self._store.config.dim
        if type(query) is not np.ndarray or query.shape not in ((1, dim), (dim,)):
            return None
        if query.dtype != np.float32 or request.exact or request.include_vectors:
            return None
        variant = request.variant
        if request.explain or request.k is None or not variant.is_bound_only:
            return None
        raw = np.ascontiguousarray(query.reshape(-1))
        wish = request.k, request.ef, request.target_recall, request.include_metadata
        hits = self.short(raw, *wish, request.filter, deadline)
        if hits is None:
            return None
        hits = variant.cut(hits)
        metadata, info = hits.raw_metadata, hits.info
        take_hits_memory(memory, len(hits), sum(map(len, metadata or ())))
        passed = [info.deleted_visited], [] if request.filter is None else [info.gated]
        found = hits.ids, hits.distances, metadata, None, info, [info.visited]
        return HitColumns([len(hits)], *found, *passed)

    def short(
        self, query: npt.NDArray[np.float32], k: int, ef: int | None, target: float | None,
        with_metadata: bool, filter: Filter | Sequence[Filter] | None, deadline: Deadline | None,
    ) -> Hits | None:  # fmt: skip
        """Return the hits of one query, float32 (dim,), by ``single`` or ``single_filtered``; None
        to leave it to ``run_general``."""
        wish = query, k, ef, target, with_metadata
        if filter is None:
            return self.single.answer(*wish, deadline)
        if not isinstance(filter, Filter):
            return None
        return self.single_filtered.answer(*wish, filter, deadline)

    def _run(self, request: SearchRequest, deadline: Deadline, memory: CallMemory) -> HitColumns:
        if request.variant != PLAIN:
            return self._variants.run(request, deadline, memory)
        queries = self.checked(request.queries)
        k = checks.check_k(request.k, max(1, len(queries)))
        wish = Wish(
            None if request.ef is None else checks.check_ef(request.ef, k),
            checks.check_target_recall(request.target_recall, self._store.config.target_recall),
            request.exact,
        )
        prepared = self.prepared(queries)
        flags = request.include_metadata, request.include_vectors
        wanted = Wanted(k, *flags, memory, request.explain)
        filters = groups_of(request.filter, len(queries))

        def answer(snapshot: Snapshot, until: Deadline) -> HitColumns:
            take_search_memory(snapshot, len(prepared), wanted, self._store.config.dim)

            def some(queries: npt.NDArray[np.float32], filter: Filter | None) -> HitColumns:
                results = self.find(snapshot, queries, k, wish, until, filter)
                return answers(self._store, snapshot, results, len(queries), wanted, until)

            return by_filter(prepared, filters, some)

        return self.attempt(answer, deadline, memory)

    def checked(self, queries: object) -> npt.NDArray[np.float32]:
        """Return valid queries, float32 (q, dim).

        Raises:
            InvalidArgumentError: as ``checks.check_vectors``.
        """
        config = self._store.config
        given = as_queries(queries, config.dim)
        return checks.check_vectors(given, config.dim, config.metric, "query")

    def prepared(self, queries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return valid queries in the form of the kernels."""
        config = self._store.config
        prepared = np.empty((len(queries), padded_width(config.dim)), np.float32)
        load_kernels().prepare_rows(queries, prepared, config.metric is Metric.COSINE)
        return prepared

    def newest(self) -> Snapshot:
        """Return the newest snapshot."""
        return self._snapshots.snapshot()

    def attempt(
        self,
        answer: Callable[[Snapshot, Deadline], HitColumns],
        deadline: Deadline,
        memory: CallMemory,
    ) -> HitColumns:
        """Call ``answer`` with the newest snapshot; once more if rows were purged in between."""
        snapshot = self._snapshots.snapshot()
        try:
            return answer(snapshot, deadline)
        except DataLossError as error:
            # A damaged segment whose checksums were not compared yet may be the cause.
            if error.reason in _SEGMENT_REASONS and not snapshot.verified:
                self._snapshots.verify(deadline.check)
            # Or a record was purged after the snapshot was taken. Then its row was deleted since,
            # and a newer snapshot does not return it. If there is no newer snapshot, or if the
            # repetition under a lease fails too, the data are really damaged.
            if self._snapshots.snapshot() is snapshot:
                raise
        except SnapshotTooOldError:
            pass  # Rows to be read from the store were purged: repeat under a lease.
        memory.begin_again()
        with leased(self._store) as keep:
            newer = self._snapshots.snapshot()
            # The search may take longer than a lease: each check of the deadline renews it.
            return answer(newer, deadline.also(keep))

    def find(
        self,
        snapshot: Snapshot,
        queries: npt.NDArray[np.float32],
        k: int,
        wish: Wish,
        deadline: Deadline,
        filter: Filter | None = None,
    ) -> Results:
        """Return the k nearest rows of each part of a snapshot, all or those that match."""
        if filter is not None:
            return self._find_matching(snapshot, queries, k, wish, deadline, filter)

        plan = self.planner.plan(snapshot, k, wish)
        if self.tap.armed and plan.curves and len(queries):
            self.tap.take(queries[0], k, wish)
        parts: list[Found] = []
        for unit, way in zip(snapshot.units, plan.units, strict=True) if len(queries) else ():
            if way.walks:
                parts.append(self.walk(unit, way, queries, k, deadline))
            else:
                parts.append(self.scan(unit, queries, k, deadline))
        unread = (0, 0)
        if not snapshot.holds_all and len(queries):
            found, unread = self.scan_unread(snapshot, queries, k, deadline)
            parts.append(found)
        return Results(parts, plan, snapshot.units, unread=unread)

    def _find_matching(
        self,
        snapshot: Snapshot,
        queries: npt.NDArray[np.float32],
        k: int,
        wish: Wish,
        deadline: Deadline,
        filter: Filter,
    ) -> Results:
        every = select(self.matcher, snapshot, filter, deadline)
        selected = [one for one in every if one.unit.live_count]
        plan = self.planner.plan_filtered(selected, k, wish, self._walk_shapes)
        parts: list[Found] = []
        for one, way in zip(selected, plan.units, strict=True):
            if way.walks:
                scan = partial(self._scan_selected, one, way.scan)
                parts.append(self.walk(one.unit, way, queries, k, deadline, scan))
            else:
                parts.append(self._scan_selected(one, way.scan, queries, k, deadline))
        matching = sum(one.unit.live_count for one in selected)
        unread = (0, 0)
        if not snapshot.holds_all:
            found, unread = self.scan_unread(snapshot, queries, k, deadline, filter)
            parts, matching = [*parts, found], matching + unread[1]
        units = [one.unit for one in selected]
        others = [one.unit for one in every if not one.unit.live_count]
        return Results(parts, plan, units, matching, others, unread)

    def _scan_selected(
        self,
        one: Selected,
        scan: Scan,
        queries: npt.NDArray[np.float32],
        k: int,
        deadline: Deadline,
    ) -> Found:
        if scan == "rows":
            return self.scan(one.unit, queries, k, deadline)
        return self._node_scans.scan(one, queries, k, deadline, by_sketches=scan == "sketches")

    def _plan_again(self) -> None:
        """Forget the plans: curves were published."""
        self.planner.forget()
        _, snapshot = self._snapshots.known
        if snapshot is not None:
            snapshot.ways.clear()

    def walk(
        self,
        unit: SearchUnit,
        way: UnitPlan,
        queries: npt.NDArray[np.float32],
        wanted_k: int,
        deadline: Deadline,
        scan: Callable[[npt.NDArray[np.float32], int, Deadline], Found] | None = None,
    ) -> Found:
        """Walk the graph of a unit; queries for which that finds too few live rows are scanned.

        scan: default: of all rows.
        """
        graph, sketch = unit.parts[GRAPH], unit.parts.get(SKETCH) if self._codes else None
        found = Found.empty(unit, len(queries), wanted_k, walked=True)
        k, metric = found.nodes.shape[1], self._metric_code
        kernels = load_kernels()
        gamma = kernels.NO_GAMMA if way.gamma is None else way.gamma
        # Of unit vectors, score plus 1 is half the squared distance.
        shift, half = (0.0, 1.0) if metric == kernels.EUCLIDEAN else (1.0, 0.5)

        asks = self._disk_reads.wait_for(len(queries))

        def walk(scratch: object, first: int, last: int) -> None:
            results = (found.nodes, found.scores, found.counts, found.visited, found.deleted)
            if sketch is None:
                kernels.walk(
                    scratch, unit.vectors, graph, unit.delete_bitmap, queries, first, last, metric,
                    k, way.ef, *results, gamma, shift,
                    half * way.far, way.ef_far, way.limits,
                )  # fmt: skip
            else:
                kernels.walk_by_sketches(
                    scratch, unit.vectors, graph.links, sketch, unit.delete_bitmap, queries, first,
                    last, metric, k, way.ef, gamma, *results, far=way.far, ef_far=way.ef_far,
                    limits=way.limits, asks=asks,
                )  # fmt: skip

        self._pool.run(len(queries), _WALKS_AT_FIRST, deadline, walk)
        expected = min(wanted_k, unit.live_count)
        if min(found.counts.tolist()) < expected:
            short = np.flatnonzero(found.counts < expected)
            scan = scan or partial(self.scan, unit)
            scanned = scan(queries[short], k, deadline)
            found.scores[short], found.nodes[short] = scanned.scores, scanned.nodes
            found.counts[short] = scanned.counts
            found.visited[short] += scanned.visited
        return found

    def scan(
        self, unit: SearchUnit, queries: npt.NDArray[np.float32], k: int, deadline: Deadline
    ) -> Found:
        """Compare all rows of a unit."""
        found = Found.empty(unit, len(queries), k, walked=False)

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
        """Add the nearest rows of a unit to the heaps of queries first to last - 1."""
        k, kernels = found.nodes.shape[1], load_kernels()
        of_use = self._codes and CODED_ROWS_A_HIT * k <= unit.count
        coded = unit.parts.get(BYTE_CODES) if of_use else None
        width = unit.vectors.shape[1] if coded is None else unit.vectors.shape[1] // 2
        if coded is None and unit.parts.has(GRAPH):
            read_in_order(unit.vectors)  # A walk may have changed that.
        pair = width + HEAP_FLOATS * k.bit_length()
        step = max(1, SCAN_SLICE_FLOATS // (pair * (last - first)))
        scored = np.zeros(0 if coded is None else len(queries), np.int64)

        def scan_slice(_: object, start: int, stop: int) -> None:
            arguments = (
                unit.delete_bitmap, start, stop, queries, first, last, self._metric_code, k,
                found.scores, found.nodes, found.counts,
            )  # fmt: skip
            if coded is None:
                kernels.scan_rows(unit.vectors, *arguments)
            else:
                kernels.scan_by_codes(unit.vectors, coded, *arguments, scored)

        for start in range(0, unit.count, step):
            self._pool.call(deadline, scan_slice, start, min(unit.count, start + step))
            self._pool.yield_to_waiters()

    def _sort(self, found: Found, first: int, last: int, deadline: Deadline) -> None:
        """Turn the heaps of queries first to last - 1 into ascending lists."""
        sort_heaps = load_kernels().sort_heaps

        def sort_slice(_: object, start: int, stop: int) -> None:
            sort_heaps(found.scores, found.nodes, found.counts, start, stop)

        step = max(1, SORT_SLICE_HITS // found.nodes.shape[1])
        for start in range(first, last, step):
            self._pool.call(deadline, sort_slice, start, min(last, start + step))
            self._pool.yield_to_waiters()

    def scan_unread(
        self,
        snapshot: Snapshot,
        queries: npt.NDArray[np.float32],
        k: int,
        deadline: Deadline,
        filter: Filter | None = None,
    ) -> tuple[Found, tuple[int, int]]:
        """Scan all rows outside mapped segments, held by the snapshot or not, in ascending order.
        Return the result, how many rows were compared, and how many could have been found.

        The nodes of the result are row numbers. The same heaps are used for all slices. Between two
        slices they hold row numbers. During a slice they hold the slice's nodes, and earlier row
        numbers lowered by ``_ROW_OFFSET``, so that equal scores stay ordered by row.
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
        nodes, rows, count = found.nodes, 0, 0
        for unit in self._units_outside_segments(snapshot, deadline):
            if filter is not None:
                unit = select_unit(self.matcher, snapshot, unit, filter, deadline).unit
            nodes -= _ROW_OFFSET
            rows, count = rows + unit.count, count + unit.live_count

            def scan(until: Deadline, first: int, last: int, unit: SearchUnit = unit) -> None:
                self._scan_unit(unit, found, queries, first, last, until)

            self._pool.share(len(queries), _SCANNED_TOGETHER, deadline, scan)
            found.visited[:] += unit.count
            of_slice = nodes >= 0
            nodes[~of_slice] += _ROW_OFFSET
            nodes[of_slice] = unit.rows[nodes[of_slice]]
        self._pool.share(
            len(queries),
            _SCANNED_TOGETHER,
            deadline,
            lambda until, first, last: self._sort(found, first, last, until),
        )
        return found, (rows, count)

    def _units_outside_segments(
        self, snapshot: Snapshot, deadline: Deadline
    ) -> Iterator[SearchUnit]:
        """Yield the units of ``_scan_unread``, ascending; the next one overwrites the last."""
        seq = snapshot.state.seq
        for rows, vectors in read_slices(self._store, snapshot.lost, seq, deadline):
            yield SearchUnit(vectors, len(rows), NOTHING_DELETED, len(rows), rows)
        yield from snapshot.memtable_units
        if snapshot.rest is not None:
            for rows, vectors in read_slices(self._store, (snapshot.rest,), seq, deadline):
                yield SearchUnit(vectors, len(rows), NOTHING_DELETED, len(rows), rows)
