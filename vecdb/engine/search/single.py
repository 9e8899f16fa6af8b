"""One query of a collection whose live rows are all in one graph segment: the short way.

Then one kernel does what the general path (``search``) does in many steps, most of them in Python:
it compares the number of the store's last commit, checks and prepares the query, walks the graph
and gathers the ids (``kernels/single.py``). Whatever is unusual is left to the general path, which
also finds all errors: a query out of bounds, a newer commit, too few live rows found, damage.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb import checks, limits
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.search.disk_reads import DiskReads
from vecdb.engine.search.lookup import read_records
from vecdb.engine.search.plan import SearchPlan, Wish, expect_pages, plan_search
from vecdb.engine.search.real_curves import RealCurves
from vecdb.engine.search.samples import SampleTap
from vecdb.engine.search.snapshot import SearchUnit, Snapshot
from vecdb.engine.search.snapshot_manager import SnapshotManager
from vecdb.engine.segments.codecs.sketch import Sketch
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import DataLossError
from vecdb.types import CollectionConfig, Hits, Metric, SearchInfo

__all__ = ["SingleSearch"]

_K_MAX: Final = 100
_METADATA_BYTES_MAX: Final = 128 * 1024
"""Up to this k, and this size of the metadata of all hits, the memory of a call is below what is
counted (``system/call_memory.py``)."""

_WAYS_MAX: Final = 64
"""Ways that are kept with one snapshot."""

_LEAST, _MOST = 4 * limits.SQUARED_NORM_MIN, limits.SQUARED_NORM_MAX / 2
"""Squared lengths that ``check_vectors`` accepts, however they are rounded."""

_RESCORED: Final = 3
"""Place of that number among the whole ones that kernels take."""

_NO_DEADLINE: Final = Deadline()


class _Way:
    """How one snapshot is searched for one k and one wish; kept in ``Snapshot.ways``.

    Attributes:
        find: the kernel.
        arguments: its last arguments.
        asks: whether it asks the system for the rows to score again.
        space: arguments of ``Scratch.reserve``.
        count: hits of each query.
        ef, recall: as in ``SearchInfo``.
        with_metadata: whether any row has metadata.
        verified: whether the snapshot was found to be verified.
    """

    __slots__ = (
        *("arguments", "asks", "count", "ef", "find", "recall", "space", "verified"),
        "with_metadata",
    )

    def __init__(
        self, snapshot: Snapshot, sketch: Sketch | None, config: CollectionConfig,
        commits_at: tuple[int, int], k: int, plan: SearchPlan,
    ) -> None:  # fmt: skip
        unit, kernels = snapshot.units[0], load_kernels()
        content, graph = unit.content, unit.parts[GRAPH]
        assert content is not None
        ef, gamma = plan.units[0].ef, plan.units[0].gamma
        self.asks = False
        self.count, self.ef, self.recall = min(k, unit.live_count), ef, plan.recall
        rescored, slope, slack = 0, 0.0, 0.0
        self.with_metadata, self.verified = snapshot.counters.metadata_count > 0, False
        if sketch is not None:
            ef, rescored = kernels.effort_by_sketches(sketch, self.count, ef)
            slope, slack = sketch.slope, sketch.slack
        scores, distances = {
            Metric.EUCLIDEAN: (kernels.EUCLIDEAN, kernels.SQUARED),
            Metric.COSINE: (kernels.INNER, kernels.COSINE),
            Metric.DOT: (kernels.INNER, kernels.DOT),
        }[config.metric]
        whole = (
            *(config.dim, self.count, ef, rescored, scores, distances),
            *(*commits_at, snapshot.counters.next_row, plan.units[0].ef_far),
        )
        far = plan.units[0].far
        if sketch is None and config.metric is not Metric.EUCLIDEAN:
            far /= 2  # Of unit vectors, score plus 1 is half the squared distance.
        parts = (
            kernels.NO_GAMMA if gamma is None else gamma,
            0.0 if config.metric is Metric.EUCLIDEAN else 1.0,
            *(slope, slack, far, _LEAST, _MOST),
        )
        self.arguments: tuple[Any, ...] = (
            *(np.array(whole, np.int64), np.array(parts, np.float32)),
            *(unit.vectors, graph.links, unit.delete_bitmap),
            *(content.rows, content.id_offsets, content.id_bytes),
        )
        if sketch is None:
            self.find = kernels.find_by_graph
            self.arguments += (graph.upper_offsets, graph.upper_links, graph.entry, graph.top_level)
        else:
            self.find = kernels.find_by_sketches
            self.arguments += (sketch.codes, sketch.hubs, sketch.hub_codes)
            self.arguments += (sketch.query_mean, sketch.basis, sketch.basis_steps)
        has_deleted = len(unit.delete_bitmap) > 0
        self.space = (len(unit.vectors), max(ef, self.count), graph.links.shape[1], has_deleted)

    def ask(self, asks: bool) -> None:
        """Ask the system for the rows to score again from now on, or no longer."""
        rescored = abs(int(self.arguments[0][_RESCORED]))
        self.arguments[0][_RESCORED] = -rescored if asks else rescored
        self.asks = asks


class SingleSearch:
    """Answers single queries of one collection, or leaves them to a ``Searcher``. Thread-safe."""

    def __init__(
        self,
        store: Store,
        snapshots: SnapshotManager,
        pool: KernelPool,
        tap: SampleTap,
        real_curves: RealCurves,
        disk_reads: DiskReads,
        *,
        codes: bool = True,
    ) -> None:
        """Arguments: as for ``Searcher``, and its own."""
        self._store, self._snapshots, self._pool, self._codes = store, snapshots, pool, codes
        self._tap, self._real_curves, self._disk_reads = tap, real_curves, disk_reads
        self._environment = store.environment

    def answer(
        self,
        query: npt.NDArray[np.float32],
        k: int,
        ef: int | None,
        target: float | None,
        with_metadata: bool,
        deadline: Deadline | None,
    ) -> Hits | None:
        """Return the hits of a query; None to leave it to the general path.

        Args:
            query: float32 (dim,), C-contiguous.
            k, ef, target: as given by the caller, not checked.
            deadline: None for no deadline.

        Raises:
            InvalidArgumentError: k, ef or target is invalid.
            DeadlineExceededError, CancelledError: before the kernel begins.
        """
        commit, snapshot = self._snapshots.known
        file = self._environment.watched_file()
        if snapshot is None or file is None:
            return None
        # Equal keys of other types, such as True or 10.0, have not been checked.
        known = type(k) is int and (ef is None or type(ef) is int)
        edition = self._real_curves.edition
        way = snapshot.ways.get((k, ef, target, edition)) if known else None
        if way is None:
            way = self._new_way(snapshot, file.commits_at, k, ef, target, edition)
            if way is None:
                return None
        if self._tap.armed and way.recall is not None:
            return None  # The general path leaves the sample.
        if (asks := self._disk_reads.wait_for(1)) is not way.asks:
            way.ask(asks)
        count, descriptor = way.count, file.descriptor
        numbers = np.empty(2 * count + 4, np.int64)
        text = np.empty(count * limits.ID_BYTES.maximum, np.uint8)
        distances = np.empty(count, np.float32)
        scratch = self._pool.acquire(deadline or _NO_DEADLINE)
        try:
            if scratch.reserved != way.space:
                scratch.reserve(*way.space)
            is_found = way.find(
                descriptor, file.size_max, commit, query, scratch.visited, scratch.seen,
                scratch.pool, numbers, text, distances, *way.arguments,
            )  # fmt: skip
        finally:
            self._pool.release(scratch)
        if not is_found or file.descriptor != descriptor:
            return None
        visited, deleted, is_ascii, *rest = numbers.tolist()
        if not way.verified:
            way.verified = snapshot.verified
        info = SearchInfo(
            "graph", False, way.ef, visited, snapshot.live_count, snapshot.state.seq, way.verified,
            snapshot.unindexed_count, deleted, way.recall,
        )  # fmt: skip
        if with_metadata and way.with_metadata:
            return self._with_records(rest[:count], snapshot.state.seq, distances, info)
        edges = rest[count:]
        encoded = text[: edges[-1]].tobytes()
        if not is_ascii:
            return _with_any_text(encoded, edges, distances, info)
        whole = encoded.decode("ascii")
        ids = [whole[start:end] for start, end in pairwise(edges)]
        return Hits(ids, distances, None, None, info)

    def _with_records(
        self, rows: list[int], seq: int, distances: npt.NDArray[np.float32], info: SearchInfo
    ) -> Hits | None:
        """Return the hits with ids and metadata from the store; None if a record is damaged or was
        purged, or if records are large."""
        try:
            records = read_records(self._store, rows, seq)
        except DataLossError:
            return None
        raw = [record.metadata for record in records]
        if sum(map(len, raw)) > _METADATA_BYTES_MAX:
            return None
        return Hits([record.id for record in records], distances, raw, None, info)

    def _new_way(
        self,
        snapshot: Snapshot,
        commits_at: tuple[int, int],
        k: int,
        ef: int | None,
        target: float | None,
        edition: int,
    ) -> _Way | None:
        units = snapshot.units
        if len(units) != 1 or not snapshot.holds_all or not _is_graph(units[0]):
            return None
        number = checks.check_k(k, 1)
        if number > _K_MAX:
            return None
        effort = None if ef is None else checks.check_ef(ef, number)
        wish = Wish(effort, checks.check_target_recall(target), exact=False)
        plan = plan_search(units, 0, number, wish, self._real_curves, codes=self._codes)
        if not plan.units[0].walks:
            return None
        expect_pages(units, plan)
        sketch = units[0].parts.get(SKETCH) if self._codes else None
        way = _Way(snapshot, sketch, self._store.config, commits_at, number, plan)
        if len(snapshot.ways) < _WAYS_MAX:
            snapshot.ways[number, None if ef is None else int(ef), target, edition] = way
        return way


def _is_graph(unit: SearchUnit) -> bool:
    return unit.content is not None and unit.parts.has(GRAPH)


def _with_any_text(
    encoded: bytes, edges: list[int], distances: npt.NDArray[np.float32], info: SearchInfo
) -> Hits | None:
    """Return the hits whose ids are these bytes; None if they are not UTF-8."""
    try:
        ids = [encoded[start:end].decode() for start, end in pairwise(edges)]
    except UnicodeDecodeError:
        return None
    return Hits(ids, distances, None, None, info)
