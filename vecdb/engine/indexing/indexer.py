"""Graph work for one collection: build graphs, merge segments by extending a graph, rebuild.

All graph work happens here, in the indexer's process, under ``graph.lock``. ``merge_policy.plan``
decides what comes next; ``CollectionIndexer`` does it.

To merge a group of segments, the graph of the first one is loaded into a builder and the rows of
the following segments are added, so that only the new rows cost build time. During a bulk load the
graph stays in memory between publications. Each publication has at least twice the rows of the one
before, so all of them together cost little more than the last. During slow, steady writes the
graph is published as soon as it contains all flushed rows.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vecdb.engine.hnsw.build_space import space_of
from vecdb.engine.hnsw.choice import TRIAL_ROWS, AnyBuilder, builder_class, run_trial
from vecdb.engine.hnsw.graph import HNSWLIB
from vecdb.engine.indexing.merge_policy import GROUP_SEGMENTS_MAX, Pace, plan
from vecdb.engine.indexing.outdated import is_outdated
from vecdb.engine.indexing.trimming import trim_tombstones
from vecdb.engine.search.snapshots.snapshot import (
    DELETED_FRACTION_MAX,
    SegmentSnapshot,
    Snapshot,
    is_clean,
)
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.lifecycle import (
    FLUSH_LOCK,
    GRAPH_LOCK,
    Reservation,
    collect_garbage,
    discard_reservations,
    publish,
    quarantine,
    remove_drafts,
    reserve,
    widen,
)
from vecdb.engine.segments.rebuilding import rebuild_parts
from vecdb.engine.segments.segment import (
    RowArrays,
    SegmentDamagedError,
    padded_width,
    write_segment,
)
from vecdb.engine.store.metadata_rows import metadata_reader
from vecdb.engine.store.purging import purge_all
from vecdb.engine.store.store import Store
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import file_lock
from vecdb.engine.system.modes import make_folder
from vecdb.errors import DataLossError

__all__ = ["CollectionIndexer"]

FIRST_PUBLICATION_ROWS = 50_000
"""A growing graph is published when it has this many rows, and whenever it has doubled since."""


_EXTENDED_ROWS_MIN = 50_000
"""A smaller graph is not extended by as many rows as it has, or more, but rebuilt with all rows in
shuffled order: if the first rows are far from all later ones, extending makes them unreachable.
Rebuilding at most doubles the work; for larger graphs that would cost too much."""

_TRIAL_ROWS_MIN = 2 * TRIAL_ROWS
"""Smaller groups are built with hnswlib, without a trial, which would take as long."""

_TRIAL_NEW_ROWS_MIN = 5_000
"""hnswlib's graphs are extended by fewer rows than this without a trial."""

_MERGED_SEGMENTS_MAX = GROUP_SEGMENTS_MAX + 2
"""Most segments of a merge, including those flushed while it runs."""

_WAITING_FRACTION = 1 / 4
"""A growing graph is published early if fewer rows wait than this fraction of its own, and fewer
than were just added: writes are slow then, and searches have to scan the unpublished rows."""

_BULK_FRACTION = 1 / 16
"""Growth since the indexer last had nothing to do, as a fraction of all rows, from which it counts
as a bulk load."""

_PROGRESS_S = 0.5

_FLUSH_WAIT_S_MAX, _FLUSH_WAIT_POLL_S = 10.0, 0.01
"""Longest wait for a flush in progress, and the interval at which its lock is tried."""


