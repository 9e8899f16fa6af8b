"""Finds one graph that holds exactly the rows live at one seq, for an export.

The seq is that of a snapshot, taken under a lease. There are three cases:

1. All live rows of the snapshot are in one published graph. Deleted nodes are removed from a copy
   (``hnsw/repair.py``); the collection does not change. If that gives no good graph, case 3.
2. Rows are in several segments or in the memtable. Once, the indexer is asked to merge them, as
   ``optimize`` does; the collection keeps the result.
3. Rows are still spread after that, because writers continue. A child process merges them into a
   graph that only the export uses (``merge.py``), at a seq of its own.

So an export ends however much is written, and contains each row as it was at the export's seq.

Files of a segment are compared with their checksums right before they are read. They may be
unlinked during the export; mapped files stay readable.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.repair import (
    REPAIRED_FRACTION_MAX,
    deleted_together,
    live_nodes,
    repaired,
)
from vecdb.engine.interchange.export.ids import numbers_of_content
from vecdb.engine.interchange.export.lease import ExportLease
from vecdb.engine.interchange.export.merge_process import run_merge
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.search.snapshots.snapshot import NOTHING_DELETED, SegmentSnapshot, Snapshot
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.lifecycle import quarantine
from vecdb.engine.segments.segment import RowArrays, SegmentDamagedError
from vecdb.errors import ResourceExhaustedError, UnavailableError
from vecdb.reasons import Reason

if TYPE_CHECKING:
    from vecdb.engine.runtime.open_collection import OpenCollection
    from vecdb.engine.runtime.runtime import Runtime
    from vecdb.engine.system.deadline import Deadline

__all__ = ["GraphSource", "find_graph", "parts_text"]

_ATTEMPTS_MAX = 20
_BLOCK_BYTES = 1024**2
_PAGE = mmap.ALLOCATIONGRANULARITY


@dataclass(frozen=True)
class GraphSource:
    """A graph and its rows.

    Attributes:
        graph: the graph of the exported rows.
        content: arrays that hold the exported rows and perhaps others.
        nodes: int64 (count,): positions of the exported rows in ``content``, ascending; None: all.
        work: the graph work that was needed, for people. work_s: its duration in seconds.
    """

    graph: Graph
    content: RowArrays
    nodes: npt.NDArray[np.int64] | None
    work: str
    work_s: float

    @property
    def count(self) -> int:
        """Number of exported rows."""
        return len(self.graph.links)

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64] | None:
        """The ids as integers, int64 (count,); None unless all are canonical integers."""
        return numbers_of_content(self.content, self.nodes)

    def vectors(self, dim: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield blocks of the rows' vectors, float32 (m, dim), without padding."""
        stored = self.content.vectors
        step = max(1, _BLOCK_BYTES // (4 * stored.shape[1]))
        for first in range(0, self.count, step):
            end = min(self.count, first + step)
            if self.nodes is None:
                yield np.ascontiguousarray(stored[first:end, :dim])
                _release_pages(stored, first, end)
            else:
                some = self.nodes[first:end]
                yield np.ascontiguousarray(stored[some][:, :dim])
                _release_pages(stored, int(some[0]), int(some[-1]) + 1)


def _release_pages(array: npt.NDArray[np.generic], first: int, end: int) -> None:
    """Release the pages of rows of a mapped array that were read.

    Otherwise the resident memory of this process would grow by the size of the file.
    """
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.base if isinstance(base, np.ndarray) else None
    if base is None:
        return
    origin = np.frombuffer(base, np.uint8).ctypes.data
    each = array.strides[0]
    start = array.ctypes.data - origin + first * each
    stop = start + (end - first) * each
    start, stop = start // _PAGE * _PAGE, stop // _PAGE * _PAGE
    if stop > start:
        base.madvise(mmap.MADV_DONTNEED, start, stop - start)


def find_graph(
    runtime: Runtime, opened: OpenCollection, lease: ExportLease, deadline: Deadline
) -> GraphSource:
    """Return the graph to export, and move the lease to its seq.

    Raises:
        ResourceExhaustedError: EXPORT_TOO_LARGE: one graph of the rows would be larger than
            ``segment_bytes_max``.
        UnavailableError: SEGMENTS_CHANGING: segments change faster than they can be verified.
        DataLossError: rows of the store are damaged.
        DeadlineExceededError, CancelledError, NotFoundError.
    """
    load_kernels()  # Before the lease is taken: compiling may take longer than a lease lasts.
    began, optimized = time.monotonic(), False
    done: list[str] = []
    for _ in range(_ATTEMPTS_MAX):
        deadline.check()
        lease.take()  # Before the snapshot, so that nothing live in the snapshot is purged.
        snapshot = opened.snapshots.snapshot()
        lease.move_to(snapshot.state.seq, snapshot.counters.next_row)
        part = _clean_part(snapshot)
        if part is not None:
            if not _intact(opened, snapshot, part, deadline):
                continue
            source = _from_segment(opened, part, done, began, deadline)
            if source is not None:
                return source
        _check_size(opened, snapshot)
        if part is None and runtime.options.indexer and not optimized:
            lease.release()
            done.append(parts_text(len(snapshot.segments), snapshot.memtable_live_count))
            runtime.optimize(opened, deadline)
            optimized = True
            continue
        merged = run_merge(runtime, opened, lease, deadline)
        done.append(merged.work)
        segment = merged.segment
        work_s = time.monotonic() - began
        return GraphSource(segment.parts[GRAPH], segment.content, None, ", ".join(done), work_s)
    raise UnavailableError(
        f"the segments of the collection changed {_ATTEMPTS_MAX} times while they were verified; "
        "try again",
        Reason.SEGMENTS_CHANGING,
    )


def parts_text(segments: int, memtable: int, deleted: int = 0, *, rebuilt: bool = False) -> str:
    """Describe a merge for people.

    Args:
        segments, memtable, deleted: number of segments, of memtable rows, and of deleted rows that
            were left out.
        rebuilt: no graph of a segment was extended.
    """
    parts = [_counted(segments, "segment")] if segments else []
    parts += [_counted(memtable, "memtable row")] if memtable or not segments else []
    verb = "merged" if segments and not rebuilt else "built a graph of"
    without = f" without {_counted(deleted, 'deleted row')}" if deleted else ""
    return f"{verb} {' and '.join(parts)}{without}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _clean_part(snapshot: Snapshot) -> SegmentSnapshot | None:
    """Return the segment whose graph holds all live rows, if few of its nodes are deleted.

    Otherwise return None. If no row is live, return an empty segment without a graph.
    """
    holding = [segment for segment in snapshot.segments if segment.live_count]
    if snapshot.live_count == 0:
        nothing = RowArrays.joined([], 1)
        return SegmentSnapshot(-1, 0, 0, nothing, nothing.parts, NOTHING_DELETED, 0, None)
    if snapshot.memtable_live_count or not snapshot.holds_all or len(holding) != 1:
        return None
    part = holding[0]
    few_deleted = part.deleted_count <= REPAIRED_FRACTION_MAX * part.node_count
    return part if part.parts.has(GRAPH) and few_deleted else None


def _intact(
    opened: OpenCollection, snapshot: Snapshot, part: SegmentSnapshot, deadline: Deadline
) -> bool:
    """Return whether a segment matches its checksums.

    If not, it is quarantined, and its rows are served from the store.
    """
    if part.segment is None:
        return True
    try:
        part.segment.verify(deadline.check)
    except SegmentDamagedError:
        quarantine(opened.store, part.number)
    except (FileNotFoundError, NotADirectoryError):
        quarantine(opened.store, part.number, snapshot.state.generation)
    else:
        return True
    return False


def _from_segment(
    opened: OpenCollection, part: SegmentSnapshot, done: list[str], began: float, deadline: Deadline
) -> GraphSource | None:
    """Return a published graph without its deleted nodes; None if repair is not possible."""
    M = opened.store.config.M
    if not part.parts.has(GRAPH):
        links = np.empty((0, 2 * M), np.int32), np.zeros(1, np.int32), np.empty((0, M), np.int32)
        graph, nodes = Graph(*links, -1, -1), None
    elif part.deleted_count == 0:
        graph, nodes = part.parts[GRAPH], None
    elif deleted_together(part.parts[GRAPH], part.delete_bitmap):
        return None
    else:
        nodes = live_nodes(part.node_count, part.delete_bitmap)
        vectors, metric = part.content.vectors, opened.store.config.metric
        whole = repaired(part.parts[GRAPH], vectors, part.delete_bitmap, metric, deadline.check)
        if whole is None:
            return None
        graph = whole
        done = [*done, f"repaired: {_counted(part.deleted_count, 'deleted node')} removed"]
    work_s = time.monotonic() - began if done else 0.0
    return GraphSource(graph, part.content, nodes, ", ".join(done) or "nothing", work_s)


def _check_size(opened: OpenCollection, snapshot: Snapshot) -> None:
    if snapshot.live_count > opened.graph_rows_max:
        raise ResourceExhaustedError(
            f"exporting a graph needs {snapshot.live_count:,} rows in one graph (limit "
            f"{opened.graph_rows_max:,}, from option segment_bytes_max); export without a graph: "
            "flat=True or --flat",
            Reason.EXPORT_TOO_LARGE,
        )
