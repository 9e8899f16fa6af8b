"""The iterator of ``scroll``: pages one after the other, embedded and remote alike.

It knows only how a page is fetched for a token and how a scroll is ended. ``fetch`` begins to fetch
a page and gives back a function that waits for it, so that a client has the next page on its way
while its caller works on the present one.
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
    """All rows of a collection as they were at one seq, in pages; made by ``Collection.scroll``.

    An iterator and a context manager, for one thread at a time. It ends with the last page, with an
    error, or with ``close``; one that is let go before that is ended in the background.
    """

    def __init__(
        self,
        fetch: Callable[[str | None], Callable[[], ScrollPage]],
        end: Callable[[str], None],
    ) -> None:
        self._fetch, self._end = fetch, end
        self._coming: Callable[[], ScrollPage] | None = None
        self._token: str | None = None
        self._finished = False

    def __iter__(self) -> Scroll:
        return self

    def __next__(self) -> Records:
        """The next page; never an empty one.

        Raises:
            FailedPreconditionError: PIN_EXPIRED: the last page was asked for too long ago.
        """
        while not self._finished:
            try:
                page = (self._coming or self._fetch(None))()
            except BaseException:
                with contextlib.suppress(VecdbError):
                    self.close()
                raise
            self._token, self._coming = page.next_token, None
            if page.next_token is None:
                self._finished = True
            else:
                self._coming = self._fetch(page.next_token)
            if len(page.records):
                return page.records
        raise StopIteration

    def close(self) -> None:
        """End it: what it holds may be purged. Closing twice is fine."""
        self._finished, self._coming = True, None
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
        with contextlib.suppress(VecdbError):  # Its lease ends by itself.
            self.close()

    def __del__(self) -> None:
        # Objects are let go at any point of any thread, also inside a write transaction, where
        # beginning another would wait for itself: so it is done in a thread of its own, started
        # without the locks that a threading.Thread takes.
        if self._token is not None:
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(_end_quietly, (self._end, self._token))


def _end_quietly(end: Callable[[str], None], token: str) -> None:
    with contextlib.suppress(Exception):
        end(token)
