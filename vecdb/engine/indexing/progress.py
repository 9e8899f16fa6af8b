"""What the indexer does and how long it will take, from the events of its child process.

The rate is measured over the last ``_WINDOW_S`` up to now, so an estimate follows the load of the
machine, and grows while nothing moves. Inserting rows is most of the work; what comes after it, the
measuring of recall and the writing of files, is named but not estimated.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["BuildProgress"]

_WINDOW_S: Final = 60.0

_BUSY_CORES: Final = 0.75
"""With fewer cores than this the machine counts as busy: a build keeps one busy at least."""

_BUSY_AFTER_S: Final = 5.0
"""Over shorter times the share of a core says little."""


_PHASES: Final = {
    "choosing": "comparing ways to build on a sample",
    "finishing": "measuring recall and writing files",
}


class _Mark(NamedTuple):
    at: float
    rows: int
    cpu_s: float


class BuildProgress:
    """The progress of one build. Not thread-safe.

    Args:
        clock: monotonic, in seconds.

    Attributes:
        collection: id of the collection; "" before the first event.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.collection = ""
        self._phase, self._total = "", 0
        self._marks: deque[_Mark] = deque()

    def note(self, event: Mapping[str, Any]) -> None:
        """Record an event of ``CollectionIndexer``: "building", "choosing", "progress" or
        "finishing"."""
        if event["event"] == "building" or event["collection"] != self.collection:
            self._marks.clear()
        self.collection = event["collection"]
        self._phase = event["event"]
        self._total = event.get("of", event.get("rows", 0))
        if self._phase == "progress":
            mark = _Mark(self._clock(), event["rows"], event.get("cpu_s", 0.0))
            self._marks.append(mark)
            while len(self._marks) > 2 and self._marks[1].at < mark.at - _WINDOW_S:
                self._marks.popleft()

    def seconds_left(self) -> float | None:
        """Return the estimated seconds until all rows are inserted; None without a rate."""
        if self._phase != "progress" or len(self._marks) < 2:
            return None
        first, last = self._marks[0], self._marks[-1]
        rows = last.rows - first.rows
        if rows <= 0:
            return None
        # To now, not to the last event: while none comes, the rate falls.
        return (self._total - last.rows) * (self._clock() - first.at) / rows

    def cores(self) -> float | None:
        """Return how many cores the build has had; None if it was not measured long enough."""
        if len(self._marks) < 2:
            return None
        first, last = self._marks[0], self._marks[-1]
        if last.at - first.at < _BUSY_AFTER_S:
            return None
        return (last.cpu_s - first.cpu_s) / (last.at - first.at)

    def text(self) -> str:
        """Return it as one line."""
        total = f"{self._total:,} row{'s' if self._total != 1 else ''}"
        if self._phase in _PHASES:
            return f"building ({total}: {_PHASES[self._phase]})"
        if self._phase != "progress":
            return f"building ({total})"
        parts = [f"{self._marks[-1].rows:,} of {total}"]
        left_s, cores = self.seconds_left(), self.cores()
        if left_s is not None:
            parts.append(f"{_duration(left_s)} left")
        if cores is not None and cores < _BUSY_CORES:
            parts.append(f"the machine is busy, it gets {cores:.1f} cores")
        return f"building ({', '.join(parts)})"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    if seconds < 100 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.0f} h"
