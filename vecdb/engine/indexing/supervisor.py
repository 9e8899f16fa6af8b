"""Runs the indexer: a child process, at most one a process, started when there is work for it.

Graphs are not built in this process since hnswlib holds the GIL while it saves, and takes memory of
the segment's size. The child reads lines from its standard input ("work ID", "optimize ID") and
writes JSON lines to its standard output; it ends when its input does, which is also how it notices
that this process is gone. What fails in one collection is tried again, later each time, and keeps
no other waiting.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vecdb.engine.system.child_process import start_child, start_detached
from vecdb.engine.system.folder_use import FolderUse

__all__ = ["IndexerSettings", "Supervisor"]

_BACKOFF_S_MAX = 60.0
_LINGER_S = 5.0
_END_S_MAX = 5.0
"""A child that was told to end and is there so long afterwards is killed."""

_UNANSWERED_MAX = 64
"""Lines that the child was given and has not answered yet. Its pipe holds more than these, so that
writing to it never waits: it may have been stopped."""


_LOG_NAME = "indexer.log"
"""In the data folder: what a detached indexer says."""

_log = logging.getLogger("vecdb.engine")


@dataclass(frozen=True)
class IndexerSettings:
    """How the indexer runs; see the options of the same names.

    Attributes:
        enabled: False runs none. finishes: on close a detached one finishes what is left.
    """

    enabled: bool = True
    finishes: bool = False
    outlives_parent: bool = False
    threads: int = 1
    map_bytes: int = 1 << 30
    seal_bytes: int = 8 << 20
    segment_bytes_max: int = 4 << 30


@dataclass
class _Failure:
    """Failures in a row of one collection."""

    count: int
    detail: str
    again_at: float


class Supervisor:
    """Starts, feeds and ends the indexer of one database. Safe to use from many threads."""

    def __init__(
        self,
        root: Path,
        settings: IndexerSettings,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Start nothing yet. on_progress: told the id of a collection whose graph grows."""
        self._on_progress = on_progress
        self._root = root
        self._settings = settings
        self._changed = threading.Condition()
        self._wanted: dict[str, bool] = {}  # collection id → urgent
        self._failures: dict[str, _Failure] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._sent = self._answered = self._left = 0
        self._doing: dict[str, Any] = {}
        self._output_tail: deque[str] = deque(maxlen=20)

    def wake(self, collection_id: str, *, urgent: bool = False) -> None:
        """There may be work in this collection. urgent: finish it, whether it pays yet or not."""
        if not self._settings.enabled:
            return
        with self._changed:
            if self._closed:
                return
            self._want(collection_id, urgent)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="vecdb-indexer-supervisor", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def status(self, collection_id: str) -> str:
        """One line on what the indexer does for a collection."""
        if not self._settings.enabled:
            return "off"
        with self._changed:
            failure = self._failures.get(collection_id)
            if failure is not None:
                return f"waiting after a crash ({failure.count} in a row): {failure.detail}"
            if self._doing.get("collection") == collection_id:
                return f"building ({self._doing.get('rows', 0)} rows)"
            if collection_id in self._wanted:
                return "waiting for its turn"
            return "idle"

    def failures(self, collection_id: str) -> int:
        """Failures in a row, 0 when the last work in the collection went well."""
        failure = self._failures.get(collection_id)
        return 0 if failure is None else failure.count

    def close(self, unfinished: Iterable[Callable[[], str | None]] = ()) -> None:
        """End the supervisor. An embedded database's child finishes the job at hand by itself.

        Args:
            unfinished: asked once the supervisor has ended, if ``finishes`` is set: the id of a
                collection in which work is left, or None. A detached indexer does it.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._settings.finishes:
            left = [found for found in (ask() for ask in unfinished) if found is not None]
            if left:
                self._finish_detached(left)

    def _finish_detached(self, collection_ids: list[str]) -> None:
        try:
            with FolderUse(self._root) as use:  # So that no compaction comes before it.
                start_detached(
                    "vecdb.engine.indexing.process",
                    *self._arguments(),
                    f"--seal-bytes={self._settings.seal_bytes}",
                    "--finish",
                    *collection_ids,
                    log=self._root / _LOG_NAME,
                    holding=use.descriptor,
                )
                use.hand_over()
        except OSError as error:
            # Closing goes on: the rows are on disk, and the next who opens them indexes them.
            _log.warning("no indexer was started for %s: %s", self._root, error)

    # The rest runs in the supervisor's thread, and ``_listen`` in one a child.

    def _want(self, collection_id: str, urgent: bool) -> None:
        self._wanted[collection_id] = self._wanted.get(collection_id, False) or urgent

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due() and not self._closed:
                    self._changed.wait(0.2 if self._failures else None)
                if self._closed:
                    return
            self._run_child()

    def _due(self) -> dict[str, bool]:
        """What is wanted now; after a failure a collection is wanted again when its time comes."""
        now = time.monotonic()
        due = {c: True for c, failure in self._failures.items() if failure.again_at <= now}
        for collection_id, urgent in self._wanted.items():
            if collection_id not in self._failures:
                due[collection_id] = urgent
        return due

    def _run_child(self) -> None:
        """One life of the child."""
        given: dict[str, bool] = {}
        self._sent = self._answered = self._left = 0
        self._output_tail.clear()
        try:
            child = self._start()
        except OSError as error:
            with self._changed:
                # Those too that are wanted again after a failure, or this would spin.
                for collection_id in {*self._wanted, *self._due()}:
                    self._failed(collection_id, f"the indexer could not be started: {error}")
            return
        reader = threading.Thread(
            target=self._listen, args=(child,), name="vecdb-indexer-reader", daemon=True
        )
        reader.start()
        with contextlib.suppress(OSError):
            self._feed(child, given)
        assert child.stdin is not None
        with contextlib.suppress(OSError):
            child.stdin.close()  # It ends by itself, at once or after the job at hand.
        told_at = time.monotonic()
        while reader.is_alive():
            reader.join(0.1)
            if self._closed and self._settings.outlives_parent:
                return
            # It has nothing at hand, or nothing that may not be broken off: it was stopped.
            if time.monotonic() - told_at > _END_S_MAX:
                child.kill()
        if child.wait() != 0 and not self._closed:
            self._blame(given)

    def _blame(self, given: dict[str, bool]) -> None:
        """The child died. The collection that it worked on waits a while, the others don't."""
        with self._changed:
            culprit = self._doing.get("collection")
            detail = self._output_tail[-1] if self._output_tail else "it was killed"
            for collection_id, urgent in given.items():
                self._want(collection_id, urgent)
                if culprit in (None, collection_id):
                    self._failed(collection_id, detail)
            self._doing = {}

    def _failed(self, collection_id: str, detail: str) -> None:
        known = self._failures.get(collection_id)
        count = 1 if known is None else known.count + 1
        pause_s = min(_BACKOFF_S_MAX, 0.5 * 2**count)
        self._failures[collection_id] = _Failure(count, detail, time.monotonic() + pause_s)

    def _feed(self, child: subprocess.Popen[str], given: dict[str, bool]) -> None:
        """Hand on what is wanted until the child has been idle for a while, or has ended."""
        assert child.stdin is not None
        idle_since = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next_lines() or self._closed, timeout=0.2)
                if self._closed or child.poll() is not None:
                    return
                lines = self._next_lines()
                for collection_id in lines:
                    self._wanted.pop(collection_id, None)
                    if collection_id in self._failures:
                        self._failures[collection_id].again_at = math.inf  # Until it answers.
                if lines or self._left or self._answered < self._sent:
                    idle_since = time.monotonic()
                else:
                    given.clear()
                self._sent += len(lines)
            if not lines and time.monotonic() - idle_since > _LINGER_S:
                return
            given.update(lines)
            for collection_id, urgent in lines.items():
                child.stdin.write(f"{'optimize' if urgent else 'work'} {collection_id}\n")
            child.stdin.flush()

    def _next_lines(self) -> dict[str, bool]:
        """What is due, as much of it as the child may be given now."""
        room = _UNANSWERED_MAX - (self._sent - self._answered)
        return dict(itertools.islice(self._due().items(), max(0, room)))

    def _start(self) -> subprocess.Popen[str]:
        outlives = self._settings.outlives_parent
        return start_child(
            "vecdb.engine.indexing.process",
            *self._arguments(),
            *(["--finish-when-orphaned"] if outlives else []),
            own_session=outlives,
        )

    def _arguments(self) -> list[str]:
        return [
            os.fspath(self._root),
            f"--threads={self._settings.threads}",
            f"--segment-bytes-max={self._settings.segment_bytes_max}",
            f"--map-bytes={self._settings.map_bytes}",
        ]

    def _listen(self, child: subprocess.Popen[str]) -> None:
        """The thread that hears the child out and collects it, perhaps after we have closed."""
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                with self._changed:
                    try:
                        self._hear(json.loads(line))
                    except (ValueError, KeyError, TypeError):
                        self._output_tail.append(line.strip())
                    self._changed.notify_all()
        child.wait()

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind in ("done", "rested"):
            self._answered += kind == "done"
            self._left = event["left"]
            self._doing = {}
        elif kind in ("building", "progress"):
            self._doing = event
            if self._on_progress is not None:
                self._on_progress(event["collection"])
        elif kind == "worked":
            self._failures.pop(event["collection"], None)
        elif kind == "failed":
            self._failed(event["collection"], event["detail"])
