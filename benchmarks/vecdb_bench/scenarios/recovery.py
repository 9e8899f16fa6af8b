"""kill -9 during a load: rows lost, time until the target answers, recall; and a clean restart.

The worker appends each acknowledged batch to a log before it sends the next one. Once a third of
the rows are in the log, all processes of the target are killed. The target is then opened in a
new process. Rows that are in the log but not in the target count as lost; recall is computed
over the rows that are present. Finally the target is stopped normally and started once more, which
must not lose any row.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from vecdb.errors import UnsupportedError
from vecdb_bench.data.truth import recall, true_neighbours
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.process import TargetFailedError, WorkerProcess
from vecdb_bench.targets.registry import describe

__all__ = ["TITLE", "run"]

TITLE = "kill -9 during a load"
EFFORT = 128
K = 10
_BATCH = 100
_WAIT_S = 600.0


def run(context: Context) -> None:
    """Measure each target that has no line in the results."""
    for target in context.targets:
        if context.known(target, what="killed") is not None:
            continue
        with context.attempt(target, what="killed"):
            if not describe(target).durable:
                raise UnsupportedError(
                    f"{target} stores rows in memory only and loses all of them", "NO_DISK"
                )
            context.say(f"{target}: killed during a load")
            rounds = []
            for _ in range(context.scale.rounds):
                with Bench(context) as bench:
                    rounds.append(_once(context, bench, target))
            figures: dict[str, Any] = {
                name: summary([each[name] for each in rounds]) for name in rounds[0]
            }
            figures["rows_lost_in_all"] = sum(each["rows_lost"] for each in rounds)
            context.record(target, {"what": "killed"}, figures)


def _once(context: Context, bench: Bench, target: str) -> dict[str, float]:
    rows = min(context.scale.ingest_rows, len(context.dataset.base))
    log = bench.folder / "acknowledged.log"
    worker = bench.opened(target)
    worker.start(
        "upsert",
        vectors=str(context.dataset.folder / "base.npy"),
        first=0,
        end=rows,
        batch=_BATCH,
        log=str(log),
    )
    ends = time.monotonic() + _WAIT_S
    while _noted(log) < rows // 3:
        if time.monotonic() > ends:
            raise TargetFailedError(
                f"{target}: expected {rows // 3} acknowledged rows within {_WAIT_S:.0f} s, got "
                f"{_noted(log)}"
            )
        time.sleep(0.001)
    worker.kill()
    noted = _noted(log)
    again, ready_s = _started(context, bench, target)
    missing = again.call("present", ids=bench.array_file(np.arange(rows)))
    there = np.setdiff1d(np.arange(rows), missing)
    again.call("finish")
    vectors, queries = context.dataset.base[there], context.dataset.queries
    _, distances = true_neighbours(vectors, queries, context.dataset.metric, K)
    found = bench.answers(again, bench.queries, K, EFFORT)
    place_of = np.full(rows, -1)
    place_of[there] = np.arange(len(there))
    places = np.where(found >= 0, place_of[np.maximum(found, 0)], -1)
    again.stop()
    restarted, restart_s = _started(context, bench, target)
    gone = restarted.call("present", ids=bench.array_file(there))
    if gone:
        raise TargetFailedError(
            f"{target}: {len(gone)} of {len(there)} rows are missing after a normal stop"
        )
    shares = recall(places, vectors, queries, context.dataset.metric, distances, K)
    return {
        "rows_acknowledged": noted,
        "rows_lost": int(np.sum(np.asarray(missing, np.int64) < noted)),
        "ready_s": ready_s,
        "restart_s": restart_s,
        "recall_10": float(shares.mean()),
    }


def _started(context: Context, bench: Bench, target: str) -> tuple[WorkerProcess, float]:
    """Start the target in a new process; return it and the seconds until its first answer."""
    began = time.perf_counter()
    worker = bench.worker(target)
    bench.open(worker, target)
    bench.answers(worker, bench.array_file(context.dataset.queries[:1]), K, EFFORT)
    return worker, time.perf_counter() - began


def _noted(log: Path) -> int:
    """Return the number of rows in the log, without a last line that is incomplete."""
    if not log.exists():
        return 0
    lines = log.read_text().split("\n")[:-1]
    return int(lines[-1].split()[1]) if lines else 0
