"""Comparing segments with their checksums in the background, after they were opened.

``info.verified`` of an answer means that all segments it came from are known to hold the bytes that
were written. A process knows this of a segment

- that it compared completely with the checksums in the manifest since it mapped the files; or
- that was reserved, written and read back after this process opened the collection, so that its
  files have been in use all the time.

A comparison stays valid if the same files are mapped again, as when an evicted store is reopened,
as long as their inodes and times are the same. A mark in the store would not do: bytes may change
while the folder is closed.

Comparing reads all bytes (about a second for a gigabyte), and opening must not wait for that. So
one thread a process compares one segment at a time, and pauses for as long as it works. Until it is
done, answers have ``verified`` False. A damaged segment is quarantined: the store serves its rows
until the indexer has rebuilt it. A damaged optional part is dropped, and the segment stays in use.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from vecdb.engine.segments.segment import Segment, SegmentDamagedError
from vecdb.engine.store.store import Store
from vecdb.errors import FailedPreconditionError, NotFoundError

__all__ = ["VerifiedSegments", "Verifier"]

_Compare = Callable[[Segment, Callable[[], None]], Any]

_BEGIN_AFTER_S = 0.5
"""Delay before the first comparison, so that the first searches have the disk to themselves."""

_REST_S_MAX = 0.05
"""Longest pause between pieces of work, and how often a waiting comparison looks for its end."""

_COMPARED_MAX = 64
"""Compared segments that are remembered for a collection, which has about sixteen at a time."""

_log = logging.getLogger("vecdb.engine")


class _ClosingError(Exception):
    """The verifier is closing."""


class Verifier:
    """The thread that compares segments. Safe to use from many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Weak, so that a queued segment does not keep files of an evicted collection open.
        self._waiting: deque[tuple[weakref.ref[Segment], _Compare]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, segment: Segment, compare: _Compare) -> None:
        """Queue a segment for comparison.

        Args:
            compare: called with the segment and a function to call between pieces of work.
        """
        with self._changed:
            if self._closed:
                return
            self._waiting.append((weakref.ref(segment), compare))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="vecdb-verifier", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; queued segments are not compared."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                self._changed.wait_for(lambda: self._closed, timeout=_BEGIN_AFTER_S)
                if self._closed:
                    return
                reference, compare = self._waiting.popleft()
            try:
                self._compare(reference, compare)
            except _ClosingError:
                return

    def _compare(self, reference: weakref.ref[Segment], compare: _Compare) -> None:
        segment = reference()
        if segment is None or segment.verified:
            return
        try:
            compare(segment, _Pace(self._check_open))
        except (_ClosingError, NotFoundError, FailedPreconditionError):
            self._check_open()  # If not closing, the collection was dropped or closed.
        except Exception as error:
            # The segment stays unverified, and is compared when it is opened the next time.
            _log.warning("comparing %s: %s", segment.folder, error)

    def _check_open(self) -> None:
        if self._closed:
            raise _ClosingError


class _Pace:
    """Called between pieces of work: pauses for as long as the last piece took."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._since = time.monotonic()

    def __call__(self) -> None:
        self._check()
        time.sleep(min(_REST_S_MAX, time.monotonic() - self._since))
        self._since = time.monotonic()


class VerifiedSegments:
    """The segments of a collection that this process has verified. Safe for many threads.

    Args:
        lose: called with the number of a segment that is damaged, or whose files are gone; returns
            whether it was in place.
        lose_parts: called with a segment whose ``damaged_parts`` were dropped.
        verifier: None: segments stay unverified until ``compare`` is called, even those that were
            written while the collection was open.
    """

    def __init__(
        self,
        store: Store,
        lose: Callable[[int], bool],
        lose_parts: Callable[[Segment], None],
        verifier: Verifier | None,
    ) -> None:
        self._lose = lose
        self._lose_parts = lose_parts
        self._verifier = verifier
        self._compared: dict[int, tuple[int, ...]] = {}
        self._comparing = threading.Lock()
        if verifier is not None:
            with store.environment.read() as transaction:
                self._written_since = store.read_counters(transaction).next_segment

    def opened(self, segment: Segment) -> None:
        """Mark a newly mapped segment as verified if it is known to be, else queue it."""
        if self._verifier is None:
            return
        seen_as = self._compared.get(segment.number)
        written_here = seen_as is None and segment.number >= self._written_since
        if written_here or seen_as == segment.signature:
            self._note(segment)
        else:
            self._verifier.add(segment, self.compare)

    def compare(self, segment: Segment, check: Callable[[], None]) -> bool:
        """Compare a segment now.

        Args:
            check: called every few milliseconds, to raise if the work should end.

        Returns:
            False if a needed part is damaged, or if its files are gone.
        """
        while not self._comparing.acquire(timeout=_REST_S_MAX):
            check()
        try:
            if not segment.verified:
                segment.verify(check)
        except (SegmentDamagedError, FileNotFoundError, NotADirectoryError) as damage:
            if self._lose(segment.number):
                _log.warning("%s; its rows are served from the store until it is rebuilt", damage)
            return False
        finally:
            self._comparing.release()
        if segment.damaged_parts:
            for name, why in segment.damaged_parts.items():
                _log.warning("%s; segment %d goes on without %s", why, segment.number, name)
            self._lose_parts(segment)
        self._note(segment)
        return True

    def _note(self, segment: Segment) -> None:
        segment.verified = True
        self._compared[segment.number] = segment.signature
        while len(self._compared) > _COMPARED_MAX:
            del self._compared[next(iter(self._compared))]
