"""Runs the indexer: a child process, at most one a process, started when there is work for it.

Graphs are not built in this process since hnswlib holds the GIL while it saves, and takes memory of
the segment's size. The child reads lines from its standard input ("work ID", "optimize ID") and
writes JSON lines to its standard output; it ends when its input does, which is also how it notices
that this process is gone. After a crash it is started again, later each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import vecdb
from vecdb.engine.options import Options

__all__ = ["Supervisor"]

_BACKOFF_S_MAX = 60.0
_LINGER_S = 5.0


class Supervisor:
    """Starts, feeds and ends the indexer of one database. Safe to use from many threads."""

    def __init__(self, root: Path, options: Options) -> None:
        self._root = root
        self._options = options
        self._changed = threading.Condition()
        self._wanted: dict[str, bool] = {}  # collection id → urgent
        self._thread: threading.Thread | None = None
        self._closed = False
        self._child: subprocess.Popen[str] | None = None
        self._sent = self._answered = 0
        self._doing: dict[str, Any] = {}
        self._crashes = 0
        self._last_words: deque[str] = deque(maxlen=20)

    def wake(self, collection_id: str, *, urgent: bool = False) -> None:
        """There may be work in this collection. urgent: finish it, whether it pays yet or not."""
        if not self._options.indexer:
            return
        with self._changed:
            if self._closed:
                return
            self._wanted[collection_id] = self._wanted.get(collection_id, False) or urgent
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="vecdb-indexer-supervisor", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def status(self, collection_id: str) -> str:
        """One line on what the indexer does for a collection."""
        if not self._options.indexer:
            return "off"
        with self._changed:
            if self._crashes:
                detail = self._last_words[-1] if self._last_words else "no message"
                return f"waiting after a crash ({self._crashes} in a row): {detail}"
            if self._doing.get("collection") == collection_id:
                return f"building ({self._doing.get('rows', 0)} rows)"
            if collection_id in self._wanted:
                return "waiting for its turn"
            return "idle"

    @property
    def crashes(self) -> int:
        """Crashes in a row, 0 when the last work went well."""
        return self._crashes

    def close(self) -> None:
        """End the supervisor. An embedded database's child finishes the job at hand by itself."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._wanted and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
            clean = self._run_child()
            with self._changed:
                self._doing = {}
                self._crashes = 0 if clean else self._crashes + 1
                if not clean:
                    self._changed.wait_for(
                        lambda: self._closed, min(_BACKOFF_S_MAX, 0.5 * 2**self._crashes)
                    )

    def _run_child(self) -> bool:
        """One life of the child. False if it crashed; what it was to do is then wanted again."""
        child = self._child = self._start()
        self._sent = self._answered = 0
        reader = threading.Thread(
            target=self._listen, args=(child,), name="vecdb-indexer-reader", daemon=True
        )
        reader.start()
        given: dict[str, bool] = {}
        with contextlib.suppress(OSError):
            self._feed(child, given)
        with self._changed:
            closing = self._closed
        assert child.stdin is not None
        with contextlib.suppress(OSError):
            child.stdin.close()  # It ends by itself, at once or after the job at hand.
        if closing:
            if not self._options.indexer_outlives_parent:
                reader.join()
            return True
        reader.join()
        status = child.wait()
        if status == 0:
            return True
        with self._changed:
            for collection_id, urgent in given.items():
                self._wanted[collection_id] = self._wanted.get(collection_id, False) or urgent
        return False

    def _feed(self, child: subprocess.Popen[str], given: dict[str, bool]) -> None:
        """Hand on what is wanted until the child has been idle for a while, has ended, or we
        close."""
        assert child.stdin is not None
        idle_since = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed, timeout=0.2)
                if self._closed or child.poll() is not None:
                    return
                lines = list(self._wanted.items())
                self._wanted.clear()
                if self._answered < self._sent or lines:
                    idle_since = time.monotonic()
                else:
                    given.clear()
                self._sent += len(lines)
            if not lines and time.monotonic() - idle_since > _LINGER_S:
                return
            given.update(lines)
            for collection_id, urgent in lines:
                child.stdin.write(f"{'optimize' if urgent else 'work'} {collection_id}\n")
            child.stdin.flush()

    def _start(self) -> subprocess.Popen[str]:
        home = str(Path(vecdb.__file__).resolve().parent.parent)
        path = os.environ.get("PYTHONPATH")
        command = [
            sys.executable,
            "-m",
            "vecdb.indexer",
            os.fspath(self._root),
            f"--threads={self._options.threads}",
            f"--segment-bytes-max={self._options.segment_bytes_max}",
            f"--map-bytes={self._options.map_bytes}",
        ]
        if self._options.indexer_outlives_parent:
            command.append("--finish-when-orphaned")
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home},
            start_new_session=self._options.indexer_outlives_parent,
        )

    def _listen(self, child: subprocess.Popen[str]) -> None:
        """The thread that hears the child out and collects it, which may be after we have
        closed."""
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                with self._changed:
                    self._hear(line)
                    self._changed.notify_all()
        child.wait()

    def _hear(self, line: str) -> None:
        if not line.startswith("{"):
            self._last_words.append(line.strip())
            return
        event = json.loads(line)
        if event["event"] == "done":
            self._answered += 1
            self._doing = {}
            self._crashes = 0
        elif event["event"] == "building":
            self._doing = event
