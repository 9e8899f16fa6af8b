"""Acknowledged rows per second by batch size and kind of id; time until all rows are indexed.

Each round starts with an empty folder. Some targets index during writes and some afterwards; the
time until all rows are indexed makes them comparable. A further measurement, for targets that
accept a second client, has one client search while another one writes batches of 100 rows.
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
    """Measure the points that are not in the results, round by round, with targets interleaved."""
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
    """Measure the latency of searches while rows are written, and the rate of the writes."""
    rows = _rows(context, 1_000)
    writer = bench.opened(target)
    base = str(context.dataset.folder / "base.npy")
    half = rows // 2
    writer.call("upsert", vectors=base, first=0, end=half, batch=1_000)
    writer.call("finish")
    reader = bench.attached(target, writer.call("address"))
    out = str(bench.folder / "beside.npy")
    # The second half is written repeatedly, so that writes last as long as searches do.
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
