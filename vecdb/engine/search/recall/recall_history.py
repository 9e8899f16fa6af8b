"""Measured recall by the minute, for a day.

The interval of a mean is two standard errors to each side. The standard error counts one more
neighbour found and one more missed, so that it is not 0 if all were found.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

from vecdb.collection_stats import MeasuredRecall

__all__ = ["DAY_S", "HOUR_S", "RecallHistory"]

HOUR_S: Final = 3_600
DAY_S: Final = 86_400
_MINUTE_S: Final = 60
_MINUTES: Final = DAY_S // _MINUTE_S
_DEVIATIONS: Final = 2.0


@dataclass
class _Bucket:
    """Sums over the queries of one minute."""

    minute: int
    queries: int = 0
    neighbours: int = 0
    recall: float = 0.0
    squares: float = 0.0
    promised: float = 0.0


class RecallHistory:
    """The recall of the last day. Thread-safe; holds at most a bucket for each minute.

    Times are seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: deque[_Bucket] = deque(maxlen=_MINUTES)

    def add(self, now: float, recall: float, neighbours: int, promised: float) -> None:
        """Add a measured query.

        Args:
            recall: share of the true nearest rows that were found.
            neighbours: number of the true nearest rows.
            promised: the target of the search.
        """
        minute = int(now // _MINUTE_S)
        with self._lock:
            if not self._buckets or self._buckets[-1].minute != minute:
                self._buckets.append(_Bucket(minute))
            bucket = self._buckets[-1]
            bucket.queries += 1
            bucket.neighbours += neighbours
            bucket.recall += recall
            bucket.squares += recall * recall
            bucket.promised += promised

    def over(self, now: float, seconds: int) -> MeasuredRecall | None:
        """Return the recall of the last seconds, to the minute; None if nothing was measured."""
        first = int(now // _MINUTE_S) - seconds // _MINUTE_S
        with self._lock:
            while self._buckets and self._buckets[0].minute <= int(now // _MINUTE_S) - _MINUTES:
                self._buckets.popleft()
            chosen = [bucket for bucket in self._buckets if bucket.minute > first]
            queries = sum(bucket.queries for bucket in chosen)
            neighbours = sum(bucket.neighbours for bucket in chosen)
            recall = sum(bucket.recall for bucket in chosen)
            squares = sum(bucket.squares for bucket in chosen)
            promised = sum(bucket.promised for bucket in chosen)
        if queries == 0:
            return None
        mean = recall / queries
        share = (mean * neighbours + 1) / (neighbours + 2)
        least = share * (1 - share) * queries / neighbours
        error = math.sqrt(max(squares / queries - mean * mean, least) / queries)
        low, high = mean - _DEVIATIONS * error, mean + _DEVIATIONS * error
        return MeasuredRecall(mean, max(0.0, low), min(1.0, high), queries, promised / queries)
