"""Latency of searches while another client writes.

    filling    the first half of the rows, from the first upsert until all are indexed
    idle       no writes
    half       the second half, at half the rate at which the first was indexed: what an indexer
               sustains beside a writer and a reader
    full       the second half, as fast as the target takes it

Then, in a new folder that has two sevenths of the rows, all indexed:

    before     no writes
    bulk       all other rows, once, as fast as the target takes them
    indexing   no writes, until these rows are indexed

The reader has one query in flight and pauses 5 ms between two, 0.1 s while the target is filled.
The second half is written repeatedly, so that writes last as long as searches do. Rows that are in
no graph yet, which a search scans, are sampled throughout.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vecdb_bench.figures import latency_figures, summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.process import WorkerProcess

__all__ = ["TITLE", "run"]

TITLE = "Searches while another client writes"
EFFORT = 128
K = 10
_STATES = ("filling", "idle", "half", "full", "before", "bulk", "indexing")
_BATCH, _BULK_BATCH = 200, 1_000
_PAUSE_S = {"filling": 0.1}
_USUAL_PAUSE_S = 0.005
_SUSTAINED = 0.5
_PART_S = 0.25


def run(context: Context) -> None:
    """Measure each target that lacks a state; a target that takes no second client cannot."""
    for target in context.targets:
        lines = [context.known(target, state=state) for state in _STATES]
        if all(lines) or (lines[0] and lines[0]["status"] == "cannot"):
            continue
        with context.attempt(target, state=_STATES[0]), Bench(context) as bench:
            _measure(context, bench, target)
            _measure_bulk(context, bench, target)


def _measure(context: Context, bench: Bench, target: str) -> None:
    rows = min(context.scale.ingest_rows, len(context.dataset.base))
    seconds, half = context.scale.latency_seconds, rows // 2
    writer = bench.opened(target)
    reader = bench.attached(target, writer.call("address"))
    filling = _Writes(context, writer, 0, half, finish=True)
    _record(context, bench, reader, "filling", filling)
    rate = _SUSTAINED * half / filling.indexed_s
    _record(context, bench, reader, "idle", None)
    end = min(rows, half + max(_BATCH, int(rate * seconds)))
    _record(context, bench, reader, "half", _Writes(context, writer, half, end, seconds, rate))
    _record(context, bench, reader, "full", _Writes(context, writer, half, rows, seconds))


def _measure_bulk(context: Context, bench: Bench, target: str) -> None:
    rows = min(context.scale.ingest_rows, len(context.dataset.base))
    writer = bench.opened(target, f"{target}-bulk")
    reader = bench.attached(target, writer.call("address"))
    bench.load(writer, 2 * rows // 7)
    _record(context, bench, reader, "before", None)
    bulk = _Writes(context, writer, 2 * rows // 7, rows, batch=_BULK_BATCH)
    _record(context, bench, reader, "bulk", bulk)
    _record(context, bench, reader, "indexing", _Finish(writer))


class _Finish:
    """Waits until all rows are indexed; nothing is written."""

    rows, seconds = 0, 0.0

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        worker.start("finish")

    def busy(self) -> bool:
        """Return whether rows are still being indexed."""
        if not self._worker.answered():
            return True
        self.seconds = self._worker.result()["seconds"]
        return False


class _Writes:
    """Upserts of rows [first, end), repeated for ``seconds``.

    Args:
        rate: rows per second at most; 0 for as fast as possible.
        batch: rows of an upsert.
        finish: then wait until all rows are indexed.
    """

    def __init__(
        self,
        context: Context,
        worker: WorkerProcess,
        first: int,
        end: int,
        seconds: float = 0.0,
        rate: float = 0.0,
        *,
        batch: int = _BATCH,
        finish: bool = False,
    ) -> None:
        base = str(context.dataset.folder / "base.npy")
        self._part = {"vectors": base, "first": first, "end": end, "batch": batch, "rate": rate}
        self._worker, self._ends, self._finish = worker, time.monotonic() + seconds, finish
        self._finishing = False
        self.rows, self.seconds, self.indexed_s = 0, 0.0, 0.0
        worker.start("upsert", **self._part)

    def busy(self) -> bool:
        """Return whether rows are still being written or indexed; send the next command if due."""
        if not self._worker.answered():
            return True
        done = self._worker.result()
        if self._finishing:
            self.indexed_s = self.seconds + done["seconds"]
            return False
        self.rows, self.seconds = self.rows + done["rows"], self.seconds + done["seconds"]
        if time.monotonic() < self._ends:
            self._worker.start("upsert", **self._part)
        elif self._finish:
            self._finishing = True
            self._worker.start("finish")
        else:
            return False
        return True


def _record(
    context: Context,
    bench: Bench,
    reader: WorkerProcess,
    state: str,
    writes: _Writes | _Finish | None,
) -> None:
    """Search until the work of the writer ends, and while it has none for ``latency_seconds``."""
    context.say(f"{reader.name}: searches, writer: {state}")
    out = str(bench.folder / "beside.npy")
    took: list[Any] = []
    unindexed: list[float] = []
    ends = time.monotonic() + context.scale.latency_seconds
    while not took or (writes.busy() if writes else time.monotonic() < ends):
        reader.call(
            "latency",
            queries=bench.queries,
            k=K,
            effort=EFFORT,
            seconds=min(_PART_S, context.scale.latency_seconds),
            pause_s=_PAUSE_S.get(state, _USUAL_PAUSE_S),
            first=sum(map(len, took)) % len(context.dataset.queries),
            out=out,
        )
        took.append(np.load(out))
        rows = reader.call("unindexed")
        unindexed += [rows] if rows is not None else []
    figures: dict[str, Any] = latency_figures(np.concatenate(took))
    figures["rows_per_s"] = writes.rows / writes.seconds if writes and writes.rows else 0.0
    if writes:
        figures["seconds"] = writes.seconds
    if unindexed:
        figures["unindexed_bytes"] = summary([4 * context.dataset.dim * n for n in unindexed])
        del figures["unindexed_bytes"]["values"]
    context.record(reader.name, {"state": state}, figures)