class _Growing:
    """A graph in memory and the rows in it, ascending. Not thread-safe.

    Attributes:
        built_by: of the graph; names the class of ``builder``, and whether a trial chose it.
    """

    def __init__(self, builder: AnyBuilder, built_by: str, parts: list[RowArrays]) -> None:
        self.builder = builder
        self.built_by = built_by
        self.parts = parts
        self.published_rows = 0
        self.number = 0  # The number of the segment as which it was last published.

    @property
    def rows(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    def add(self, parts: Sequence[RowArrays], on_step: Callable[[int], None]) -> None:
        """Add rows in shuffled order; ``on_step`` is called with the number of rows so far."""
        self.builder.add(*(part.vectors for part in parts), on_step=on_step)
        self.parts.extend(parts)


class CollectionIndexer:
    """Graph work for one collection. Not thread-safe.

    Args:
        threads: threads of a graph build.
        rows_max: most live rows of a graph.
        report: called with each progress event, a dict of JSON values.
        should_stop: called between steps; True ends the run.
        deleted_fraction_max: a graph with a larger fraction of deleted nodes is rebuilt.
        codes: whether segments get parts that only code rows.
        settled_rows: live rows when the indexer last had nothing to do; None: those in graphs now.
            If many were added since, the next pause merges all graphs into one.

    Attributes:
        settled_rows: as the argument, updated by ``run``.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        collection_id: str,
        *,
        threads: int,
        rows_max: int,
        report: Callable[[dict[str, object]], None],
        should_stop: Callable[[], bool],
        deleted_fraction_max: float = DELETED_FRACTION_MAX,
        codes: bool = True,
        settled_rows: int | None = None,
    ) -> None:
        self._store = store
        self._folder = folder
        self._segments = folder / "segments"
        self._id = collection_id
        self._threads = threads
        self._rows_max = rows_max
        self._report = report
        self._should_stop = should_stop
        self._deleted_fraction_max = deleted_fraction_max
        self._codes = codes
        self._snapshots = SnapshotManager(store, folder, collection_id, with_memtable=False)
        self._kept: _Growing | None = None
        self._total, self._progressed_at = 0, -math.inf
        self.settled_rows = settled_rows

    def run(self, pace: Pace) -> bool:
        """Do all graph work that pays at this pace, then garbage-collect, purge and trim.

        Returns:
            True if work is left: it does not pay yet, or another process holds ``graph.lock``.
        """
        with file_lock(self._folder / "graph.lock", wait=False) as held:
            if not held:
                return True
            self._remove_leftovers()
            if self.settled_rows is None:
                snapshot = self._snapshots.snapshot()
                self.settled_rows = sum(
                    s.live_count for s in snapshot.segments if s.parts.has(GRAPH)
                )
            if pace == "pausing":
                pace = self._pace_of_a_pause(self._snapshots.snapshot())
            while not self._should_stop():
                snapshot, group, taken = self._take(pace)
                if taken is None:
                    break
                failpoint("graph.reserved")
                if self._verify_group(group, snapshot):
                    self._merge(group, taken)
                else:
                    discard_reservations(self._store, self._segments, GRAPH_LOCK)
            self._kept = None
            whole = self._rebuild_parts(also_missing=pace == "optimizing")
            collect_garbage(self._store, self._segments)
            purge_all(self._store, should_stop=self._should_stop)
            trim_tombstones(self._store, self._snapshots.snapshot(), self._should_stop)
            snapshot = self._snapshots.snapshot()
            later = pace if pace == "optimizing" else self._pace_of_a_pause(snapshot)
            left = self._plan(snapshot, later) is not None or not whole
            if not left:
                self.settled_rows = snapshot.live_count
            return left

    def _rebuild_parts(self, *, also_missing: bool) -> bool:
        """Write segments again that have lost parts, or lack some, or whose columns are out of
        date; return whether all were."""
        config, codes = self._store.config, self._codes
        snapshot = self._snapshots.snapshot()
        segments = snapshot.segments if also_missing else ()
        missing = {s.number: s.missing_parts(config, codes=codes) for s in segments}
        lacking = [n for n, names in missing.items() if set(names) - {COLUMNS.name}]
        outdated = {n for n, names in missing.items() if names == [COLUMNS.name]}
        seq = snapshot.state.seq
        outdated |= {
            s.number
            for s in snapshot.segments
            if is_outdated(self._store, s, seq, thorough=also_missing)
        }
        return rebuild_parts(
            self._store,
            self._segments,
            self._id,
            self._should_stop,
            codes=codes,
            lacking=lacking,
            outdated=outdated,
        )

    def _pace_of_a_pause(self, snapshot: Snapshot) -> Pace:
        """Return the pace for a pause: "optimizing" after a bulk load.

        A bulk load has written the large graph several times already, so once more is worth it.
        """
        grown = snapshot.live_count - (self.settled_rows or 0)
        return "optimizing" if grown >= _BULK_FRACTION * snapshot.live_count else "pausing"

    def _plan(self, snapshot: Snapshot, pace: Pace) -> list[SegmentSnapshot] | None:
        return plan(
            snapshot.segments,
            self._rows_max,
            pace=pace,
            deleted_fraction_max=self._deleted_fraction_max,
        )

    def _remove_leftovers(self) -> None:
        """Remove reservations and drafts of an earlier lock holder that was killed."""
        make_folder(self._segments, exist_ok=True)
        discard_reservations(self._store, self._segments, GRAPH_LOCK)
        remove_drafts(self._folder)

    def _take(self, pace: Pace) -> tuple[Snapshot, list[SegmentSnapshot], Reservation | None]:
        """Plan and reserve the next group; the reservation is None if there is nothing to do now.

        Holds the flush lock for that moment. Otherwise a flush might be joining some segments of
        the group, and the reservation would be refused, during steady writes again and again.
        """
        with self._flushing_held_off() as held:
            if not held:
                return self._snapshots.snapshot(), [], None
            discard_reservations(self._store, self._segments, FLUSH_LOCK)
            snapshot = self._snapshots.snapshot()
            group = self._plan(snapshot, pace)
            if group is None:
                return snapshot, [], None
            first, end = group[0].first_row, group[-1].end_row
            taken = reserve(
                self._store,
                GRAPH_LOCK,
                first,
                end,
                replacing=[s.number for s in group],
                lost_seq=_lost_seq(group, snapshot),
            )
            return snapshot, group, taken

    @contextlib.contextmanager
    def _flushing_held_off(self) -> Iterator[bool]:
        """Hold the flush lock; yields False if a flush in progress did not end in time.

        The flushing process may have been stopped, and other collections have work too.
        """
        deadline = time.monotonic() + _FLUSH_WAIT_S_MAX
        while True:
            with file_lock(self._folder / "seal.lock", wait=False) as held:
                if held:
                    yield True
                    return
            if self._should_stop() or time.monotonic() > deadline:
                yield False
                return
            time.sleep(_FLUSH_WAIT_POLL_S)

    def _verify_group(self, group: list[SegmentSnapshot], snapshot: Snapshot) -> bool:
        """Compare the checksums of the segments to build from; return False to plan again.

        A segment whose files are missing or damaged is quarantined, unless the generation has
        changed: then a flush may have joined it with another segment.
        """
        for segment in group:
            try:
                if segment.segment is not None and not segment.segment.verified:
                    segment.segment.verify()
            except (SegmentDamagedError, FileNotFoundError) as damage:
                self._report({"event": "damaged", "detail": str(damage)})
                quarantine(self._store, segment.number, snapshot.state.generation)
                return False
        return True

    def _merge(self, group: list[SegmentSnapshot], taken: Reservation) -> None:
        """Merge neighbouring segments, and those flushed after them in the meantime, to a graph."""
        began, self._total = time.monotonic(), sum(s.live_count for s in group)
        self._report({"event": "building", "rows": self._total})
        growing, remaining = self._begin(group)
        self._progressed(growing.rows)
        growing.add([self._live_part(segment) for segment in remaining], self._progressed)
        # Bounded, since a flush cannot join segments that a merge has reserved.
        for _ in range(_MERGED_SEGMENTS_MAX - len(group)):
            if self._should_stop():
                break
            more = self._next_flushed(taken, growing)
            if more is None:
                break
            segment, snapshot = more
            wider = widen(
                self._store,
                taken,
                segment.end_row,
                replacing=[segment.number],
                lost_seq=_lost_seq([segment], snapshot),
            )
            if wider is None:
                break
            taken = wider
            self._total += segment.live_count
            growing.add([self._live_part(segment)], self._progressed)
        self._publish(taken, growing)
        took_s = round(time.monotonic() - began, 2)
        self._report(
            {
                "event": "built",
                "rows": growing.rows,
                "seconds": took_s,
                "built_by": growing.built_by,
            }
        )

    def _progressed(self, rows: int) -> None:
        """Report how many rows are in the graph, at most every ``_PROGRESS_S``."""
        now = time.monotonic()
        if now - self._progressed_at >= _PROGRESS_S or rows >= self._total:
            self._progressed_at = now
            cpu_s = round(time.process_time(), 2)
            event = {"event": "progress", "rows": rows, "of": self._total, "cpu_s": cpu_s}
            self._report(event)

    def _begin(self, group: list[SegmentSnapshot]) -> tuple[_Growing, list[SegmentSnapshot]]:
        """Return the graph to extend and the segments to add to it.

        The graph is the one kept in memory, the first segment's, or an empty one. Only the first
        segment's graph can be extended, since nodes must stay in the order of rows.
        """
        config, first = self._store.config, group[0]
        kept, self._kept = self._kept, None
        rows, inside = sum(len(s.content.rows) for s in group), len(first.content.rows)
        overgrown = inside < _EXTENDED_ROWS_MIN and rows >= 2 * inside
        extended = not overgrown and is_clean(first, self._deleted_fraction_max)
        built_by = self._choose_builder(group, extended)
        is_kept = kept is not None and (kept.number, kept.built_by) == (first.number, built_by)
        if kept is not None and is_kept and extended:
            return kept, group[1:]
        maker, space = builder_class(built_by), space_of(config.metric)
        if extended and first.parts.has(GRAPH):
            try:
                builder = maker.from_graph(
                    first.parts[GRAPH],
                    first.content.vectors,
                    space=space,
                    M=config.M,
                    ef_construction=config.ef_construction,
                    capacity=rows,
                    threads=self._threads,
                    work_dir=self._folder,
                )
                return _Growing(builder, built_by, [first.content]), group[1:]
            except DataLossError as damage:
                # The graph's arrays are inconsistent; its rows are right, so build from those.
                self._report({"event": "damaged", "detail": str(damage)})
        builder = maker(
            space,
            padded_width(config.dim),
            config.M,
            config.ef_construction,
            capacity=rows,
            threads=self._threads,
        )
        return _Growing(builder, built_by, []), group

    def _choose_builder(self, group: list[SegmentSnapshot], extended: bool) -> str:
        """Return by which builder to merge a group, as for ``Graph.built_by``.

        Args:
            extended: whether the graph of the first segment is extended, if it has one.
        """
        parts = [segment.content for segment in group]
        rows = sum(len(part.rows) for part in parts)
        graph = group[0].parts.get(GRAPH) if extended else None
        new_rows = rows - (0 if graph is None else len(parts[0].rows))
        if graph is not None and (graph.built_by != HNSWLIB or new_rows < _TRIAL_NEW_ROWS_MIN):
            return graph.built_by
        if rows < _TRIAL_ROWS_MIN:
            return HNSWLIB
        self._report({"event": "choosing", "rows": rows})
        config, began = self._store.config, time.monotonic()
        trial = run_trial(
            [part.vectors for part in parts],
            space=space_of(config.metric),
            M=config.M,
            ef_construction=config.ef_construction,
            work_dir=self._folder,
            threads=self._threads,
        )
        took_s = round(time.monotonic() - began, 2)
        self._report({"event": "trial", **asdict(trial), "seconds": took_s})
        return trial.built_by

    def _live_part(self, segment: SegmentSnapshot) -> RowArrays:
        with self._store.environment.read() as transaction:
            seq = self._store.read_state(transaction).seq
            deleted = self._store.rows.read_deleted(
                transaction, segment.first_row, segment.end_row, seq
            )
        return segment.content.without(deleted)

    def _next_flushed(
        self, taken: Reservation, growing: _Growing
    ) -> tuple[SegmentSnapshot, Snapshot] | None:
        """Return the flat segment just after the reservation if it should join the merge, and the
        snapshot that has it.

        Returns:
            None if there is none, if it does not fit, if the graph should be published now, or if
            a merge that begins with an earlier segment pays.
        """
        unpublished = growing.rows - growing.published_rows
        if unpublished >= max(growing.published_rows, FIRST_PUBLICATION_ROWS):
            return None
        snapshot = self._snapshots.snapshot()
        waiting = sum(s.live_count for s in snapshot.segments if s.first_row >= taken.end_row)
        if waiting < min(unpublished, _WAITING_FRACTION * growing.rows):
            return None
        wider = self._plan(snapshot, "writing")
        if wider is not None and wider[0].first_row < taken.first_row:
            return None
        for segment in snapshot.segments:
            if segment.first_row == taken.end_row and not segment.parts.has(GRAPH):
                fits = growing.rows + segment.live_count <= self._rows_max
                return (
                    (segment, snapshot)
                    if fits and self._verify_group([segment], snapshot)
                    else None
                )
        return None

    def _publish(self, taken: Reservation, growing: _Growing) -> None:
        self._report({"event": "finishing", "rows": growing.rows})
        graph = replace(growing.builder.graph(self._folder), built_by=growing.built_by)
        failpoint("graph.built")
        content = RowArrays.joined(growing.parts, padded_width(self._store.config.dim))
        entry = write_segment(
            self._segments / str(taken.number),
            number=taken.number,
            collection_id=self._id,
            config=self._store.config,
            first_row=taken.first_row,
            end_row=taken.end_row,
            seq=taken.seq,
            given=content.parts.with_part(GRAPH, graph),
            codes=self._codes,
            metadata=metadata_reader(self._store),
            threads=self._threads,
        )
        if publish(self._store, taken, entry):
            growing.published_rows, growing.number = growing.rows, taken.number
            self._kept = growing
            failpoint("graph.published")
        collect_garbage(self._store, self._segments)


def _lost_seq(group: list[SegmentSnapshot], snapshot: Snapshot) -> int | None:
    """Return the seq at which quarantined segments' rows were read from the store; None if the
    group has no quarantined segment."""
    return snapshot.state.seq if any(segment.segment is None for segment in group) else None
