"""The background thread that flushes and purges, with stand-ins for open collections."""

from __future__ import annotations

import threading
from typing import cast

from tests.waiting import HANG_S
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.runtime.upkeep import Upkeep


class LockedCollection:
    """Another process holds the lock of its flushes."""

    id = "abc"

    def flush(self) -> bool:
        return False

    def trim(self, is_cancelled: object) -> None:
        pass


def test_retry_of_a_flush_ends_when_the_collection_is_no_longer_open() -> None:
    """The flush met a held lock; the collection is dropped before the retry. Nothing is left to
    retry, so the thread ends when it is asked to."""
    looked_up = threading.Semaphore(0)
    found = [cast(OpenCollection, LockedCollection())]

    def find(collection_id: str) -> OpenCollection | None:
        looked_up.release()
        return found.pop() if found else None

    upkeep = Upkeep(find, on_flushed=lambda collection_id: None, on_poll=lambda: None)
    upkeep.flush("abc")
    for _ in range(2):  # The flush, and its retry after a pause.
        assert looked_up.acquire(timeout=HANG_S)
    closing = threading.Thread(target=upkeep.close, daemon=True)
    closing.start()
    closing.join(HANG_S)
    assert not closing.is_alive()
