"""Growth of costs with the number of rows: search, build, memory, disk, opening.

For each cost an exponent b of cost ≈ a · rows^b is fitted: near 1 the cost is proportional to the
number of rows, near 0 it does not depend on it. The effort is 64 at all sizes; recall is recorded
with the costs.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vecdb_bench.data.truth import recall, true_neighbours
from vecdb_bench.figures import percentile, slope, summary
from vecdb_bench.scenarios.context import Bench, Context

__all__ = ["EFFORT", "TITLE", "run"]

TITLE = "Growth with the number of rows"
EFFORT = 64
K = 10
_COSTS = ("search_p50_ms", "indexed_s", "private_bytes", "disk_bytes", "open_s")


def run(context: Context) -> None:
    """Measure the sizes that are not in the results, then fit the exponents of each target."""
    sizes = [rows for rows in context.scale.sizes if rows <= len(context.dataset.base)]
    for target in context.targets:
        for rows in sizes:
            if target not in context.failed and context.known(target, rows=rows) is None:
                context.say(f"{target}: {rows:,} rows")
                with context.attempt(target, rows=rows), Bench(context) as bench:
                    context.record(target, {"rows": rows}, _measure(context, bench, target, rows))
        lines = [context.known(target, rows=rows) for rows in sizes]
        figures = [line["figures"] for line in lines if line and line["status"] == "measured"]
        if len(figures) > 1 and context.known(target, what="exponents", sizes=sizes) is None:
            measured = [each["rows"] for each in figures]
            exponents = {
                cost: slope(measured, [each[cost]["median"] for each in figures])
                for cost in _COSTS
                if all(each[cost]["median"] > 0 for each in figures)
            }
            context.record(target, {"what": "exponents", "sizes": sizes}, exponents)


def _measure(context: Context, bench: Bench, target: str, rows: int) -> dict[str, Any]:
    worker = bench.opened(target)
    loaded = bench.load(worker, rows)
    base = context.dataset.base[:rows]
    queries, metric = context.dataset.queries, context.dataset.metric
    _, distances = true_neighbours(base, queries, metric, K)
    found = bench.answers(worker, bench.queries, K, EFFORT)
    out = str(bench.folder / "latency.npy")
    p50s = []
    for _ in range(context.scale.rounds):
        worker.call(
            "latency",
            queries=bench.queries,
            k=K,
            effort=EFFORT,
            seconds=context.scale.seconds,
            out=out,
        )
        p50s.append(1000 * percentile(np.load(out), 50))
    sizes = worker.call("sizes")
    worker.close()
    one = bench.array_file(context.dataset.queries[:1])
    opens = []
    for _ in range(context.scale.rounds):
        again = bench.worker(target)
        began = time.perf_counter()
        bench.open(again, target)
        bench.answers(again, one, K, EFFORT)
        opens.append(time.perf_counter() - began)
        bench.answers(again, bench.queries, K, EFFORT)
        reopened = again.call("sizes")
        again.close()
    return {
        "rows": rows,
        "recall_10": float(recall(found, base, queries, metric, distances, K).mean()),
        "effort": EFFORT,
        "search_p50_ms": summary(p50s),
        "indexed_s": summary([loaded["indexed_s"]]),
        "private_bytes": summary([sizes["private_bytes"]]),
        "reopened_private_bytes": summary([reopened["private_bytes"]]),
        "disk_bytes": summary([sizes["disk_bytes"]]),
        "open_s": summary(opens),
    }
