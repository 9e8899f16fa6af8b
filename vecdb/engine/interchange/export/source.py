"""Finding one graph that holds exactly what is live at one seq, for an export to be made of.

The seq is that of a snapshot, taken under a lease: all of it and nothing later. A snapshot is clean
if its live rows are all in one published graph; deleted nodes in it are repaired away while
converting (``repair.py``), which changes nothing in the collection. If the repair gives no good
graph, the export builds one of its own (``merge.py``), at a seq of its own.

Anything else needs a graph job first: once the indexer is asked for its end state, as ``optimize``
does it, and that stays. If writers are at it, fresh rows are there again by then; so a second time
the rest is brought together in a graph of the export's own, too. Hence an export ends however much
is written, and whatever died or was replaced meanwhile is in it as it was at its seq.

Files of a segment are compared with their checksums right before they are read. They may be
unlinked while they are; what is mapped stays.
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
from vecdb.engine.search.snapshot import NOTHING_DELETED, SegmentSnapshot, Snapshot
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
    """A graph and the rows that its nodes are.

    Attributes:
        graph: of the rows that are exported.
        content: arrays that hold them and perhaps others. nodes: int64, which of these are
            exported, ascending; None for all.
        work: what was done to get it. work_s: seconds that it took.
    """

    graph: Graph
    content: RowArrays
    nodes: npt.NDArray[np.int64] | None
    work: str
    work_s: float

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.graph.links)

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64] | None:
        """The ids as numbers, int64 (count,); None if one is no number."""
        return numbers_of_content(self.content, self.nodes)

    def vectors(self, dim: int) -> Iterator[npt.NDArray[np.float32]]:
        """Blocks of the rows' vectors, float32 (m, dim), without their padding."""
        stored = self.content.vectors
        step = max(1, _BLOCK_BYTES // (4 * stored.shape[1]))
        for first in range(0, self.count, step):
            end = min(self.count, first + step)
            if self.nodes is None:
                yield np.ascontiguousarray(stored[first:end, :dim])
                _let_go(stored, first, end)
            else:
                some = self.nodes[first:end]
                yield np.ascontiguousarray(stored[some][:, :dim])
                _let_go(stored, int(some[0]), int(some[-1]) + 1)


def _let_go(array: npt.NDArray[np.generic], first: int, end: int) -> None:
    """Rows of a mapped array that were read: this process need not hold their pages any longer, or
    its memory would grow by the whole file."""
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
    """The graph to export, and the pin moved to its seq.

    Raises:
        ResourceExhaustedError: EXPORT_TOO_LARGE: the rows are in several graphs, as one would be
            larger than ``segment_bytes_max``.
        UnavailableError: segments keep changing faster than they can be compared.
        DataLossError: rows of the store are damaged.
        DeadlineExceededError, CancelledError, NotFoundError.
    """
    load_kernels()  # Compiling them may take longer than a pin lasts unattended.
    began, optimized = time.monotonic(), False
    done: list[str] = []
    for _ in range(_ATTEMPTS_MAX):
        deadline.check()
        lease.take()  # Before the view: what is live in it now stays readable.
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
        assert segment.graph is not None
        work_s = time.monotonic() - began
        return GraphSource(segment.graph, segment.content, None, ", ".join(done), work_s)
    raise UnavailableError(
        f"the segments of the collection changed {_ATTEMPTS_MAX} times while they were compared",
        Reason.SEGMENTS_CHANGING,
    )


def parts_text(segments: int, memtable: int, dead: int = 0, *, anew: bool = False) -> str:
    """What a merge brings together, in words. anew: none of the segments' graphs was gone on
    from."""
    parts = [_counted(segments, "segment")] if segments else []
    parts += [_counted(memtable, "fresh row")] if memtable or not segments else []
    verb = "merged" if segments and not anew else "built a graph of"
    return f"{verb} {' and '.join(parts)}" + (f" without {dead:,} dead" if dead else "")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _clean_part(snapshot: Snapshot) -> SegmentSnapshot | None:
    """The one graph that holds all live rows, if there is such a one and few of its nodes died; an
    empty one if no row is live."""
    holding = [segment for segment in snapshot.segments if segment.live_count]
    if snapshot.live_count == 0:
        nothing = RowArrays.joined([], 1)
        return SegmentSnapshot(-1, 0, 0, nothing, None, NOTHING_DELETED, 0, None)
    if snapshot.memtable_live_count or not snapshot.holds_all or len(holding) != 1:
        return None
    part = holding[0]
    too_many_deleted = part.deleted_count > REPAIRED_FRACTION_MAX * part.node_count
    return None if part.graph is None or part.segment is None or too_many_deleted else part


def _intact(
    opened: OpenCollection, snapshot: Snapshot, part: SegmentSnapshot, deadline: Deadline
) -> bool:
    """The segment's bytes are those that were written; if not it is marked lost, and the store
    serves its rows."""
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
    """A published graph without its dead nodes; None if they can't be healed away."""
    M = opened.store.config.M
    if part.graph is None:
        links = np.empty((0, 2 * M), np.int32), np.zeros(1, np.int32), np.empty((0, M), np.int32)
        graph, nodes = Graph(*links, -1, -1), None
    elif part.deleted_count == 0:
        graph, nodes = part.graph, None
    elif deleted_together(part.graph, part.dead):
        return None
    else:
        nodes = live_nodes(part.node_count, part.dead)
        vectors, metric = part.content.vectors, opened.store.config.metric
        whole = repaired(part.graph, vectors, part.dead, metric, deadline.check)
        if whole is None:
            return None
        graph = whole
        done = [*done, f"healed {part.deleted_count:,} dead"]
    work_s = time.monotonic() - began if done else 0.0
    return GraphSource(graph, part.content, nodes, ", ".join(done) or "nothing", work_s)


def _check_size(opened: OpenCollection, snapshot: Snapshot) -> None:
    if snapshot.live_count > opened.graph_rows_max:
        raise ResourceExhaustedError(
            f"{snapshot.live_count:,} rows would have to be merged into one graph, which may have "
            f"{opened.graph_rows_max:,} here (option segment_bytes_max): export them without a "
            "graph, flat=True or --flat",
            Reason.EXPORT_TOO_LARGE,
        )
