"""The metrics of a server.

vecdb_calls_total             calls that have ended, by rpc and status code
vecdb_call_duration_seconds   time in the service, by rpc; waiting for a worker is not in it
vecdb_calls_open              calls that have begun and not ended
vecdb_calls_running           those of them that the service works on
vecdb_write_queue_bytes       batches that wait to be committed
vecdb_collection_…            see ``collections``
process_…                     memory, CPU time and descriptors of the process
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

import vecdb
from vecdb_server.metrics.collections import Collections

if TYPE_CHECKING:
    from vecdb.engine.runtime.runtime import Runtime

__all__ = ["TEXT_TYPE", "CallMetrics", "Metrics"]

TEXT_TYPE: Final = CONTENT_TYPE_LATEST
"""Content type of the text format."""

_BUCKETS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 60.0),
)


class Metrics:
    """The metrics of one server.

    Args:
        runtime: returns the open folder, None without one.
        open_calls: returns the number of open calls.
        running_calls: returns the number of running calls.
    """

    def __init__(
        self,
        runtime: Callable[[], Runtime | None],
        open_calls: Callable[[], int],
        running_calls: Callable[[], int],
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._calls = Counter(
            "vecdb_calls", "Calls that have ended.", ("call", "code"), registry=self._registry
        )
        self._durations = Histogram(
            "vecdb_call_duration_seconds",
            "Time that the service took for a call, without waiting.",
            ("call",),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._gauge("vecdb_calls_open", "Calls that have begun and not ended.", open_calls)
        self._gauge("vecdb_calls_running", "Calls that the service works on.", running_calls)

        def queued_bytes() -> int:
            opened = runtime()
            return 0 if opened is None else opened.writer.queued_bytes

        self._gauge("vecdb_write_queue_bytes", "Batches that wait to be committed.", queued_bytes)
        Info("vecdb_server", "Version of the server.", registry=self._registry).info(
            {"version": vecdb.__version__}
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(Collections(runtime))

    def of_call(self, call: str) -> CallMetrics:
        """Return what counts the calls of one rpc."""
        return CallMetrics(self._calls, self._durations, call)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, what: str, value: Callable[[], int]) -> None:
        Gauge(name, what, registry=self._registry).set_function(value)


class CallMetrics:
    """Counts the calls of one rpc. Thread-safe."""

    def __init__(self, calls: Counter, durations: Histogram, call: str) -> None:
        self._calls, self._call = calls, call
        self._succeeded = calls.labels(call, "OK")
        self._duration = durations.labels(call)

    def took(self, seconds: float) -> None:
        """Note the time that the service took."""
        self._duration.observe(seconds)

    def succeeded(self) -> None:
        """Count a call that was answered."""
        self._succeeded.inc()

    def failed(self, code: str) -> None:
        """Count a call that ended with an error."""
        self._calls.labels(self._call, code).inc()
