"""Latency of single queries with several concurrent clients, each in its own process.

In the closed loop each client sends its next query as soon as it has the answer. The open loops
have fixed arrival rates, 50 % and 90 % of the rate that the closed loop reached with as many
clients; latency is measured from the time at which a query was due (``targets.timing``). The bare
echo is measured in the same way: latency above the echo's is the cost of the database. The effort
is 128 for all targets; recall is reported with the latency.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vecdb_bench.figures import latency_figures, percentile, summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.process import WorkerProcess

__all__ = ["EFFORT", "TITLE", "run"]

TITLE = "Latency of single queries"
EFFORT = 128
K = 10
_LOADS = (0.5, 0.9)
_BEGIN_IN_S = 0.2
_QUANTILES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 99.99, 100)


def run(context: Context) -> None:
    """Measure the points that are not in the results; the echo is an additional target."""
    for target in ("echo", *context.targets):
        points = list(_points(context, target))
        if all(context.known(target, **point) for point in points):
            continue
        with context.attempt(target, **points[0]), Bench(context) as bench:
            _measure(context, bench, target)


def _points(context: Context, target: str) -> Iterator[dict[str, object]]:
    """Yield the points of a target; without open loops if it cannot serve so many clients."""
    for clients in context.scale.clients:
        closed: dict[str, object] = {"clients": clients, "loop": "closed"}
        yield closed
        known = context.known(target, **closed)
        if known is not None and known["status"] == "cannot":
            continue
        for load in _LOADS:
            yield {"clients": clients, "loop": f"{load:.0%} of closed"}


def _measure(context: Context, bench: Bench, target: str) -> None:
    context.say(f"{target}: loading for latency")
    first = bench.opened(target)
    bench.load(first, len(context.dataset.base))
    found = bench.answers(first, bench.queries, K, EFFORT)
    recall = context.dataset.recall(found, K) if target != "echo" else None
    for clients in context.scale.clients:
        closed = {"clients": clients, "loop": "closed"}
        workers, rate = [first], 0.0
        with context.attempt(target, **closed):
            if clients > 1:
                address = first.call("address")
                workers += [bench.attached(target, address) for _ in range(clients - 1)]
            rate = _one_load(context, bench, workers, target, closed, recall, 0.0)
        if target in context.failed:
            return
        if len(workers) != clients:
            continue  # The target cannot serve so many clients.
        for load in _LOADS:
            point = {"clients": clients, "loop": f"{load:.0%} of closed"}
            with context.attempt(target, **point):
                _one_load(context, bench, workers, target, point, recall, load * rate)
            if target in context.failed:
                return
        for worker in workers[1:]:
            worker.close()


def _one_load(
    context: Context,
    bench: Bench,
    workers: list[WorkerProcess],
    target: str,
    point: dict[str, object],
    recall: float | None,
    rate: float,
) -> float:
    """Measure all rounds of a point; return the answers per second.

    Args:
        recall: recall@10 to record with the latency, or None.
        rate: queries per second of all clients together; 0 for a closed loop.
    """
    known = context.known(target, **point)
    if known is not None:
        return float(known["figures"]["answers_per_s"] or rate)
    context.say(f"{target}: {point['clients']} clients, {point['loop']}")
    rounds = [_round(context, bench, workers, rate) for _ in range(context.scale.rounds)]
    together = np.concatenate(rounds)
    reached = len(together) / context.scale.rounds / context.scale.latency_seconds
    context.record(
        target,
        point,
        {
            **latency_figures(together),
            "p50_ms_of_rounds": summary([1000 * percentile(each, 50) for each in rounds]),
            "p99_ms_of_rounds": summary([1000 * percentile(each, 99) for each in rounds]),
            # At a fixed rate the number of latencies includes calls that were never sent.
            "answers_per_s": None if rate else reached,
            "rate_per_s": rate or None,
            "recall_10": recall,
            "effort": EFFORT,
            "quantiles": [[q, 1000 * percentile(together, q)] for q in _QUANTILES],
        },
    )
    return reached


def _round(
    context: Context, bench: Bench, workers: list[WorkerProcess], rate: float
) -> npt.NDArray[np.float64]:
    """Run all clients concurrently; return their latencies in seconds, float64, shape (calls,)."""
    files = [str(bench.folder / f"latency-{at}.npy") for at in range(len(workers))]
    begin_at = time.monotonic() + _BEGIN_IN_S
    for at, worker in enumerate(workers):
        worker.start(
            "latency",
            queries=bench.queries,
            k=K,
            effort=EFFORT,
            seconds=context.scale.latency_seconds,
            out=files[at],
            rate=rate / len(workers),
            offset=at / len(workers),
            begin_at=begin_at,
            first=at * len(context.dataset.queries) // len(workers),
        )
    for worker in workers:
        worker.result()
    return np.concatenate([np.load(path) for path in files])
