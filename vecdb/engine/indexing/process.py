"""The indexer's process, started by an open database.

    python -m vecdb.engine.indexing.process FOLDER

Reads lines from standard input: "work ID" (a collection may have graph work that pays) and
"optimize ID" (do all of it). Answers each with a JSON line {"event": "done", …} and tells between
what it is doing. What does not pay while writes go on is done after a pause in the writing. Ends
when its input ends: at once, or after the job at hand with ``--finish-when-orphaned``.

With ``--finish ID…`` it reads no input: it brings all rows of these collections into graphs, those
too that are in no segment yet, and ends.
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
from vecdb.engine.system.child_process import lower_priority
from vecdb.engine.system.files import file_lock
from vecdb.engine.system.folder_use import FolderUse
from vecdb.engine.system.garbage import freeze_loaded_objects
from vecdb.errors import NotFoundError

__all__ = ["main"]

_PAUSE_S = 2.0
"""Seconds without a word from the parent after which leftovers are done too."""

_FINISHING_RUNS_MAX = 10
"""Runs of a collection with ``--finish``: each does all that is there when it begins, so that more
are needed only after another process, and writers can't keep it from ending."""


def _say(event: Mapping[str, object]) -> None:
    try:
        print(json.dumps(event), flush=True)
    except OSError:
        pass  # Nobody listens any more; the work is what counts.


class _Worker:
    """Takes collections in turn until the input has ended."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._root = Path(arguments.folder)
        self._arguments = arguments
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._orphaned = threading.Event()
        self._leftover: set[str] = set()
        self._settled_rows: dict[str, int | None] = {}  # As ``CollectionIndexer`` says.

    def read_input(self) -> None:
        """The thread that notices the parent's end."""
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
                # Writing pauses: what did not pay before is done now.
                collection_id = self._leftover.pop()
                self._work(collection_id, "pausing")
                _say({"event": "rested", "left": len(self._leftover)})
                continue
            if line is None:
                return
            word, _, collection_id = line.partition(" ")
            self._work(collection_id, "optimizing" if word == "optimize" else "writing")
            _say({"event": "done", "left": len(self._leftover)})

    def finish(self, collection_ids: list[str]) -> None:
        """Do all that there is to do now in these collections."""
        for collection_id in collection_ids:
            _say({"event": "finishing", "collection": collection_id, "time": time.ctime()})
            for _ in range(_FINISHING_RUNS_MAX):
                self._work(collection_id, "optimizing")
                if collection_id not in self._leftover:
                    break
                # Another process is at it, or writes more.
                lock = self._root / "collections" / collection_id / "graph.lock"
                with contextlib.suppress(OSError), file_lock(lock, wait=True):
                    pass
            _say({"event": "finished", "collection": collection_id, "time": time.ctime()})

    def _work(self, collection_id: str, pace: Pace) -> None:
        """One collection; whatever fails there is told and keeps no other from its turn."""
        folder = self._root / "collections" / collection_id
        self._leftover.discard(collection_id)
        try:
            if self._index(folder, collection_id, pace):
                self._leftover.add(collection_id)
        except Exception as error:
            # A dropped collection's folder is moved away under us: that is no failure.
            if not isinstance(error, NotFoundError) and (folder / "store" / "data.mdb").is_file():
                detail = f"{type(error).__name__}: {error}"
                _say({"event": "failed", "collection": collection_id, "detail": detail})
                return
        _say({"event": "worked", "collection": collection_id})

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
            sealed = not self._arguments.finish or flush(
                store,
                folder,
                collection_id,
                bytes_min=1,
                rows_max=flat_rows_max(store, self._arguments.seal_bytes, rows_max),
                joined_rows_max=rows_max,
            )
            indexer = CollectionIndexer(
                store,
                folder,
                collection_id,
                threads=self._arguments.threads,
                rows_max=rows_max,
                report=lambda event: _say({**event, "collection": collection_id}),
                should_stop=self._orphaned.is_set,
                settled_rows=self._settled_rows.get(collection_id),
            )
            left = indexer.run(pace)
            self._settled_rows[collection_id] = indexer.settled_rows
            return left or not sealed
        finally:
            environment.close()


def main() -> None:
    """Run until the input ends."""
    parser = argparse.ArgumentParser(
        prog="python -m vecdb.engine.indexing.process", description=__doc__
    )
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--segment-bytes-max", type=int, default=4 * 1024**3)
    parser.add_argument("--map-bytes", type=int, default=16 * 1024**3)
    parser.add_argument("--finish-when-orphaned", action="store_true")
    parser.add_argument("--seal-bytes", type=int, default=8 * 1024**2)
    parser.add_argument("--finish", nargs="+", metavar="ID", default=[])
    arguments = parser.parse_args()
    lower_priority()
    try:
        use = FolderUse(Path(arguments.folder))
    except FileNotFoundError:
        return  # The folder was deleted.
    with use:
        worker = _Worker(arguments)
        if arguments.finish:
            load_kernels()
            worker.finish(arguments.finish)
            return
        # Before the kernels, which may have to be compiled: the parent may end meanwhile.
        threading.Thread(target=worker.read_input, name="input", daemon=True).start()
        load_kernels()
        freeze_loaded_objects()
        worker.run()


if __name__ == "__main__":
    main()
