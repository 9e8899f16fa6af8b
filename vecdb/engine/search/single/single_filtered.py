"""One query with a filter, of a collection whose live rows are all in one graph segment: the short
way, as ``single`` is without a filter.

If the filter compares one field, as most do, the rows that match are those whose codes are in one
range. Then nothing is evaluated: their number and their list are in the field's order, and a walk
compares the codes of the rows that it meets (``kernels/code_ranges.py``). So a filter that was
never seen before costs next to nothing. Which rows match any other filter, and those whose metadata
changed since the columns were made, is found by the ``Matcher``.

One kernel does the rest (``kernels/single_matching.py``). Whatever is unusual is left to the
general path: a newer commit, a scan of all rows, no match, damage.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import checks, limits
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.search.disk_reads import DiskReads
from vecdb.engine.search.filter_plan import expected_blocks, rounded_down
from vecdb.engine.search.filters.column_matches import has_stale_rows, usable_columns
from vecdb.engine.search.filters.matching import Matcher, Selection
from vecdb.engine.search.plan import Planner, Shapes, UnitPlan, Wish, expect_pages
from vecdb.engine.search.recall.real_curves import RealCurves
from vecdb.engine.search.single.single_hits import Results, hits_of, room_for
from vecdb.engine.search.snapshots.lookup import records_at_once
from vecdb.engine.search.snapshots.snapshot import SearchUnit, Snapshot
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.search.snapshots.streaming import SnapshotTooOldError
from vecdb.engine.segments.codecs.sketch import Sketch
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.columns.columns import Columns
from vecdb.engine.segments.columns.evaluating import codes_of
from vecdb.engine.segments.columns.field import Field
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import DataLossError
from vecdb.filters import And, Compare, Filter, Node, Path
from vecdb.types import Hits, Metric, SearchInfo

__all__ = ["SingleFiltered"]

_K_MAX: Final = 100
"""As in ``single``."""

_RECORDS_MAX: Final = 2_000
"""As in ``single``."""

_NODES_MAX: Final = 1_000_000
"""Rows that one kernel compares by their sketches without a look at the deadline: about 10 ms."""

_WAYS_MAX: Final = 512
"""Ways that are kept with one snapshot."""

_LEAST, _MOST = 4 * limits.SQUARED_NORM_MIN, limits.SQUARED_NORM_MAX / 2
"""As in ``single``."""

_NOTHING: Final = np.zeros(0, np.uint8)
_NO_NODES: Final = np.zeros(0, np.int32)
_NO_DEADLINE: Final = Deadline()

Asked = tuple[int, int | None, float | None, int]
"""k, ef and target as given, and the edition of the curves."""


class _Gate(NamedTuple):
    """Which rows match.

    Attributes:
        mask, codes: as for ``find_matching``.
        nodes: int32, rows that match, from ``start`` to before ``stop``; none if the walk does not
            need them.
        shift, low, span: of codes; span 0: by mask.
        matching: live rows that match.
        selection: by which they were found, if it was not by codes.
    """

    mask: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.uint8]
    nodes: npt.NDArray[np.int32]
    shift: int
    low: int
    span: int
    start: int
    stop: int
    matching: int
    selection: Selection | None = None


class _Way:
    """How a segment is searched for some k and number of matches.

    Attributes:
        whole, parts: as for ``find_matching``. scanning: ``whole`` for a scan.
        space: arguments of ``Scratch.reserve``.
        walks, count, ef: whether the graph is walked, hits, and the ef of ``SearchInfo``.
        lists: whether a walk that gives up is followed by a scan of sketches; any other is left to
            the general path.
    """

    __slots__ = ("count", "ef", "lists", "parts", "scanning", "space", "walks", "whole")

    def __init__(
        self, ground: _Ground, commits_at: tuple[int, int], count: int, plan: UnitPlan
    ) -> None:
        kernels, sketch, metric = load_kernels(), ground.sketch, ground.metric
        ef, rescored = kernels.effort_by_sketches(sketch, count, plan.ef)
        scores, distances = {
            Metric.EUCLIDEAN: (kernels.EUCLIDEAN, kernels.SQUARED),
            Metric.COSINE: (kernels.INNER, kernels.COSINE),
            Metric.DOT: (kernels.INNER, kernels.DOT),
        }[metric]
        probe, share, end_max = plan.limits
        self.count, self.ef, self.walks = count, plan.ef if plan.walks else 0, plan.walks
        self.lists = plan.scan == "sketches"
        whole = (
            *(ground.dim, ground.unit.count, count, count, ef, rescored, plan.ef_far),
            *(scores, distances, *commits_at, ground.next_row),
            *(plan.walks, max(0, probe), max(0, end_max)),
        )
        gamma = kernels.NO_GAMMA if plan.gamma is None else plan.gamma
        parts = (gamma, 0.0, sketch.slope, sketch.slack, plan.far, _LEAST, _MOST, share)
        self.whole, self.parts = np.array(whole, np.int64), np.array(parts, np.float32)
        self.scanning = self.whole.copy()
        self.scanning[-3] = 0
        self.space = (ground.unit.count, max(ef, count), ground.slots, True)

    def room(self) -> Results:
        """Return arrays for the hits."""
        return room_for(self.count, self.count * limits.ID_BYTES.maximum)


class _Indexed(NamedTuple):
    """A field whose order tells which rows match.

    Attributes:
        codes: of all rows, as bytes; None if not each row has one.
        shift: logarithm of the bytes of a code.
    """

    field: Field
    codes: npt.NDArray[np.uint8] | None
    shift: int


class _Ground:
    """What searches of one snapshot share; kept with it."""

    def __init__(
        self, snapshot: Snapshot, unit: SearchUnit, sketch: Sketch, columns: Columns | None,
        dim: int, metric: Metric,
    ) -> None:  # fmt: skip
        """columns: None if they can't decide for all rows."""
        content, graph = unit.content, unit.parts[GRAPH]
        assert content is not None
        self.unit, self.sketch, self.columns, self.metric = unit, sketch, columns, metric
        self.shape = (1, unit.vectors.shape[1])
        self.dim, self.next_row, self.slots = dim, snapshot.counters.next_row, graph.links.shape[1]
        self.with_metadata, self.verified = snapshot.counters.metadata_count > 0, False
        self.arguments: tuple[Any, ...] = (
            *(unit.vectors, unit.delete_bitmap),
            *(content.rows, content.id_offsets, content.id_bytes),
            *(graph.links, sketch.codes, sketch.hubs, sketch.hub_codes),
            *(sketch.query_mean, sketch.basis, sketch.basis_steps),
        )
        self.ways: dict[tuple[Asked, int, int | None, int], _Way | None] = {}
        self._indexed: dict[Path, _Indexed | None] = {}

    def gate_of(self, root: Node) -> _Gate | None:
        """Return the gate of a filter that compares one field; None if it is of another kind."""
        if type(root) is Compare:
            terms: tuple[Node, ...] = (root,)
        elif type(root) is And:
            terms = root.terms
        else:
            return None
        indexed: _Indexed | None = None
        path, low, high = None, 0, 0
        for term in terms:
            if type(term) is not Compare or path not in (None, term.path):
                return None
            if indexed is None:
                path = term.path
                indexed = self._field(path)
                if indexed is None:
                    return None
                low, high = 0, indexed.field.code_count
            first, end = codes_of(indexed.field, term)
            low, high = max(low, first), min(high, end)
        if indexed is None or high <= low:
            return None
        field = indexed.field
        if not field.is_single and (len(terms) > 1 or high - low > 1):
            return None
        start, stop = int(field.starts[low]), int(field.starts[high])
        return self._gate(indexed, low, high, start, stop)

    def _gate(self, indexed: _Indexed, low: int, high: int, start: int, stop: int) -> _Gate | None:
        count, unit = stop - start, self.unit
        if unit.delete_bitmap.size and count:
            deleted = unit.deleted_nodes
            if indexed.codes is None:
                among = indexed.field.holds(deleted, [(low, high)])
                count -= int(np.count_nonzero(among))
            else:
                args = (indexed.codes, indexed.shift, unit.count, deleted, low, high - low)
                count -= load_kernels().count_in_range(*args)
        if count < 1 or stop - start > _NODES_MAX:
            return None
        span = 0 if indexed.codes is None else high - low
        codes = _NOTHING if indexed.codes is None else indexed.codes
        return _Gate(
            _NOTHING, codes, indexed.field.order, indexed.shift, low, span, start, stop, count
        )

    def _field(self, path: Path) -> _Indexed | None:
        if path in self._indexed:
            return self._indexed[path]
        field = None if self.columns is None else self.columns.field(path)
        found = None
        if field is not None and not field.odd.count:
            codes, holders = None, field.holders
            if field.is_single and holders.nodes is None:
                codes = np.ascontiguousarray(holders.codes).view(np.uint8)
            found = _Indexed(field, codes, holders.codes.itemsize.bit_length() - 1)
        self._indexed[path] = found
        return found


