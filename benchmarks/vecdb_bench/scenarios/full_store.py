"""Acknowledged rows per second into a store that has rows already, with UUIDs as ids.

Three quarters of the rows are stored and indexed first, once per target. Each round writes the rest
into a copy of that folder, with targets interleaved. Random ids of a B-tree that is full touch one
leaf each. A target's own work in the background (flushes, graphs) goes on at the same time.
"""

from __future__ import annotations

import shutil
from typing import Any

from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.registry import describe

__all__ = ["TITLE", "run"]

TITLE = "Writing into a store that has rows already"
_BATCH = 1_000


def run(context: Context) -> None:
    """Measure the targets that lack the point; those that store nothing on disk are left out."""
    rows = min(context.scale.ingest_rows, len(context.dataset.base))
    before = rows * 3 // 4
    point: dict[str, Any] = {"batch": _BATCH, "ids": "uuid", "rows_before": before}
    wanted = [
        name
        for name in context.targets
        if describe(name).durable and context.known(name, **point) is None
    ]
    rates: dict[str, list[float]] = {name: [] for name in wanted}
    with Bench(context) as prepared:
        for target in wanted:
            with context.attempt(target, **point):
                context.say(f"{target}: {before:,} rows before")
                worker = prepared.opened(target, ids="uuid")
                prepared.load(worker, before, _BATCH)
                worker.stop()
        for _ in range(context.scale.rounds):
            for target in wanted:
                if (prepared.folder / target).exists() and target not in context.failed:
                    context.say(f"{target}: {rows - before:,} rows after {before:,}")
                    with context.attempt(target, **point), Bench(context) as bench:
                        shutil.copytree(prepared.folder / target, bench.folder / target)
                        worker = bench.opened(target, ids="uuid")
                        base = str(context.dataset.folder / "base.npy")
                        done = worker.call(
                            "upsert", vectors=base, first=before, end=rows, batch=_BATCH
                        )
                        rates[target].append(done["rows"] / done["seconds"])
    for target, seen in rates.items():
        if len(seen) == context.scale.rounds:
            context.record(target, point, {"rows_per_s": summary(seen)})
