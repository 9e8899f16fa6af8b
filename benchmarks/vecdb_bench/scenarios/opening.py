"""Time from opening a folder to the first answer, embedded, for few and for many rows.

15 % of the rows are deleted and up to 10,000 rows are in no segment yet. Each opening is in a new
process that has imported vecdb already; sizes are interleaved. The time should hardly depend on the
number of rows, since segments are mapped, not read.

A further measurement is the time in which each search checks that its snapshot is the newest.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import vecdb
from vecdb.engine.testing import opened_of
from vecdb_bench.data.dataset import SEED
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.embedded import NAME

__all__ = ["TITLE", "run"]

TITLE = "From opening to the first answer"
TARGET = "vecdb"
EFFORT = 128
K = 10
_DELETED = 0.15
_FRESH_ROWS = 10_000
_CHECKS = 20_000


def run(context: Context) -> None:
    """Measure the smallest and the largest size together, unless the results have both."""
    sizes = [rows for rows in context.scale.sizes if rows <= len(context.dataset.base)]
    points = [{"rows": rows} for rows in dict.fromkeys((*sizes[:1], *sizes[-1:]))]
    known = all(context.known(TARGET, **point) for point in points)
    if TARGET not in context.targets or known:
        return
    with context.attempt(TARGET, **points[0]), Bench(context) as bench:
        for point in points:
            context.say(f"{TARGET}: {point['rows']:,} rows, some deleted")
            _prepare(context, bench, point["rows"])
        if context.known(TARGET, what="snapshot") is None:
            checks = _snapshot_checks_us(bench.folder / str(points[0]["rows"]))
            context.record(TARGET, {"what": "snapshot"}, {"check_us": summary(checks)})
        took: dict[int, list[float]] = {point["rows"]: [] for point in points}
        for _ in range(context.scale.rounds):
            for rows, seconds in took.items():
                seconds.append(_opened_s(context, bench, rows))
        for rows, seconds in took.items():
            context.record(TARGET, {"rows": rows}, {"open_s": summary(seconds)})


def _prepare(context: Context, bench: Bench, rows: int) -> None:
    generator = np.random.default_rng(SEED)
    fresh = min(_FRESH_ROWS, rows)
    base = context.dataset.base
    noise = generator.normal(0, 0.1, (fresh, base.shape[1]))
    vectors = np.concatenate([base[:rows], base[:fresh] + noise]).astype(np.float32)
    worker = bench.opened(TARGET, str(rows))
    bench.load(worker, rows)
    gone = generator.permutation(rows)[: int(_DELETED * rows)]
    worker.call("delete", ids=bench.array_file(gone))
    file = bench.array_file(vectors)
    worker.call("upsert", vectors=file, first=rows, end=rows + fresh, batch=fresh)
    worker.stop()


def _opened_s(context: Context, bench: Bench, rows: int) -> float:
    worker = bench.worker(TARGET)
    # Attached, so that no indexer takes the rows out of the memtable between two rounds.
    took = bench.attach(worker, str(bench.folder / str(rows)))
    one = bench.array_file(context.dataset.queries[:1])
    found, answered_s = bench.timed_answers(worker, one, K, EFFORT)
    if (found < 0).any():
        raise AssertionError(f"expected {K} hits, got {found}")
    unindexed, fresh = worker.call("unindexed"), min(_FRESH_ROWS, rows)
    if unindexed != fresh:
        raise AssertionError(f"expected {fresh} rows in no graph, got {unindexed}")
    worker.stop()
    return took + answered_s


def _snapshot_checks_us(folder: Path) -> list[float]:
    with vecdb.open(folder, indexer=False) as database:
        snapshot = opened_of(database.collection(NAME)).snapshots.snapshot
        held = snapshot()
        took = []
        for _ in range(9):
            began = time.perf_counter()
            for _ in range(_CHECKS):
                snapshot()
            took.append(1e6 * (time.perf_counter() - began) / _CHECKS)
        if snapshot() is not held:
            raise AssertionError("the snapshot was replaced while it was measured")
        return took
