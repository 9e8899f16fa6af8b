"""The indexer's child process, started by an open database.

    python -m vecdb.engine.indexing.process FOLDER

Reads lines from standard input: "work ID" (do the graph work of a collection that pays) and
"optimize ID" (do all of it). Answers each line with a JSON line {"event": "done", …}, and writes
progress events in between. Work that does not pay during writes is done once no line has arrived
for ``_PAUSE_S``. The process ends when its input ends: at once, or with ``--finish-when-orphaned``
after the current job.

With ``--finish ID…`` it reads no input: it flushes and indexes all rows of these collections, then
ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from vecdb.engine.indexing.indexer import CollectionIndexer
from vecdb.engine.indexing.merge_policy import Pace, graph_row_bytes
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kv.environment import Environment
from vecdb.engine.segments.flushing import flat_rows_max, flush
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store
from vecdb.engine.system.files import file_lock
from vecdb.engine.system.folder_use import FolderUse
from vecdb.engine.system.garbage import freeze_loaded_objects
from vecdb.engine.system.priority import RisingPriority
from vecdb.errors import NotFoundError

__all__ = ["main"]

_PAUSE_S = 2.0
"""Seconds without input after which the work that did not pay is done too."""

_FINISHING_RUNS_MAX = 10
"""Most runs of a collection with ``--finish``. Each run does all work that exists when it begins,
so more are needed only after work of another process; the limit makes it end despite writers."""


def _emit(event: Mapping[str, object]) -> None:
    try:
        print(json.dumps(event), flush=True)
    except OSError:
        pass  # The parent has ended. The work itself goes on.


class _Worker:
    """Works on one collection after another until the input ends."""

    def __init__(self, arguments: argparse.Namespace, priority: RisingPriority) -> None:
        self._priority = priority
        self._root = Path(arguments.folder)
        self._arguments = arguments
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._orphaned = threading.Event()
        self._leftover: set[str] = set()
        self._settled_rows: dict[str, int | None] = {}  # See ``CollectionIndexer``.

    def read_input(self) -> None:
        """Read lines until the parent has ended; runs in a thread of its own."""
        for line in sys.stdin:
            self._lines.put(line.strip())
        self._orphaned.set()
        self._lines.put(None)
        if not self._arguments.finish_when_orphaned:
            os._exit(0)

    def run(self) -> None:
        while not self._orphaned.is_set():
            try:
                line = self._lines.get(timeout=_PAUSE_S if self._leftover else None)
            except queue.Empty:
                # Writes have paused: do the work that did not pay before.
                collection_id = self._leftover.pop()
                self._work(collection_id, "pausing")
                _emit({"event": "paused", "left": len(self._leftover)})
                continue
            if line is None:
                return
            command, _, collection_id = line.partition(" ")
            self._work(collection_id, "optimizing" if command == "optimize" else "writing")
            _emit({"event": "done", "left": len(self._leftover)})

    def finish(self, collection_ids: list[str]) -> None:
        """Flush and index all rows of these collections."""
        for collection_id in collection_ids:
            _emit({"event": "finishing", "collection": collection_id, "time": time.ctime()})
            for _ in range(_FINISHING_RUNS_MAX):
                self._work(collection_id, "optimizing")
                if collection_id not in self._leftover:
                    break
                # Another process holds the lock, or has written more: wait until the lock is free.
                lock = self._root / "collections" / collection_id / "graph.lock"
                with contextlib.suppress(OSError), file_lock(lock, wait=True):
                    pass
            _emit({"event": "finished", "collection": collection_id, "time": time.ctime()})

    def _work(self, collection_id: str, pace: Pace) -> None:
        """Work on one collection. A failure is reported as an event, and the next one follows."""
        folder = self._root / "collections" / collection_id
        self._leftover.discard(collection_id)
        try:
            with self._priority.of_work():
                left = self._index(folder, collection_id, pace)
            if left:
                self._leftover.add(collection_id)
        except Exception as error:
            # Not a failure if the collection was dropped: its folder is moved during the work.
            if not isinstance(error, NotFoundError) and (folder / "store" / "data.mdb").is_file():
                detail = f"{type(error).__name__}: {error}"
                _emit({"event": "failed", "collection": collection_id, "detail": detail})
                return
        _emit({"event": "worked", "collection": collection_id})

    def _index(self, folder: Path, collection_id: str, pace: Pace) -> bool:
        environment = Environment(
            folder / "store",
            layout.DATABASES,
            create=False,
            map_bytes=self._arguments.map_bytes,
        )
        try:
            store = Store(environment, collection_id)
            size = graph_row_bytes(store.config.dim, store.config.M)
            rows_max = max(1, self._arguments.segment_bytes_max // size)
            flushed = not self._arguments.finish or flush(
                store,
                folder,
                collection_id,
                bytes_min=1,
                rows_max=flat_rows_max(store, self._arguments.seal_bytes, rows_max),
                joined_rows_max=rows_max,
                codes=self._arguments.codes == "auto",
            )
            indexer = CollectionIndexer(
                store,
                folder,
                collection_id,
                threads=self._arguments.threads,
                rows_max=rows_max,
                report=lambda event: _emit({**event, "collection": collection_id}),
                should_stop=self._orphaned.is_set,
                codes=self._arguments.codes == "auto",
                settled_rows=self._settled_rows.get(collection_id),
            )
            left = indexer.run(pace)
            self._settled_rows[collection_id] = indexer.settled_rows
            return left or not flushed
        finally:
            environment.close()


def main() -> None:
    """Run the process until its input ends, or with ``--finish`` until the work is done."""
    parser = argparse.ArgumentParser(
        prog="python -m vecdb.engine.indexing.process", description=__doc__
    )
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--segment-bytes-max", type=int, default=4 * 1024**3)
    parser.add_argument("--map-bytes", type=int, default=16 * 1024**3)
    parser.add_argument("--codes", choices=("auto", "none"), default="auto")
    parser.add_argument("--finish-when-orphaned", action="store_true")
    parser.add_argument("--seal-bytes", type=int, default=8 * 1024**2)
    parser.add_argument("--finish", nargs="+", metavar="ID", default=[])
    arguments = parser.parse_args()
    priority = RisingPriority()
    try:
        use = FolderUse(Path(arguments.folder))
    except FileNotFoundError:
        return  # The folder was deleted.
    with use:
        worker = _Worker(arguments, priority)
        if arguments.finish:
            load_kernels()
            worker.finish(arguments.finish)
            return
        # Start reading before loading the kernels: the parent may end while they are compiled.
        threading.Thread(target=worker.read_input, name="input", daemon=True).start()
        load_kernels()
        freeze_loaded_objects()
        worker.run()


if __name__ == "__main__":
    main()
