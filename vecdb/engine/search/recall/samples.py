"""Samples of real queries, left by searches for the recall meter (``meter``).

While a tap is armed, the next search with a target of recall leaves a copy of its first query and
disarms it; any other search reads one attribute. The meter arms it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.plan import Wish

__all__ = ["SAMPLES_MAX", "Sample", "SampleTap"]

SAMPLES_MAX: Final = 16
"""Samples that wait at most. They are scanned together, which reads the rows once for all."""

K_MAX: Final = 1_000
"""Searches for more rows are not sampled: heaps that large would take longer than the scan."""


class Sample(NamedTuple):
    """One real query.

    Attributes:
        query: float32 (width,), prepared for the kernels.
        k, wish: as it was asked for; the wish is a target.
    """

    query: npt.NDArray[np.float32]
    k: int
    wish: Wish


class SampleTap:
    """Takes samples of one collection's searches. Thread-safe; holds few queries and no snapshot.

    Attributes:
        armed: whether the next search leaves a sample.
        on_sample: called after a sample was left; must not block.
    """

    def __init__(self) -> None:
        self.armed = False
        self.on_sample: Callable[[], None] = lambda: None
        self._closed = False
        self._waiting: deque[Sample] = deque(maxlen=SAMPLES_MAX)

    def has_samples(self) -> bool:
        """Return whether samples wait."""
        return bool(self._waiting)

    def take(self, query: npt.NDArray[np.float32], k: int, wish: Wish) -> None:
        """Leave a sample, unless the search had no target of recall."""
        if self._closed or wish.ef is not None or wish.exact or wish.target >= 1 or k > K_MAX:
            return
        self.armed = False
        self._waiting.append(Sample(query.copy(), k, wish))
        self.on_sample()

    def has_room(self) -> bool:
        """Return whether it may take one more sample."""
        return not self._closed and len(self._waiting) < SAMPLES_MAX

    def drain(self) -> list[Sample]:
        """Remove and return the samples that wait."""
        samples: list[Sample] = []
        while True:
            try:
                samples.append(self._waiting.popleft())
            except IndexError:
                return samples

    def close(self) -> None:
        """Take no more samples, even if armed, and drop those that wait."""
        self._closed = True
        self.armed = False
        self._waiting.clear()
