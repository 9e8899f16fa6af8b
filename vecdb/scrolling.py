"""The iterator of ``scroll``, embedded and remote alike.

It needs two functions: one that fetches the page of a token, one that ends the scroll. ``fetch``
starts to fetch a page and returns a function that waits for it, so that a client can fetch the next
page while its caller processes the current one.
"""

from __future__ import annotations

import _thread
import contextlib
from collections.abc import Callable
from types import TracebackType

from vecdb.errors import VecdbError
from vecdb.types import Records, ScrollPage

__all__ = ["Scroll"]


class Scroll:
    """All rows of a collection at one seq, in pages; returned by ``Collection.scroll``.

    An iterator and a context manager; not thread-safe. It ends with the last page, with an error,
    or with ``close``. If it is garbage-collected earlier, a background thread ends it.
    """

    def __init__(
        self,
        fetch: Callable[[str | None], Callable[[], ScrollPage]],
        end: Callable[[str], None],
    ) -> None:
        self._fetch, self._end = fetch, end
        self._pending: Callable[[], ScrollPage] | None = None
        self._token: str | None = None
        self._finished = False

    def __iter__(self) -> Scroll:
        return self

    def __next__(self) -> Records:
        """Return the next page; it is never empty.

        Raises:
            FailedPreconditionError: PIN_EXPIRED: the lease expired, since too much time passed
                after the last page (``limits.LEASE_S``).
        """
        while not self._finished:
            try:
                page = (self._pending or self._fetch(None))()
            except BaseException:
                with contextlib.suppress(VecdbError):
                    self.close()
                raise
            self._token, self._pending = page.next_token, None
            if page.next_token is None:
                self._finished = True
            else:
                self._pending = self._fetch(page.next_token)
            if len(page.records):
                return page.records
        raise StopIteration

    def close(self) -> None:
        """End the scroll and its lease, so that rows it kept can be purged. Idempotent."""
        self._finished, self._pending = True, None
        token, self._token = self._token, None
        if token is not None:
            self._end(token)

    def __enter__(self) -> Scroll:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(VecdbError):  # Its lease expires anyway.
            self.close()

    def __del__(self) -> None:
        # Python may call this at any point of any thread, also inside a write transaction, where
        # beginning another one would deadlock. So another thread ends the scroll. It is started
        # through _thread, since starting a threading.Thread takes locks.
        if self._token is not None:
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(_end_quietly, (self._end, self._token))


def _end_quietly(end: Callable[[str], None], token: str) -> None:
    with contextlib.suppress(Exception):
        end(token)
