"""Searching: a view, a plan for each of its parts, kernels over them, and one merged answer.

Fresh rows and flat segments are scanned exactly; graphs are walked. k means k: where a walk finds
fewer live rows than there are (dead regions, unreachable nodes), that segment is scanned instead.

One query runs on its caller's thread, a batch on several (``kernel_pool``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.engine.compiled import load_kernels
from vecdb.engine.deadline import Deadline
from vecdb.engine.kernel_pool import KernelPool
from vecdb.engine.segment import GraphArrays, padded_width
from vecdb.engine.store import Store
from vecdb.engine.view import NOTHING_DEAD, View, ViewKeeper, aligned_rows
from vecdb.errors import DataLossError, InvalidArgumentError
from vecdb.types import CollectionConfig, Hits, Metric, SearchInfo

__all__ = ["SearchRequest", "Searcher"]

_SCAN_SLICE_FLOATS = 8_000_000
"""Floats that a scan slice compares: about 5 ms."""


@dataclass(frozen=True)
class SearchRequest:
    """One call of ``search``, as given: checked by ``Searcher.run``.

    queries: anything that converts to float32 of shape (q, dim).
    """

    queries: Any
    k: int = 10
    ef: int | None = None
    exact: bool = False
    include_metadata: bool = True
    include_vectors: bool = False


@dataclass
class _Found:
    """What one part of a view gave: float32 (q, k) scores, int64 (q, k) nodes and rows, (q,)
    counts."""

    scores: npt.NDArray[np.float32]
    nodes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    visited: npt.NDArray[np.int64]
    walked: bool


class Searcher:
    """Answers searches of one collection. Safe to use from many threads."""

    def __init__(self, store: Store, views: ViewKeeper, pool: KernelPool) -> None:
        self._store = store
        self._views = views
        self._pool = pool

    def run(self, request: SearchRequest, deadline: Deadline) -> list[Hits]:
        """One ``Hits`` a query.

        Raises:
            InvalidArgumentError: a query, k or ef is wrong.
            DeadlineExceededError, CancelledError: between two slices of work.
        """
        config = self._store.config
        queries = _checked_queries(request.queries, config)
        k = checks.check_k(request.k, max(1, len(queries)))
        ef = checks.check_effort(request.ef, k)
        if len(queries) == 0:
            return []
        prepared = aligned_rows(len(queries), padded_width(config.dim))
        load_kernels().prepare_rows(queries, prepared, config.metric is Metric.COSINE)
        view = self._views.view()
        try:
            return self._answer(request, view, prepared, k, ef, deadline)
        except DataLossError:
            # A record may have been purged between the view and the reading of metadata: a newer
            # view no longer returns its row. If the bytes are really bad this raises again.
            newer = self._views.view()
            if newer is view:
                raise
            return self._answer(request, newer, prepared, k, ef, deadline)

    def _answer(
        self,
        request: SearchRequest,
        view: View,
        queries: npt.NDArray[np.float32],
        k: int,
        ef: int,
        deadline: Deadline,
    ) -> list[Hits]:
        parts: list[_Found] = []
        rows: list[npt.NDArray[np.int64]] = []
        for segment in view.segments:
            if segment.live_count == 0:
                continue
            content, graph = segment.content, None if request.exact else segment.graph
            found = self._search_part(
                content.vectors, len(content.rows), segment.dead, graph, queries, k, ef, deadline
            )
            wanted = min(k, segment.live_count)
            if found.walked and int(found.counts.min()) < wanted:
                self._scan_where_short(found, segment, queries, k, wanted, deadline)
            parts.append(found)
            rows.append(content.rows)
        if view.fresh.live_count:
            fresh = view.fresh
            dead = fresh.dead if fresh.dead_count else NOTHING_DEAD
            parts.append(
                self._search_part(fresh.buffer, fresh.count, dead, None, queries, k, ef, deadline)
            )
            rows.append(np.zeros(0, np.int64))
        return self._assembled(request, view, parts, rows, len(queries), k, ef)

    def _search_part(
        self,
        vectors: npt.NDArray[np.float32],
        count: int,
        dead: npt.NDArray[np.uint8],
        graph: GraphArrays | None,
        queries: npt.NDArray[np.float32],
        k: int,
        ef: int,
        deadline: Deadline,
    ) -> _Found:
        q = len(queries)
        kernels = load_kernels()
        metric = (
            kernels.EUCLIDEAN if self._store.config.metric is Metric.EUCLIDEAN else kernels.INNER
        )
        k = min(k, count)
        found = _Found(
            np.empty((q, k), np.float32),
            np.empty((q, k), np.int64),
            np.zeros(q, np.int64),
            np.zeros(q, np.int64),
            graph is not None,
        )
        if graph is not None:

            def walk(scratch: Any, first: int, last: int) -> None:
                scratch.reserve(count, max(ef, k))
                kernels.walk_graph(
                    vectors, graph.links, graph.upper_offsets, graph.upper_links,
                    graph.entry, graph.top_level, dead, queries, first, last, metric, k, ef,
                    scratch.visited, scratch.seen, scratch.pool,
                    found.nodes, found.scores, found.counts, found.visited,
                )  # fmt: skip

            self._pool.run(q, 4, deadline, walk)
            return found

        def scan(_: Any, first: int, last: int) -> None:
            # Queries of a slice share each block of rows while it is in the cache.
            step = max(1, _SCAN_SLICE_FLOATS // (vectors.shape[1] * (last - first)))
            for start in range(0, count, step):
                deadline.check()
                kernels.scan_rows(
                    vectors, dead, start, min(count, start + step), queries, first, last,
                    metric, k, found.scores, found.nodes, found.counts,
                )  # fmt: skip
            kernels.sort_heaps(found.scores, found.nodes, found.counts, first, last)

        self._pool.run(q, 16, deadline, scan)
        found.visited[:] = count
        return found

    def _scan_where_short(
        self, found: _Found, segment: Any, queries: Any, k: int, wanted: int, deadline: Deadline
    ) -> None:
        """Scan for those queries whose walk found fewer than there are."""
        short = np.flatnonzero(found.counts < wanted)
        again = aligned_rows(len(short), queries.shape[1])
        again[:] = queries[short]
        content = segment.content
        scanned = self._search_part(
            content.vectors, len(content.rows), segment.dead, None, again, k, k, deadline
        )
        found.scores[short], found.nodes[short] = scanned.scores, scanned.nodes
        found.counts[short] = scanned.counts
        found.visited[short] += scanned.visited

    def _assembled(
        self,
        request: SearchRequest,
        view: View,
        parts: list[_Found],
        rows: list[npt.NDArray[np.int64]],
        q: int,
        k: int,
        ef: int,
    ) -> list[Hits]:
        walked = [part.walked for part in parts]
        plan = "+".join((["graph"] if any(walked) else []) + ([] if all(walked) else ["scan"]))
        visited = sum((part.visited for part in parts), np.zeros(q, np.int64))
        live, verified = view.live_count, all(s.verified for s in view.segments)
        infos = [
            SearchInfo(
                plan or "scan", not any(walked), ef if any(walked) else 0,
                int(visited[i]), live, view.state.seq, verified,
            )
            for i in range(q)
        ]  # fmt: skip
        picks = [_merged(parts, rows, view.fresh.first_row, i, k) for i in range(q)]
        names = _Names(self._store, request, view)
        return names.hits(picks, infos, self._store.config.metric)


@dataclass(frozen=True)
class _Pick:
    """The best rows of one query: float32 scores, int64 rows, which part, which node."""

    scores: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64] | None
    nodes: npt.NDArray[np.int64]


def _merged(
    parts: list[_Found], rows: list[npt.NDArray[np.int64]], fresh_first: int, i: int, k: int
) -> _Pick:
    """The k nearest of all parts by (score, row); nodes of one part are in that order already."""
    scores, found_rows, nodes, origins = [], [], [], []
    for number, (part, own) in enumerate(zip(parts, rows, strict=True)):
        count = part.counts[i]
        chosen = part.nodes[i, :count]
        scores.append(part.scores[i, :count])
        nodes.append(chosen)
        found_rows.append(own[chosen] if len(own) else chosen + fresh_first)
        origins.append(number)
    if len(parts) == 1:
        return _Pick(scores[0], found_rows[0], None, nodes[0])
    if not parts:
        none = np.zeros(0, np.int64)
        return _Pick(np.zeros(0, np.float32), none, None, none)
    all_scores, all_rows = np.concatenate(scores), np.concatenate(found_rows)
    order = np.lexsort((all_rows, all_scores))[:k]
    origin = np.repeat(origins, [len(s) for s in scores])
    return _Pick(all_scores[order], all_rows[order], origin[order], np.concatenate(nodes)[order])


class _Names:
    """Turns rows into ids, metadata and vectors: what makes hits of picks."""

    def __init__(self, store: Store, request: SearchRequest, view: View) -> None:
        self._store = store
        self._view = view
        self._segments = [s for s in view.segments if s.live_count]
        self._metadata = request.include_metadata and view.counters.metadata_count > 0
        self._with_metadata = request.include_metadata
        self._vectors = request.include_vectors

    def hits(self, picks: Sequence[_Pick], infos: list[SearchInfo], metric: Metric) -> list[Hits]:
        sealed_to = self._view.fresh.first_row
        needs_store = (
            self._metadata or self._vectors or any((p.rows >= sealed_to).any() for p in picks)
        )
        if not needs_store:
            return [self._hit(p, i, metric, None) for p, i in zip(picks, infos, strict=True)]
        with self._store.environment.read() as transaction:
            return [self._hit(p, i, metric, transaction) for p, i in zip(picks, infos, strict=True)]

    def _hit(self, pick: _Pick, info: SearchInfo, metric: Metric, transaction: Any) -> Hits:
        rows = pick.rows.tolist()
        seq = self._view.state.seq
        raw: list[bytes] | None = None
        if self._metadata:
            records = self._store.rows.read_records(transaction, rows, seq)
            ids, raw = [r.id for r in records], [r.metadata for r in records]
        else:
            ids = self._ids(pick, rows, transaction, seq)
        vectors = self._store.rows.read_vectors(transaction, rows) if self._vectors else None
        return Hits(ids, _distances(pick.scores, metric), raw, vectors, info)

    def _ids(self, pick: _Pick, rows: list[int], transaction: Any, seq: int) -> list[str]:
        parts = [0] * len(rows) if pick.parts is None else pick.parts.tolist()
        fresh = len(self._segments)
        late = [row for row, part in zip(rows, parts, strict=True) if part == fresh]
        records = self._store.rows.read_records(transaction, late, seq) if late else []
        from_store = iter(records)
        return [
            next(from_store).id if part == fresh else self._segments[part].id_of(node)
            for part, node in zip(parts, pick.nodes.tolist(), strict=True)
        ]


def _distances(scores: npt.NDArray[np.float32], metric: Metric) -> Any:
    """Kernels score by squared distance or negated product; callers get what ``Metric`` says."""
    if metric is Metric.EUCLIDEAN:
        return np.sqrt(np.maximum(scores, np.float32(0)))
    if metric is Metric.COSINE:
        return np.maximum(scores + np.float32(1), np.float32(0))
    return scores.copy()


def _checked_queries(queries: Any, config: CollectionConfig) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(queries)
    except ValueError:
        array = queries  # Ragged: refused below, with the reason.
    if isinstance(array, np.ndarray) and array.ndim == 2 and len(array) == 0:
        if array.shape[1] not in (0, config.dim):
            raise InvalidArgumentError(
                f"expected {config.dim} dimensions, got {array.shape[1]}", "DIM_MISMATCH"
            )
        return np.zeros((0, config.dim), np.float32)
    return checks.check_vectors(array, config.dim, config.metric, "query")
