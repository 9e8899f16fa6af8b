"""The thread of an open database that seals what was written and purges what has died.

Sealing is asked for by a commit that brought enough fresh rows; purging comes by itself a minute
after a commit that left something to purge. Between them, and every few seconds, it looks whether
other processes have dropped what is open here. All of that is only for speed and space: what fails
is told in the log and asked for again by a later commit. Closing waits for a step of purging at
most; who opens the collection next goes on with the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.segments.flush_failures import FlushFailures
from vecdb.engine.store.purging import GRACE_S
from vecdb.errors import FailedPreconditionError, NotFoundError

__all__ = ["Upkeep"]

_FLUSH_POLL_S: Final = 0.5
"""So often it is looked whether what failed is to be tried again."""

_LOOK_S: Final = 10.0
"""So often the catalogue is asked whether another process has dropped what is open here."""

_SEAL, _PURGE, _LOOK = "sealing", "purging", "a look"

_log = logging.getLogger("vecdb.engine")


class Upkeep:
    """Takes collections in turn. Safe to use from many threads.

    Args:
        find: the open collection of an id, or None.
        on_flushed: called with the id of a collection that was sealed.
        on_look: called every few seconds.
    """

    def __init__(
        self,
        find: Callable[[str], OpenCollection | None],
        *,
        on_flushed: Callable[[str], None],
        on_look: Callable[[], None],
    ) -> None:
        self._find = find
        self._on_flushed = on_flushed
        self._on_look = on_look
        self._changed = threading.Condition()
        self._to_flush: set[str] = set()
        self._flush_failures = FlushFailures()
        self._purge_at: dict[str, float] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="vecdb-upkeep", daemon=True)
        self._thread.start()

    def flush(self, collection_id: str) -> None:
        """There are fresh rows to be sealed; not yet if that has just failed."""
        if self._flush_failures.is_early(collection_id):
            return
        with self._changed:
            self._to_flush.add(collection_id)
            self._changed.notify()

    def purge_later(self, collection_id: str) -> None:
        """There is something to purge once its grace is over."""
        if collection_id in self._purge_at:
            return
        with self._changed:
            self._purge_at.setdefault(collection_id, time.monotonic() + GRACE_S + _FLUSH_POLL_S)
            self._changed.notify()

    def purge_now(self, collection_id: str) -> None:
        """There is far too much to purge."""
        with self._changed:
            self._purge_at[collection_id] = time.monotonic()
            self._changed.notify()

    def status(self, collection_id: str) -> str:
        """For ``stats``: what fails; empty if all is well."""
        return self._flush_failures.status(collection_id)

    def forget(self, collection_id: str) -> None:
        """The collection was dropped."""
        self._flush_failures.settled(collection_id)

    def close(self) -> None:
        """Seal what was asked for, then end; what is being purged is left after its step."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            collection_id, what = task
            try:
                self._on_look()
                opened = self._find(collection_id)
                if opened is not None:
                    self._tend(opened, what)
            except (NotFoundError, FailedPreconditionError):
                self.forget(collection_id)  # Dropped or closed meanwhile.
            except Exception as error:
                # Nothing may end this thread.
                _log.warning("%s in collection %s: %s", what, collection_id or "any", error)
                if what == _SEAL:
                    self._flush_failures.failed(collection_id, str(error))

    def _tend(self, opened: OpenCollection, what: str) -> None:
        if what == _SEAL:
            opened.flush()
            self._flush_failures.settled(opened.id)
            self._on_flushed(opened.id)
        else:
            opened.purge_old(self._is_closed)
        opened.trim(self._is_closed)

    def _is_closed(self) -> bool:
        return self._closed

    def _next(self) -> tuple[str, str] | None:
        """A collection and what it needs; none but a look is the empty id; None at the end."""
        with self._changed:
            while True:
                self._to_flush |= self._flush_failures.due()
                if self._to_flush:
                    return self._to_flush.pop(), _SEAL
                if self._closed:
                    return None
                first = min(self._purge_at, key=self._purge_at.__getitem__, default=None)
                if first is not None and self._purge_at[first] <= time.monotonic():
                    del self._purge_at[first]
                    return first, _PURGE
                wait_s = _LOOK_S
                if first is not None:
                    wait_s = min(wait_s, self._purge_at[first] - time.monotonic())
                if self._flush_failures:
                    wait_s = min(wait_s, _FLUSH_POLL_S)
                if not self._changed.wait(max(0.0, wait_s)) and wait_s == _LOOK_S:
                    return "", _LOOK
