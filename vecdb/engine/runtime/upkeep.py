"""The background thread of an open database: it flushes memtables and purges deleted rows.

A commit requests a flush when the memtable is large enough. Purging runs a minute after a commit
that left garbage. Before each task, and every few seconds, the thread checks whether other
processes have dropped collections that are open here. All of this affects only speed and space: a
failure is logged. A flush that failed, for example on a full disk, is retried after a pause; until
then searches scan the memtable, and ``stats`` reports why. Other work is requested again by a later
commit. Closing waits for at most one step of purging; the next process that opens the collection
continues it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.store.purging import GRACE_S
from vecdb.engine.system.back_off import BackOff
from vecdb.errors import FailedPreconditionError, NotFoundError

__all__ = ["Upkeep"]

_FLUSH_POLL_S: Final = 0.5
"""Interval of the check for flushes to retry."""

_PAUSE_FIRST_S, _PAUSE_MAX_S, _BUSY_PAUSE_S = 1.0, 30.0, 0.5
"""Pauses before a flush is retried: after failures, and after it met a held lock."""

_DROPPED_POLL_S: Final = 10.0
"""Interval of the check for collections that another process has dropped."""

_FLUSH, _PURGE, _POLL = "flush", "purge", "poll"

_log = logging.getLogger("vecdb.engine")


class Upkeep:
    """Flushes and purges one collection at a time. Safe to use from many threads.

    Args:
        find: returns the open collection of an id, or None.
        on_flushed: called with the id of a collection after its flush.
        on_poll: called before each task, and every few seconds.
    """

    def __init__(
        self,
        find: Callable[[str], OpenCollection | None],
        *,
        on_flushed: Callable[[str], None],
        on_poll: Callable[[], None],
    ) -> None:
        self._find = find
        self._on_flushed = on_flushed
        self._on_poll = on_poll
        self._changed = threading.Condition()
        self._to_flush: set[str] = set()
        self._flush_failures: BackOff[str] = BackOff(_PAUSE_FIRST_S, _PAUSE_MAX_S)
        self._purge_at: dict[str, float] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="vecdb-upkeep", daemon=True)
        self._thread.start()

    def flush(self, collection_id: str) -> None:
        """Request a flush; ignored during the pause after a failed one."""
        if self._flush_failures.is_early(collection_id):
            return
        with self._changed:
            self._to_flush.add(collection_id)
            self._changed.notify()

    def purge_later(self, collection_id: str) -> None:
        """Request purging once the grace period is over."""
        if collection_id in self._purge_at:
            return
        with self._changed:
            self._purge_at.setdefault(collection_id, time.monotonic() + GRACE_S + _FLUSH_POLL_S)
            self._changed.notify()

    def purge_now(self, collection_id: str) -> None:
        """Request purging at once."""
        with self._changed:
            self._purge_at[collection_id] = time.monotonic()
            self._changed.notify()

    def status(self, collection_id: str) -> str:
        """Return what fails, for ``stats``; empty if nothing does."""
        failure = self._flush_failures.failure(collection_id)
        if failure is None:
            return ""
        return (
            f"; the memtable could not be flushed ({failure.count} times in a row): {failure.why}"
        )

    def forget(self, collection_id: str) -> None:
        """Forget the failures of a dropped collection."""
        self._flush_failures.succeeded(collection_id)

    def close(self) -> None:
        """Complete the requested flushes and end the thread; purging stops after its step."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            collection_id, kind = task
            try:
                self._on_poll()
                opened = self._find(collection_id)
                if opened is not None:
                    self._do(opened, kind)
                else:
                    self.forget(collection_id)  # A retry would be due forever.
            except (NotFoundError, FailedPreconditionError):
                self.forget(collection_id)  # Dropped or closed in the meantime.
            except Exception as error:
                # The thread must survive: without it nothing is flushed until the next open.
                where = f" of collection {collection_id}" if collection_id else ""
                _log.warning("%s%s failed: %s", kind, where, error)
                if kind == _FLUSH:
                    self._flush_failures.failed(collection_id, str(error))

    def _do(self, opened: OpenCollection, kind: str) -> None:
        if kind == _FLUSH:
            if opened.flush():
                self._flush_failures.succeeded(opened.id)
            else:
                # The lock was held, perhaps by the indexer for a moment. Retry, since there may be
                # no further commit that requests the flush.
                self._flush_failures.postpone(opened.id, _BUSY_PAUSE_S)
            self._on_flushed(opened.id)
        else:
            opened.purge_old(self._is_closed)
        opened.trim(self._is_closed)

    def _is_closed(self) -> bool:
        return self._closed

    def _next(self) -> tuple[str, str] | None:
        """Return the next collection id and task, or None at the end; a poll has an empty id."""
        with self._changed:
            while True:
                self._to_flush.update(self._flush_failures.due())
                if self._to_flush:
                    return self._to_flush.pop(), _FLUSH
                if self._closed:
                    return None
                first = min(self._purge_at, key=self._purge_at.__getitem__, default=None)
                if first is not None and self._purge_at[first] <= time.monotonic():
                    del self._purge_at[first]
                    return first, _PURGE
                wait_s = _DROPPED_POLL_S
                if first is not None:
                    wait_s = min(wait_s, self._purge_at[first] - time.monotonic())
                if self._flush_failures:
                    wait_s = min(wait_s, _FLUSH_POLL_S)
                if not self._changed.wait(max(0.0, wait_s)) and wait_s == _DROPPED_POLL_S:
                    return "", _POLL
