"""The supervisor runs the indexer as a child process, at most one per database, when there is work.

Graphs are not built in the parent process, since hnswlib holds the GIL while it saves a graph, and
a build takes memory of the segment's size. The child reads lines from its standard input ("work
ID", "optimize ID") and writes JSON lines to its standard output. It ends when its input ends, which
also happens when the parent is killed. Work that fails in one collection is retried with
exponential backoff and does not delay other collections.
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

from vecdb.engine.indexing.progress import BuildProgress
from vecdb.engine.system.back_off import BackOff
from vecdb.engine.system.child_process import start_child, start_detached
from vecdb.engine.system.folder_use import FolderUse

__all__ = ["IndexerSettings", "Supervisor"]

_PAUSE_FIRST_S, _PAUSE_MAX_S = 1.0, 60.0
"""Pauses before work that failed is retried."""

_LINGER_S = 5.0
"""Seconds without work after which the child is ended."""

_END_S_MAX = 5.0
"""Seconds from the end of its input after which a child is killed."""

_UNANSWERED_MAX = 64
"""Most lines sent to the child and not answered yet. The pipe's buffer holds more than these, so
writing never blocks, even if the child was stopped."""


_LOG_NAME = "indexer.log"
"""The file in the data folder with the output of a detached indexer."""

_log = logging.getLogger("vecdb.engine")


@dataclass(frozen=True)
class IndexerSettings:
    """How the indexer runs; see the options of the same names.

    Attributes:
        enabled: whether to run an indexer at all.
        finishes: whether a detached indexer finishes the remaining work after close.
        outlives_parent: whether the child finishes its current job after close.
        threads: threads of a graph build.
        map_bytes, seal_bytes, segment_bytes_max: sizes in bytes.
        codes: "auto" or "none".
    """

    enabled: bool = True
    finishes: bool = False
    outlives_parent: bool = False
    threads: int = 1
    map_bytes: int = 1 << 30
    seal_bytes: int = 8 << 20
    segment_bytes_max: int = 4 << 30
    codes: str = "auto"


class Supervisor:
    """Starts, feeds and ends the indexer of one database. Thread-safe."""

    def __init__(
        self,
        root: Path,
        settings: IndexerSettings,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Start no process yet. on_progress: called with the id of a collection when its graph
        grows."""
        self._on_progress = on_progress
        self._root = root
        self._settings = settings
        self._changed = threading.Condition()
        self._wanted: dict[str, bool] = {}  # collection id → urgent
        self._back_off: BackOff[str] = BackOff(_PAUSE_FIRST_S, _PAUSE_MAX_S)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._sent = self._answered = self._left = 0
        self._current: BuildProgress | None = None
        self._output_tail: deque[str] = deque(maxlen=20)

    def wake(self, collection_id: str, *, urgent: bool = False) -> None:
        """Request the graph work of a collection. urgent: all of it, whether or not it pays yet."""
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
        """Return one line of text on what the indexer does for a collection."""
        if not self._settings.enabled:
            return "off"
        with self._changed:
            failure = self._back_off.failure(collection_id)
            if failure is not None:
                return f"waiting after a crash ({failure.count} in a row): {failure.why}"
            if self._current is not None and self._current.collection == collection_id:
                return self._current.text()
            if collection_id in self._wanted:
                return "waiting for its turn"
            return "idle"

    def failures(self, collection_id: str) -> int:
        """Return the number of consecutive failures, 0 after work that succeeded."""
        failure = self._back_off.failure(collection_id)
        return 0 if failure is None else failure.count

    def close(self, unfinished: Iterable[Callable[[], str | None]] = ()) -> None:
        """End the supervisor. With ``outlives_parent`` the child still finishes its current job.

        Args:
            unfinished: functions called, if ``finishes`` is set, once the supervisor has ended.
                Each returns the id of a collection with work left, or None. A detached indexer is
                started for those.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._settings.finishes:
            left = [found for found in (find() for find in unfinished) if found is not None]
            if left:
                self._finish_detached(left)

    def _finish_detached(self, collection_ids: list[str]) -> None:
        try:
            with FolderUse(self._root) as use:  # No compaction may start before the indexer does.
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
            # Not an error of close: the rows are on disk and are indexed after the next open.
            _log.warning("could not start the detached indexer of %s: %s", self._root, error)

    # The rest runs in the supervisor's thread; ``_listen`` runs in one thread per child.

    def _want(self, collection_id: str, urgent: bool) -> None:
        self._wanted[collection_id] = self._wanted.get(collection_id, False) or urgent

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due() and not self._closed:
                    self._changed.wait(0.2 if self._back_off else None)
                if self._closed:
                    return
            self._run_child()

    def _due(self) -> dict[str, bool]:
        """Return collection id → urgent of the work to send now. After a failure a collection is
        due again when its backoff ends."""
        due = dict.fromkeys(self._back_off.due(), True)
        for collection_id, urgent in self._wanted.items():
            if self._back_off.failure(collection_id) is None:
                due[collection_id] = urgent
        return due

    def _run_child(self) -> None:
        """Start a child, feed it until it is idle or must end, and wait for its end."""
        given: dict[str, bool] = {}
        self._sent = self._answered = self._left = 0
        self._output_tail.clear()
        try:
            child = self._start()
        except OSError as error:
            with self._changed:
                # Including retries that are due now, or this loop would spin.
                for collection_id in {*self._wanted, *self._due()}:
                    detail = f"the indexer could not be started: {error}"
                    self._back_off.failed(collection_id, detail)
            return
        reader = threading.Thread(
            target=self._listen, args=(child,), name="vecdb-indexer-reader", daemon=True
        )
        reader.start()
        with contextlib.suppress(OSError):
            self._feed(child, given)
        assert child.stdin is not None
        with contextlib.suppress(OSError):
            child.stdin.close()  # The child then ends, at once or after its current job.
        closed_at = time.monotonic()
        while reader.is_alive():
            reader.join(0.1)
            if self._closed and self._settings.outlives_parent:
                return
            # The child should have ended, so it was stopped. Its work may be interrupted.
            if time.monotonic() - closed_at > _END_S_MAX:
                child.kill()
        if child.wait() != 0 and not self._closed:
            self._want_again(given)

    def _want_again(self, given: dict[str, bool]) -> None:
        """Request the work of a crashed child again, with a backoff for the collection that it was
        working on."""
        with self._changed:
            failing = None if self._current is None else self._current.collection
            detail = self._output_tail[-1] if self._output_tail else "it was killed"
            for collection_id, urgent in given.items():
                self._want(collection_id, urgent)
                if failing in (None, collection_id):
                    self._back_off.failed(collection_id, detail)
            self._current = None

    def _feed(self, child: subprocess.Popen[str], given: dict[str, bool]) -> None:
        """Send due work until the child has been idle for ``_LINGER_S``, or has ended."""
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
                    if self._back_off.failure(collection_id) is not None:
                        self._back_off.postpone(collection_id, math.inf)  # Until the answer.
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
        """Return the due work, limited to what the child may be sent now."""
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
            f"--codes={self._settings.codes}",
        ]

    def _listen(self, child: subprocess.Popen[str]) -> None:
        """Drain the child's stdout and reap it, possibly after ``close``."""
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                with self._changed:
                    try:
                        self._handle(json.loads(line))
                    except (ValueError, KeyError, TypeError):
                        self._output_tail.append(line.strip())
                    self._changed.notify_all()
        child.wait()

    def _handle(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind in ("done", "paused"):
            self._answered += kind == "done"
            self._left = event["left"]
            self._current = None
        elif kind in ("building", "choosing", "progress", "finishing"):
            if self._current is None:
                self._current = BuildProgress()
            self._current.note(event)
            if self._on_progress is not None:
                self._on_progress(event["collection"])
        elif kind == "worked":
            self._back_off.succeeded(event["collection"])
        elif kind == "failed":
            self._back_off.failed(event["collection"], event["detail"])
