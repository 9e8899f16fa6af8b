"""What the indexer does with one collection: build graphs, merge by extending, rebuild.

All graph work happens here, in the indexer's process, under ``graph.lock``. ``planning.plan``
decides what comes next; ``CollectionIndexer`` does it.

Merging by extending: the first graph of a group is loaded into hnswlib and the rows of its
neighbours to the right are added to it, which costs only the new rows. During a bulk load the graph
stays in memory between publications, and each publication at least doubles the one before, so that
all of them together cost little more than the last. Beside steady writing it is published as soon
as it has caught up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vecdb.engine.hnsw.build_space import space_of
from vecdb.engine.hnsw.builder import Builder
from vecdb.engine.indexing.merge_policy import GROUP_SEGMENTS_MAX, Pace, plan
from vecdb.engine.indexing.trimming import trim_tombstones
from vecdb.engine.search.snapshot import DELETED_FRACTION_MAX, SegmentSnapshot, Snapshot, is_clean
from vecdb.engine.search.snapshot_manager import SnapshotManager
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
from vecdb.engine.store.purging import purge_all
from vecdb.engine.store.store import Store
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import file_lock
from vecdb.engine.system.modes import make_folder
from vecdb.errors import DataLossError

__all__ = ["CollectionIndexer"]

FIRST_PUBLICATION_ROWS = 50_000
"""A growing graph is published once it has this many rows, then each time it has doubled."""


_EXTENDED_ROWS_MIN = 50_000
"""A smaller graph is built again, all rows in shuffled order, if as many or more are added: where
the first rows are far from all later ones, a graph that is extended loses them. That at most
doubles the work; for larger graphs it would be too much."""

_MERGED_SEGMENTS_MAX = GROUP_SEGMENTS_MAX + 2
"""Segments of a merge, those included that it takes up on its way."""

_WAITING_FRACTION = 1 / 4
"""A growing graph is published earlier if neither so many rows wait beside it, as a fraction of its
own, nor as many as were just added: then they come slowly, and searches scan what is not in it."""

_BULK_FRACTION = 1 / 16
"""Rows that came since there was nothing left to do, as a fraction of all, that are a bulk load."""

_FLUSH_WAIT_S_MAX, _FLUSH_WAIT_POLL_S = 10.0, 0.01
"""How long whoever seals is waited for, and how often it is looked whether it is done."""


class _Growing:
    """A graph in memory and the rows that are in it, ascending."""

    def __init__(self, builder: Builder, parts: list[RowArrays]) -> None:
        self.builder = builder
        self.parts = parts
        self.published_rows = 0
        self.number = 0  # The segment that it was last published as.

    @property
    def rows(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    def add(self, parts: Sequence[RowArrays], on_step: Callable[[int], None]) -> None:
        """Add rows, shuffled among each other, telling now and then how many rows there are."""
        self.builder.add(*(part.vectors for part in parts), on_step=on_step)
        self.parts.extend(parts)


class CollectionIndexer:
    """Graph work for one collection.

    Args:
        threads: of a build.
        rows_max: live rows of a graph.
        report: told what is being done, as a dict that JSON can hold.
        should_stop: asked between steps.
        deleted_fraction_max: a graph with more dead nodes than this is built anew.
        settled_rows: live rows when there was nothing left to do; None: those in graphs now. Where
            many have come since, a pause is for making one graph of all.

    Attributes:
        settled_rows: the same after a run.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        collection_id: str,
        *,
        threads: int,
        rows_max: int,
        report: Callable[[dict[str, Any]], None],
        should_stop: Callable[[], bool],
        deleted_fraction_max: float = DELETED_FRACTION_MAX,
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
        self._snapshots = SnapshotManager(store, folder, collection_id, with_memtable=False)
        self._kept: _Growing | None = None
        self.settled_rows = settled_rows

    def run(self, pace: Pace) -> bool:
        """Do what is to be done now.

        Returns True if something was left: what does not pay yet, or what another process is at.
        """
        with file_lock(self._folder / "graph.lock", wait=False) as held:
            if not held:
                return True
            self._clear_up()
            if self.settled_rows is None:
                snapshot = self._snapshots.snapshot()
                self.settled_rows = sum(s.live_count for s in snapshot.segments if s.has_graph)
            if pace == "pausing":
                pace = self._pace_of_a_pause(self._snapshots.snapshot())
            while not self._should_stop():
                snapshot, group, taken = self._take(pace)
                if taken is None:
                    break
                failpoint("graph.claimed")
                if self._intact(group, snapshot):
                    self._merge(group, taken)
                else:
                    discard_reservations(self._store, self._segments, GRAPH_LOCK)
            self._kept = None
            whole = rebuild_parts(self._store, self._segments, self._id, self._should_stop)
            collect_garbage(self._store, self._segments)
            purge_all(self._store, should_stop=self._should_stop)
            trim_tombstones(self._store, self._snapshots.snapshot(), self._should_stop)
            snapshot = self._snapshots.snapshot()
            later = pace if pace == "optimizing" else self._pace_of_a_pause(snapshot)
            left = self._plan(snapshot, later) is not None or not whole
            if not left:
                self.settled_rows = snapshot.live_count
            return left

    def _pace_of_a_pause(self, snapshot: Snapshot) -> Pace:
        """After a bulk load the large graph was written several times already: once more pays."""
        grown = snapshot.live_count - (self.settled_rows or 0)
        return "optimizing" if grown >= _BULK_FRACTION * snapshot.live_count else "pausing"

    def _plan(self, snapshot: Snapshot, pace: Pace) -> list[SegmentSnapshot] | None:
        return plan(
            snapshot.segments,
            self._rows_max,
            pace=pace,
            deleted_fraction_max=self._deleted_fraction_max,
        )

    def _clear_up(self) -> None:
        """Remove what an earlier holder of the lock left when it was killed."""
        make_folder(self._segments, exist_ok=True)
        discard_reservations(self._store, self._segments, GRAPH_LOCK)
        remove_drafts(self._folder)

    def _take(self, pace: Pace) -> tuple[Snapshot, list[SegmentSnapshot], Reservation | None]:
        """The next group, claimed; None for the claim if there is nothing to do, or not now.

        Sealing is held off for that moment, or it might be joining some of the group: then the
        claim would be refused, and under steady writing again and again.
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
        """Gives False if whoever seals was not done in time: it may have been stopped, and other
        collections have work too."""
        patience = time.monotonic() + _FLUSH_WAIT_S_MAX
        while True:
            with file_lock(self._folder / "seal.lock", wait=False) as held:
                if held:
                    yield True
                    return
            if self._should_stop() or time.monotonic() > patience:
                yield False
                return
            time.sleep(_FLUSH_WAIT_POLL_S)

    def _intact(self, group: list[SegmentSnapshot], snapshot: Snapshot) -> bool:
        """Compare the checksums of what is about to be built from.

        A segment whose files are gone or damaged is marked lost, unless the generation has moved:
        then sealing may have joined it with another. Either way the plan is made anew.
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
        """Make one graph of neighbours, going on to the right as long as more is sealed there."""
        began = time.monotonic()
        self._report({"event": "building", "rows": sum(s.live_count for s in group)})
        growing, remaining = self._begin(group)
        growing.add([self._live_part(segment) for segment in remaining], self._progressed)
        # Not too many at once, since none of them can be joined meanwhile.
        for _ in range(_MERGED_SEGMENTS_MAX - len(group)):
            if self._should_stop():
                break
            more = self._sealed_to_the_right(taken, growing)
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
            growing.add([self._live_part(segment)], self._progressed)
        self._publish(taken, growing)
        took_s = round(time.monotonic() - began, 2)
        self._report({"event": "built", "rows": growing.rows, "seconds": took_s})

    def _progressed(self, rows: int) -> None:
        self._report({"event": "progress", "rows": rows})

    def _begin(self, group: list[SegmentSnapshot]) -> tuple[_Growing, list[SegmentSnapshot]]:
        """What to begin with, and the segments still to add: the graph at hand, the first segment's
        graph, or an empty one. Only the first, so that nodes stay in the order of rows."""
        config, first = self._store.config, group[0]
        kept, self._kept = self._kept, None
        rows, inside = sum(len(s.content.rows) for s in group), len(first.content.rows)
        overgrown = inside < _EXTENDED_ROWS_MIN and rows >= 2 * inside
        if (
            kept is not None
            and not overgrown
            and first.number == kept.number
            and is_clean(first, self._deleted_fraction_max)
        ):
            return kept, group[1:]
        space = space_of(config.metric)
        if (
            not overgrown
            and first.graph is not None
            and is_clean(first, self._deleted_fraction_max)
        ):
            try:
                builder = Builder.from_graph(
                    first.graph,
                    first.content.vectors,
                    space=space,
                    M=config.M,
                    ef_construction=config.ef_construction,
                    capacity=rows,
                    threads=self._threads,
                    work_dir=self._folder,
                )
                return _Growing(builder, [first.content]), group[1:]
            except DataLossError as damage:
                # Its arrays contradict each other: the rows are right, so build from them.
                self._report({"event": "damaged", "detail": str(damage)})
        builder = Builder(
            space,
            padded_width(config.dim),
            config.M,
            config.ef_construction,
            capacity=rows,
            threads=self._threads,
        )
        return _Growing(builder, []), group

    def _live_part(self, segment: SegmentSnapshot) -> RowArrays:
        with self._store.environment.read() as transaction:
            seq = self._store.read_state(transaction).seq
            dead = self._store.rows.read_deleted(
                transaction, segment.first_row, segment.end_row, seq
            )
        return segment.content.without(dead)

    def _sealed_to_the_right(
        self, taken: Reservation, growing: _Growing
    ) -> tuple[SegmentSnapshot, Snapshot] | None:
        """A flat segment that was sealed meanwhile just behind the claim and still fits, and the
        view that shows it; None also once a merge pays that begins further left."""
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
            if segment.first_row == taken.end_row and not segment.has_graph:
                fits = growing.rows + segment.live_count <= self._rows_max
                return (segment, snapshot) if fits and self._intact([segment], snapshot) else None
        return None

    def _publish(self, taken: Reservation, growing: _Growing) -> None:
        graph = growing.builder.graph(self._folder)
        failpoint("graph.built")
        content = RowArrays.joined(growing.parts, padded_width(self._store.config.dim))
        entry = write_segment(
            self._segments / str(taken.number),
            number=taken.number,
            collection_id=self._id,
            metric=self._store.config.metric,
            first_row=taken.first_row,
            end_row=taken.end_row,
            seq=taken.seq,
            content=content,
            graph=graph,
        )
        if publish(self._store, taken, entry):
            growing.published_rows, growing.number = growing.rows, taken.number
            self._kept = growing
            failpoint("graph.published")
        collect_garbage(self._store, self._segments)


def _lost_seq(group: list[SegmentSnapshot], snapshot: Snapshot) -> int | None:
    """The seq of lost segments' rows, which were read from the store; None without any."""
    return snapshot.state.seq if any(segment.segment is None for segment in group) else None
