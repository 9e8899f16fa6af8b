"""The thread of an open database that seals what was written and purges what has died.

Sealing is asked for by a commit that brought enough fresh rows; purging comes by itself a minute
after a commit that left something to purge. Either is only for speed and space: what fails is told
in the log and asked for again by a later commit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from vecdb.engine.open_collection import OpenCollection
from vecdb.engine.purging import GRACE_S
from vecdb.errors import FailedPreconditionError, NotFoundError

__all__ = ["Upkeep"]

_PAUSE_S: Final = 1.0
"""After a failure."""

_log = logging.getLogger("vecdb.engine")


class Upkeep:
    """Takes collections in turn. Safe to use from many threads.

    Args:
        find: the open collection of an id, or None.
        seal_bytes: fresh rows that are sealed.
        on_sealed: called with the id of a collection that was sealed.
    """

    def __init__(
        self,
        find: Callable[[str], OpenCollection | None],
        seal_bytes: int,
        on_sealed: Callable[[str], None],
    ) -> None:
        self._find = find
        self._seal_bytes = seal_bytes
        self._on_sealed = on_sealed
        self._changed = threading.Condition()
        self._to_seal: set[str] = set()
        self._purge_at: dict[str, float] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="vecdb-upkeep", daemon=True)
        self._thread.start()

    def seal(self, collection_id: str) -> None:
        """There are fresh rows to be sealed."""
        with self._changed:
            self._to_seal.add(collection_id)
            self._changed.notify()

    def purge_later(self, collection_id: str) -> None:
        """There is something to purge once its grace is over."""
        if collection_id in self._purge_at:
            return
        with self._changed:
            self._purge_at.setdefault(collection_id, time.monotonic() + GRACE_S + _PAUSE_S)
            self._changed.notify()

    def close(self) -> None:
        """Seal what was asked for, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            collection_id, is_seal = task
            opened = self._find(collection_id)
            if opened is None:
                continue
            try:
                if is_seal:
                    opened.seal(self._seal_bytes)
                else:
                    opened.purge_old()
                opened.trim()
            except (NotFoundError, FailedPreconditionError):
                continue  # Dropped or closed meanwhile.
            except Exception as error:
                # Nothing may end this thread.
                what = "sealing" if is_seal else "purging"
                _log.warning("%s in %s: %s", what, opened.folder, error)
                time.sleep(_PAUSE_S)
            if is_seal:
                self._on_sealed(collection_id)

    def _next(self) -> tuple[str, bool] | None:
        """A collection and whether it is to be sealed, otherwise purged; None at the end."""
        with self._changed:
            while True:
                if self._to_seal:
                    return self._to_seal.pop(), True
                if self._closed:
                    return None
                first = min(self._purge_at, key=self._purge_at.__getitem__, default=None)
                left_s = None
                if first is not None:
                    left_s = self._purge_at[first] - time.monotonic()
                    if left_s <= 0:
                        del self._purge_at[first]
                        return first, False
                self._changed.wait(left_s)