class SingleFiltered:
    """Answers single queries with a filter, or leaves them to a ``Searcher``. Thread-safe."""

    def __init__(
        self,
        store: Store,
        snapshots: SnapshotManager,
        pool: KernelPool,
        matcher: Matcher,
        planner: Planner,
        shapes: Shapes,
        real_curves: RealCurves,
        disk_reads: DiskReads,
        *,
        codes: bool = True,
    ) -> None:
        """Arguments: those of a ``Searcher``, and its own."""
        self._store, self._snapshots, self._pool, self._codes = store, snapshots, pool, codes
        self._matcher, self._planner, self._shapes = matcher, planner, shapes
        self._real_curves, self._disk_reads = real_curves, disk_reads
        self._environment = store.environment

    def answer(
        self,
        query: npt.NDArray[np.float32],
        k: int,
        ef: int | None,
        target: float | None,
        with_metadata: bool,
        filter: Filter,
        deadline: Deadline | None,
    ) -> Hits | None:
        """Return the hits of a query; None to leave it to the general path.

        Args:
            query: float32 (dim,), C-contiguous.
            k, ef, target: as given by the caller, not checked.
            deadline: None for no deadline.

        Raises:
            InvalidArgumentError: k, ef or target is invalid.
            DeadlineExceededError, CancelledError.
        """
        commit, snapshot = self._snapshots.known
        file = self._environment.watched_file()
        if snapshot is None or file is None or self._disk_reads.wait_for(1):
            return None
        # Equal keys of other types, such as True or 10.0, are left to be checked there.
        if type(k) is not int or not (ef is None or type(ef) is int):
            return None
        ground = self._ground(snapshot)
        if ground is None:
            return None
        asked = (k, ef, target, self._real_curves.edition)
        gate, way = ground.gate_of(filter.root), None
        if gate is not None:
            way = self._way(ground, file.commits_at, asked, gate.matching, None)
            if way is not None and way.walks and not gate.span:
                gate = None  # There is no code of each row to compare.
        if gate is None:
            found = self._selected(ground, snapshot, file.commits_at, asked, filter, deadline)
            if found is None:
                return None
            gate, way = found
        if way is None:
            return None
        return self._found(ground, snapshot, commit, way, gate, query, with_metadata, deadline)

    def _selected(
        self, ground: _Ground, snapshot: Snapshot, commits_at: tuple[int, int], asked: Asked,
        filter: Filter, deadline: Deadline | None,
    ) -> tuple[_Gate, _Way | None] | None:  # fmt: skip
        """Return the gate of any filter, and the way of a search; None without a match."""
        unit = ground.unit
        try:
            selection = self._matcher.selection_of(snapshot, unit, filter, deadline or _NO_DEADLINE)
        except (DataLossError, SnapshotTooOldError):
            return None
        if not selection.count or not len(selection.mask):
            return None
        way = self._way(ground, commits_at, asked, selection.count, selection.blocks)
        nodes = _NO_NODES
        if way is not None and not way.walks:
            nodes = selection.nodes
            if len(nodes) > _NODES_MAX:
                return None
        numbers = (0, 0, 0, 0, len(nodes), selection.count)
        return _Gate(selection.mask, _NOTHING, nodes, *numbers, selection), way

    def _found(
        self, ground: _Ground, snapshot: Snapshot, commit: int, way: _Way, gate: _Gate,
        query: npt.NDArray[np.float32], with_metadata: bool, deadline: Deadline | None,
    ) -> Hits | None:  # fmt: skip
        kernels, file, results = load_kernels(), self._environment.watched_file(), way.room()
        if file is None:
            return None
        descriptor, selection, numbers = file.descriptor, gate.selection, results[0]
        prepared, stop = np.empty(ground.shape, np.float32), gate.stop if way.lists else gate.start
        span = np.array((gate.shift, gate.low, gate.span, gate.start, stop), np.int64)
        nodes, whole, visited, gated = gate.nodes, way.whole, 0, 0
        scratch = self._pool.acquire(deadline or _NO_DEADLINE)
        try:
            if scratch.reserved != way.space:
                scratch.reserve(*way.space)
            while True:
                state = kernels.find_matching(
                    kernels.FIRST + kernels.LAST, descriptor, file.size_max, commit, query,
                    prepared, scratch.visited, scratch.seen, scratch.pool, *results, whole,
                    way.parts, *ground.arguments, gate.mask, gate.codes, nodes, span,
                )  # fmt: skip
                if state != kernels.NO_LIST or selection is None or not way.lists:
                    break
                if gate.matching > _NODES_MAX:
                    break
                visited, gated, nodes = int(numbers[0]), int(numbers[1]), selection.nodes
                whole, span[4] = way.scanning, len(nodes)
        finally:
            self._pool.release(scratch)
        if state != kernels.FOUND or file.descriptor != descriptor:
            return None
        if not ground.verified:
            ground.verified = snapshot.verified
        listed, seq = numbers.tolist(), snapshot.state.seq
        info = SearchInfo(
            "graph" if way.walks else "scan", not way.walks, way.ef, visited + listed[0],
            gate.matching, seq, ground.verified, snapshot.unindexed_count, gated=gated + listed[1],
        )  # fmt: skip
        with_metadata = with_metadata and ground.with_metadata
        return hits_of(self._store, listed, results, seq, with_metadata, info)

    def _ground(self, snapshot: Snapshot) -> _Ground | None:
        """Return what searches of a snapshot share; None if it has another form."""
        kept = snapshot.filtered
        if "ground" not in kept:
            kept["ground"] = self._new_ground(snapshot)
        ground: _Ground | None = kept["ground"]
        return ground

    def _new_ground(self, snapshot: Snapshot) -> _Ground | None:
        units = snapshot.units
        if len(units) != 1 or not snapshot.holds_all or units[0].content is None:
            return None
        [unit] = units
        sketch = unit.parts.get(SKETCH) if self._codes else None
        if sketch is None or not unit.parts.has(GRAPH):
            return None
        seq, config = snapshot.state.seq, self._store.config
        columns = usable_columns(unit, seq)
        if columns is not None and has_stale_rows(self._store, columns, unit, seq):
            columns = None
        return _Ground(snapshot, unit, sketch, columns, config.dim, config.metric)

    def _way(
        self, ground: _Ground, commits_at: tuple[int, int], asked: Asked, count: int,
        blocks: int | None,
    ) -> _Way | None:  # fmt: skip
        """Return how to search if so many rows match, prepared once for about as many. blocks: of
        16 rows, in which they are; None: as many as to be expected."""
        matching = rounded_down(count)
        blocks = blocks if blocks is None else rounded_down(blocks)
        key = (asked, matching, blocks, min(asked[0], count))
        way = ground.ways.get(key)
        if way is None and key not in ground.ways:
            if blocks is None:
                blocks = expected_blocks(ground.unit.count, matching)
            way = self._new_way(ground, commits_at, asked, matching, blocks, count)
            if len(ground.ways) >= _WAYS_MAX:
                ground.ways.clear()
            ground.ways[key] = way
        return way

    def _new_way(
        self, ground: _Ground, commits_at: tuple[int, int], asked: Asked, matching: int,
        blocks: int, count: int,
    ) -> _Way | None:  # fmt: skip
        """Return how to search if so many rows match, which are in so many blocks. count: exact."""
        k, ef, target, _ = asked
        number = checks.check_k(k, 1)
        if number > min(_K_MAX, records_at_once(self._store, _RECORDS_MAX)):
            return None
        effort = None if ef is None else checks.check_ef(ef, number)
        wanted = checks.check_target_recall(target, self._store.config.target_recall)
        wish = Wish(effort, wanted, exact=False)
        plan = self._planner.filtered_way(ground.unit, matching, blocks, number, wish, self._shapes)
        if not plan.walks and plan.scan != "sketches":
            return None
        expect_pages([ground.unit], [plan])
        return _Way(ground, commits_at, min(number, count), plan)
