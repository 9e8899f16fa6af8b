"""Acknowledged rows per second by batch size and kind of id; time until all rows are indexed.

Each round starts with an empty folder. Some targets index during writes and some afterwards; the
time until all rows are indexed makes them comparable.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context

__all__ = ["TITLE", "run"]

TITLE = "Writing"
_SLOW_BATCH = 10
_ROWS_OF_SLOW_BATCHES = 1_000


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
