"""Rows a second that are acknowledged, by size of batch and kind of id; time until indexed.

Each round begins with an empty folder. A loader that indexes while it is written to and one that
indexes later are compared by the time until all is indexed. Beside the load of 1,000 rows a batch
a second client, where a target can have one, searches all the while.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from vecdb_bench.figures import latency_figures, summary
from vecdb_bench.scenarios.context import Bench, Context

__all__ = ["TITLE", "run"]

TITLE = "Writing"
_SLOW_BATCH = 10
_ROWS_OF_SLOW_BATCHES = 1_000
_BESIDE_BATCH = 100
EFFORT = 128


def run(context: Context) -> None:
    """Measure what is not known yet, round by round, all targets in turns."""
    for point in _points(context):
        wanted = [
            name
            for name in context.targets
            if name not in context.failed and context.known(name, **point) is None
        ]
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in wanted}
        for _ in range(context.scale.rounds):
            for target in wanted:
                if target not in context.failed:
                    context.say(f"{target}: batches of {point['batch']}, {point['ids']} ids")
                    with context.attempt(target, **point), Bench(context) as bench:
                        rounds[target].append(_load(context, bench, target, point))
        for target, figures in rounds.items():
            if len(figures) == context.scale.rounds:
                context.record(
                    target,
                    point,
                    {name: summary([each[name] for each in figures]) for name in figures[0]},
                )
    for target in context.targets:
        if target not in context.failed and not context.known(target, what="search beside"):
            with context.attempt(target, what="search beside"), Bench(context) as bench:
                context.record(target, {"what": "search beside"}, _beside(context, bench, target))


def _points(context: Context) -> Iterator[dict[str, Any]]:
    for batch in context.scale.batches:
        yield {"batch": batch, "ids": "integer"}
    yield {"batch": _usual(context), "ids": "uuid"}


def _usual(context: Context) -> int:
    return min(1_000, max(context.scale.batches))


def _rows(context: Context, batch: int) -> int:
    rows = min(context.scale.ingest_rows, len(context.dataset.base))
    return min(rows, _ROWS_OF_SLOW_BATCHES) if batch < _SLOW_BATCH else rows


def _load(context: Context, bench: Bench, target: str, point: dict[str, Any]) -> dict[str, float]:
    rows = _rows(context, point["batch"])
    worker = bench.opened(target, ids=point["ids"])
    loaded = bench.load(worker, rows, point["batch"])
    sizes = worker.call("sizes")
    worker.close()
    shutil.rmtree(bench.folder / target, ignore_errors=True)
    return {
        "rows_per_s": rows / loaded["sent_s"],
        "indexed_s": loaded["indexed_s"],
        "disk_bytes_per_row": sizes["disk_bytes"] / rows,
    }


def _beside(context: Context, bench: Bench, target: str) -> dict[str, Any]:
    """Latency of searches while rows are written, and how fast those are."""
    rows = _rows(context, 1_000)
    writer = bench.opened(target)
    base = str(context.dataset.folder / "base.npy")
    half = rows // 2
    writer.call("upsert", vectors=base, first=0, end=half, batch=1_000)
    writer.call("finish")
    reader = bench.attached(target, writer.call("address"))
    out = str(bench.folder / "beside.npy")
    # Round and round over the second half, so that writing lasts as long as searching does.
    writer.start("upsert", vectors=base, first=half, end=rows, batch=_BESIDE_BATCH)
    reader.start(
        "latency",
        queries=bench.queries,
        k=10,
        effort=EFFORT,
        seconds=context.scale.latency_seconds,
        out=out,
    )
    wrote = 0
    took = 0.0
    while True:
        done = writer.result()
        wrote, took = wrote + done["rows"], took + done["seconds"]
        if took >= context.scale.latency_seconds:
            break
        writer.start("upsert", vectors=base, first=half, end=rows, batch=_BESIDE_BATCH)
    reader.result()
    return {**latency_figures(np.load(out)), "rows_per_s": wrote / took}
