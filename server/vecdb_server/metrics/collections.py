"""The metrics of the collections that a server has open, read when they are asked for.

    vecdb_collection_rows                       live rows
    vecdb_collection_memtable_rows              those in the memtable
    vecdb_collection_unindexed_rows             those in no graph
    vecdb_collection_deleted_rows               deleted rows in segments
    vecdb_collection_segments{kind}             flat and graph
    vecdb_collection_seq                        batches so far
    vecdb_collection_store_bytes                LMDB file
    vecdb_collection_segment_bytes              files of the segments
    vecdb_collection_backlog_bytes              rows in no graph, as of the last write
    vecdb_collection_write_delay_seconds        delay of an upsert, by which the indexer can keep up
    vecdb_collection_readers                    open read transactions of all processes
    vecdb_collection_oldest_reader_lag          commits since the oldest of them began
    vecdb_collection_oldest_lease_seconds       until the oldest snapshot lease expires
    vecdb_collection_recall{window,statistic}   hour and day; measured, low, high, promised
    vecdb_collection_recall_queries{window}     queries of which recall was measured

A collection that no call has used since the start is not open, and not listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vecdb.collection_stats import CollectionStats
from vecdb.errors import VecdbError

if TYPE_CHECKING:
    from vecdb.engine.runtime.runtime import Runtime

__all__ = ["Collections"]

_PREFIX: Final = "vecdb_collection_"

_VALUES: Final[dict[str, tuple[str, Callable[[CollectionStats], float]]]] = {
    "rows": ("Live rows.", lambda s: s.live_count),
    "memtable_rows": ("Live rows in the memtable.", lambda s: s.fresh_rows),
    "unindexed_rows": ("Live rows in no graph.", lambda s: s.unindexed_rows),
    "deleted_rows": ("Deleted rows in segments.", lambda s: sum(each.dead for each in s.segments)),
    "seq": ("Batches so far.", lambda s: s.seq),
    "store_bytes": ("Size of the LMDB file.", lambda s: s.store_bytes),
    "segment_bytes": ("Size of the files of segments.", lambda s: s.segment_bytes),
    "backlog_bytes": ("Size of rows in no graph, as of the last write.", lambda s: s.backlog_bytes),
    "write_delay_seconds": (
        "Delay of an upsert, by which the indexer can keep up.",
        lambda s: s.write_delay_s,
    ),
    "readers": ("Open read transactions of all processes.", lambda s: s.readers),
    "oldest_reader_lag": ("Commits since the oldest began.", lambda s: s.oldest_reader_lag),
    "oldest_lease_seconds": (
        "Time until the oldest snapshot lease expires; 0 without one.",
        lambda s: s.oldest_pin_expires_s or 0.0,
    ),
}


class Collections(Collector):
    """Collects the metrics of open collections.

    Args:
        runtime: returns the open folder, None without one.
    """

    def __init__(self, runtime: Callable[[], Runtime | None]) -> None:
        self._runtime = runtime

    def describe(self) -> list[Metric]:
        """Return nothing: the registry need not collect in order to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics of all open collections."""
        found = self._stats()
        for name, (what, value) in _VALUES.items():
            family = GaugeMetricFamily(_PREFIX + name, what, labels=("collection",))
            for collection, stats in found.items():
                family.add_metric((collection,), value(stats))
            yield family
        yield _segments(found)
        yield from _recall(found)

    def _stats(self) -> dict[str, CollectionStats]:
        runtime = self._runtime()
        found: dict[str, CollectionStats] = {}
        if runtime is None:
            return found
        for opened in list(runtime.collections.values()):
            try:
                found[runtime.catalog.describe(opened.id).name] = runtime.stats(opened)
            except VecdbError:
                continue  # Dropped or closed in the meantime; or damaged, which calls report.
        return found


def _segments(found: dict[str, CollectionStats]) -> Metric:
    family = GaugeMetricFamily(
        f"{_PREFIX}segments", "Segments, by kind.", labels=("collection", "kind")
    )
    for collection, stats in found.items():
        counts = Counter(each.kind for each in stats.segments)
        for kind in ("flat", "graph"):
            family.add_metric((collection, kind), counts[kind])
    return family


def _recall(found: dict[str, CollectionStats]) -> Iterator[Metric]:
    recall = GaugeMetricFamily(
        f"{_PREFIX}recall",
        "Recall of a sample of the real queries, and what was promised.",
        labels=("collection", "window", "statistic"),
    )
    queries = GaugeMetricFamily(
        f"{_PREFIX}recall_queries",
        "Queries of which recall was measured.",
        labels=("collection", "window"),
    )
    for collection, stats in found.items():
        for window, measured in (("hour", stats.recall_hour), ("day", stats.recall_day)):
            if measured is None:
                continue
            queries.add_metric((collection, window), measured.queries)
            for value in ("measured", "low", "high", "promised"):
                recall.add_metric((collection, window, value), getattr(measured, value))
    yield recall
    yield queries
