"""What an embedded search costs outside the kernel, and how it scales to four threads.

All rows are in one graph segment, and queries are single. The same walks are made by calls of
``search`` and by one call of the kernel for all queries; the difference in CPU time, divided by the
number of queries, is what a call costs outside the kernel. The effort is small, so that walks are
short beside it. With metadata, each row has a small record.

The threads search one collection at the same time, and the effort is that of ``latency``. Their
rates are of a fixed time, so other processes disturb them; the CPU time of a thread hardly.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb.engine.kernels import compiled as kernels
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.testing import opened_of
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.embedded import NAME

__all__ = ["TITLE", "run"]

TITLE = "What an embedded call costs outside the kernel"
TARGET = "vecdb"
K = 10
EFFORT, EFFORT_OF_THREADS = 10, 128
THREADS = 4
_TURNS = 10
"""Measurements of a round, of which the least counts: whatever disturbs one makes it longer."""


def run(context: Context) -> None:
    """Measure calls without and with metadata, and threads, unless the results have them."""
    points: list[dict[str, Any]] = [{"metadata": False}, {"metadata": True}, {"threads": THREADS}]
    if TARGET not in context.targets or all(context.known(TARGET, **point) for point in points):
        return
    with context.attempt(TARGET, **points[0]), Bench(context) as bench:
        context.say(f"{TARGET}: {len(context.dataset.base):,} rows, with and without metadata")
        for point in points[:2]:
            if context.known(TARGET, **point) is None:
                with _filled(context, bench.folder, point["metadata"]) as database:
                    figures = _outside(context, database.collection(NAME), point["metadata"])
                    context.record(TARGET, point, figures)
        if context.known(TARGET, **points[2]) is None:
            with _filled(context, bench.folder, False) as database:
                figures = _threads(context, database.collection(NAME))
                context.record(TARGET, points[2], figures)


def _filled(context: Context, folder: Path, with_metadata: bool) -> Any:
    """Open a database whose rows are all in one graph, loading them at first."""
    path, base = folder / f"call-{with_metadata}", context.dataset.base
    is_new = not path.exists()
    database = vecdb.open(path)
    if is_new:
        docs = database.create_collection(NAME, context.dataset.dim, context.dataset.metric)
        ids = [f"document-{row:07}" for row in range(len(base))]
        metadata = [{"title": f"Title {row}", "page": row} for row in range(len(base))]
        docs.upsert_many(ids, np.asarray(base), metadata if with_metadata else None)
        docs.optimize()
    return database


def _outside(context: Context, docs: Any, with_metadata: bool) -> dict[str, Any]:
    queries = [np.array(query) for query in context.dataset.queries]
    count = len(queries)

    def search(query: np.ndarray) -> Any:
        return docs.search(query, K, ef=EFFORT, include_metadata=with_metadata)

    def calls() -> None:
        for query in queries:
            search(query)

    found = [[int(name[-7:]) for name in search(query).ids] for query in queries]
    kernel, whole, alone = _kernel(docs, np.stack(queries)), [], []
    for _ in range(context.scale.rounds):
        turns = [(_cpu_us(calls, count), _cpu_us(kernel, count)) for _ in range(_TURNS)]
        whole.append(min(turn[0] for turn in turns))
        alone.append(min(turn[1] for turn in turns))
    return {
        "outside_us": summary([a - b for a, b in zip(whole, alone, strict=True)]),
        "kernel_us": summary(alone),
        "python_calls": _python_calls(lambda: search(queries[0])),
        "recall_10": context.dataset.recall(np.array(found), K),
        "effort": EFFORT,
    }


def _cpu_us(work: Callable[[], None], count: int) -> float:
    """Return the CPU time of this thread for each of ``count`` queries, in microseconds."""
    began = time.thread_time()
    work()
    return 1e6 * (time.thread_time() - began) / count


def _kernel(docs: Any, queries: np.ndarray) -> Callable[[], None]:
    """Return the walks of all queries as one call of the kernel."""
    (unit,) = opened_of(docs).snapshots.snapshot().units
    graph, sketch = unit.parts[GRAPH], unit.parts.get(SKETCH)
    q, width = len(queries), unit.vectors.shape[1]
    prepared = np.empty((q, width), np.float32)
    kernels.prepare_rows(queries, prepared, docs.metric is vecdb.Metric.COSINE)
    metric = kernels.EUCLIDEAN if docs.metric is vecdb.Metric.EUCLIDEAN else kernels.INNER
    scratch = kernels.Scratch()
    results = (np.empty((q, K), np.int64), np.empty((q, K), np.float32))
    counts = (np.zeros(q, np.int64), np.zeros(q, np.int64), np.zeros(q, np.int64))

    def walk() -> None:
        if sketch is None:
            kernels.walk(
                scratch, unit.vectors, graph, unit.delete_bitmap, prepared, 0, q, metric, K,
                EFFORT, *results, *counts,
            )  # fmt: skip
        else:
            kernels.walk_by_sketches(
                scratch, unit.vectors, graph.links, sketch, unit.delete_bitmap, prepared, 0, q,
                metric, K, EFFORT, kernels.NO_GAMMA, *results, *counts,
            )  # fmt: skip

    return walk


def _python_calls(work: Callable[[], Any]) -> int:
    """Return how many Python functions a call calls."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def _threads(context: Context, docs: Any) -> dict[str, Any]:
    queries = [np.array(query) for query in context.dataset.queries]
    rates: dict[int, list[float]] = {1: [], THREADS: []}
    for _ in range(context.scale.rounds):
        for threads, found in rates.items():
            found.append(max(_rate(context, docs, queries, threads) for _ in range(_TURNS)))
    ratios = [many / one for one, many in zip(rates[1], rates[THREADS], strict=True)]
    return {
        "queries_per_s": summary(rates[THREADS]),
        "queries_per_s_of_one": summary(rates[1]),
        "times_one": summary(ratios),
        "effort": EFFORT_OF_THREADS,
    }


def _rate(context: Context, docs: Any, queries: list[np.ndarray], threads: int) -> float:
    """Return the queries per second of all threads together."""
    done, begin = [0] * threads, threading.Barrier(threads + 1)
    ended = threading.Event()

    def search(number: int) -> None:
        begin.wait()
        while not ended.is_set():
            query = queries[(done[number] + number * 17) % len(queries)]
            docs.search(query, K, ef=EFFORT_OF_THREADS, include_metadata=False)
            done[number] += 1

    workers = [threading.Thread(target=search, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    began = time.perf_counter()
    time.sleep(context.scale.seconds / _TURNS)
    count, took = sum(done), time.perf_counter() - began
    ended.set()
    for worker in workers:
        worker.join()
    return count / took
