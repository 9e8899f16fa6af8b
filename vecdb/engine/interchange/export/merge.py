"""Child process of an export: merges all live rows into one graph.

It is a process for the same reasons as the indexer, and holds ``graph.lock``. It changes nothing
that others see: the result, the draft, is an unpublished segment in a folder ``export-<12
hexadecimal digits>`` of the collection. The parent maps the draft's files and removes the folder
before it closes this process's stdin, which ends the process. So a draft that is found by a process
that holds the lock was left by a killed one and can be removed.

If few nodes of the first segment are deleted and the others stay reachable, its graph is repaired
and extended by all other rows; otherwise a new graph is built. Rows keep their order.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import traceback
import uuid
from pathlib import Path
from typing import Final

import numpy as np

from vecdb.engine.hnsw.build_space import space_of
from vecdb.engine.hnsw.builder import Builder
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.repair import (
    REPAIRED_FRACTION_MAX,
    deleted_together,
    live_nodes,
    repaired,
)
from vecdb.engine.interchange.export.source import parts_text
from vecdb.engine.kv.environment import Environment
from vecdb.engine.search.snapshots.snapshot import SegmentSnapshot, Snapshot
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.segments.flushing import load_rows
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.lifecycle import quarantine, remove_drafts
from vecdb.engine.segments.segment import (
    RowArrays,
    SegmentDamagedError,
    padded_width,
    write_segment,
)
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store
from vecdb.engine.system.child_process import lower_priority
from vecdb.engine.system.files import file_lock, os_errors_translated
from vecdb.engine.system.folder_use import FolderUse
from vecdb.errors import DataLossError, UnavailableError, VecdbError
from vecdb.reasons import Reason

__all__ = ["main"]

_ATTEMPTS_MAX: Final = 20


class _Merger:
    def __init__(self, store: Store, folder: Path, collection_id: str, threads: int) -> None:
        self._store, self._folder, self._id = store, folder, collection_id
        self._threads = threads
        self._width = padded_width(store.config.dim)
        self._space = space_of(store.config.metric)

    def run(self) -> dict[str, object]:
        """Write the draft and return its description for the parent."""
        remove_drafts(self._folder)
        snapshot = self._sound_snapshot()
        seq, counters = snapshot.state.seq, snapshot.counters
        memtable = load_rows(self._store, counters.sealed_to, counters.next_row, seq)
        parts, builder = self._begin(snapshot)
        rebuilt = not parts
        others = [*(_live_part(segment) for segment in snapshot.segments[len(parts) :]), memtable]
        builder.add(*(part.vectors for part in others))
        parts += others
        content = RowArrays.joined(parts, self._width)
        name, graph = f"export-{uuid.uuid4().hex[:12]}", builder.graph(self._folder)
        try:
            entry = write_segment(
                self._folder / name,
                number=0,
                collection_id=self._id,
                config=self._store.config,
                first_row=0,
                end_row=counters.next_row,
                seq=seq,
                given=content.parts.with_part(GRAPH, graph),
                codes=False,
            )
        except BaseException:
            remove_drafts(self._folder)  # The disk may be full, and others need the space.
            raise
        deleted = sum(segment.deleted_count for segment in snapshot.segments)
        return {
            "draft": name,
            "entry": entry.to_json(),
            "next_row": counters.next_row,
            "work": parts_text(
                len(snapshot.segments), len(memtable.rows), deleted, rebuilt=rebuilt
            ),
        }

    def _sound_snapshot(self) -> Snapshot:
        """Return a snapshot whose segments match their checksums or are read from the store."""
        manager = SnapshotManager(self._store, self._folder, self._id, with_memtable=False)
        for _ in range(_ATTEMPTS_MAX):
            snapshot = manager.snapshot()
            if all(self._intact(segment, snapshot) for segment in snapshot.segments):
                return snapshot
        raise UnavailableError(
            f"the segments of the collection changed {_ATTEMPTS_MAX} times while they were "
            "verified; try again",
            Reason.SEGMENTS_CHANGING,
        )

    def _intact(self, segment: SegmentSnapshot, snapshot: Snapshot) -> bool:
        try:
            if segment.segment is not None and not segment.segment.verified:
                segment.segment.verify()
        except SegmentDamagedError:
            quarantine(self._store, segment.number)
        except (FileNotFoundError, NotADirectoryError):
            quarantine(self._store, segment.number, snapshot.state.generation)
        else:
            return True
        return False

    def _begin(self, snapshot: Snapshot) -> tuple[list[RowArrays], Builder]:
        """Return the first segment and a builder of its graph, or no part and an empty builder."""
        config = self._store.config
        capacity = max(1, snapshot.counters.live_count)
        first = snapshot.segments[0] if snapshot.segments else None
        graph = None if first is None else self._repaired(first)
        if first is not None and graph is not None:
            part = _live_part(first)
            try:
                builder = Builder.from_graph(
                    graph,
                    part.vectors,
                    space=self._space,
                    M=config.M,
                    ef_construction=config.ef_construction,
                    capacity=capacity,
                    threads=self._threads,
                    work_dir=self._folder,
                )
                return [part], builder
            except DataLossError:
                pass  # The graph's arrays are inconsistent; the rows are right, so rebuild it.
        builder = Builder(
            self._space,
            self._width,
            config.M,
            config.ef_construction,
            capacity=capacity,
            threads=self._threads,
        )
        return [], builder

    def _repaired(self, segment: SegmentSnapshot) -> Graph | None:
        """Return the segment's graph without its deleted nodes; None if repair is not possible."""
        if (
            not segment.parts.has(GRAPH)
            or segment.deleted_count > REPAIRED_FRACTION_MAX * segment.node_count
        ):
            return None
        graph = segment.parts[GRAPH]
        if deleted_together(graph, segment.delete_bitmap):
            return None
        metric = self._store.config.metric
        return repaired(graph, segment.content.vectors, segment.delete_bitmap, metric)


def _live_part(segment: SegmentSnapshot) -> RowArrays:
    rows = segment.content.rows
    return segment.content.without(np.delete(rows, live_nodes(len(rows), segment.delete_bitmap)))


def _end_with_parent() -> None:
    # os.read instead of sys.stdin: the interpreter locks sys.stdin when it exits.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


def _run(arguments: argparse.Namespace) -> None:
    """Print the result as a line of JSON and hold the lock until the parent closes stdin."""
    root = Path(arguments.folder)
    folder = root / "collections" / arguments.collection
    with os_errors_translated(str(folder)), FolderUse(root):
        environment = Environment(
            folder / "store", layout.DATABASES, create=False, map_bytes=arguments.map_bytes
        )
        try:
            store = Store(environment, arguments.collection)
            with file_lock(folder / "graph.lock", wait=True):
                merger = _Merger(store, folder, arguments.collection, arguments.threads)
                print(json.dumps({"merged": merger.run()}), flush=True)
                threading.Event().wait()  # _end_with_parent ends the process.
        finally:
            environment.close()


def main() -> None:
    """Write one draft."""
    parser = argparse.ArgumentParser(prog="python -m vecdb.engine.interchange.export.merge")
    parser.add_argument("folder")
    parser.add_argument("collection")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--map-bytes", type=int, default=16 * 1024**3)
    arguments = parser.parse_args()
    lower_priority()
    threading.Thread(target=_end_with_parent, name="input", daemon=True).start()
    try:
        _run(arguments)
    except VecdbError as error:
        answer = {
            "error": type(error).__name__,
            "message": error.message,
            "reason": error.reason,
        }
    except Exception:
        traceback.print_exc()
        last = traceback.format_exc(limit=-1).splitlines()[-1]
        answer = {
            "error": "InternalError",
            "message": f"merging for an export failed: {last}",
            "reason": Reason.EXPORT,
        }
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
