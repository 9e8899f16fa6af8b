"""Recall asked for, expected and measured, and what it takes beside other libraries, in one thread.

A collection with all rows in one graph is searched through its public interface, at several targets
of recall. hnswlib searches a graph that it has built of the same rows, with the same M and
ef_construction, at rising ef. Both are asked one query a call, and in batches; rounds are taken in
turns. Libraries whose rows have fewer bits than float32, if they are among the targets, run in
processes of their own, one after the other.

Growth is measured with collections of the first rows of the data set: for a target of 0.95 the time
of a query and the nodes that its walk visits, as an exponent of the number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt

import vecdb
from vecdb_bench.data.truth import recall, true_neighbours
from vecdb_bench.figures import percentile, slope, summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.embedded import NAME
from vecdb_bench.targets.registry import COMPRESSED

__all__ = ["TITLE", "run"]

TITLE = "Recall asked for and measured, beside hnswlib"
TARGET, PEER = "vecdb", "hnswlib"
TARGETS = (0.9, 0.95, 0.98, 0.99)
GROWTH_TARGET = 0.95
K, BATCH = 10, 100

Point = dict[str, Any]
Search = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64]]
"""queries, float32 (dim,) or (q, dim) → rows, int64 (K,) or (q, K)."""


def run(context: Context) -> None:
    """Measure the targets, hnswlib's efforts, the other libraries and growth, unless the results
    have them."""
    efforts = [each for each in context.scale.efforts if each >= K]
    points: list[tuple[str, Point]] = [(TARGET, {"asked": each}) for each in TARGETS]
    points += [(PEER, {"effort": each}) for each in efforts]
    for name in (name for name in context.targets if name in COMPRESSED):
        _compressed(context, name, [{"effort": each} for each in efforts])
    if TARGET not in context.targets:
        return
    if not all(context.known(name, **at) for name, at in points):
        with context.attempt(TARGET, **points[0][1]), Bench(context) as bench:
            context.say(f"{TARGET} and {PEER}: {len(context.dataset.base):,} rows")
            with _opened(bench) as database:
                docs = _filled(context, database, len(context.dataset.base))
                _measure(context, docs, _index(context), points)
    _growth(context)


def _opened(bench: Bench) -> Any:
    # The meter would adapt the effort to the queries while they are measured.
    return vecdb.open(bench.folder / "contract", recall_meter=0, threads=1)


def _filled(context: Context, database: Any, rows: int) -> Any:
    docs = database.create_collection(NAME, context.dataset.dim, context.dataset.metric)
    base = np.asarray(context.dataset.base[:rows])
    docs.upsert_many([str(row) for row in range(rows)], base)
    docs.optimize()
    return docs


def _index(context: Context) -> Any:
    dataset, settings = context.dataset, context.settings
    space = {"cosine": "cosine", "euclidean": "l2", "dot": "ip"}[dataset.metric]
    index = hnswlib.Index(space, dataset.dim)
    index.init_index(len(dataset.base), M=settings.M, ef_construction=settings.ef_construction)
    index.add_items(np.asarray(dataset.base))
    return index


def _measure(context: Context, docs: Any, index: Any, points: list[tuple[str, Point]]) -> None:
    took: dict[int, list[npt.NDArray[np.float64]]] = {}
    batches: dict[int, list[npt.NDArray[np.float64]]] = {}
    recalls: dict[int, float] = {}
    queries = np.asarray(context.dataset.queries)
    for _ in range(context.scale.rounds):
        for place, (name, point) in enumerate(points):
            search = _ours(docs, point) if name == TARGET else _theirs(index, point)
            found, seconds = _timed(search, list(queries))
            took.setdefault(place, []).append(seconds)
            recalls[place] = context.dataset.recall(found, K)
            parts = [queries[at : at + BATCH] for at in range(0, len(queries), BATCH)]
            batches.setdefault(place, []).append(_timed(search, parts)[1])
    for place, (name, point) in enumerate(points):
        figures = _figures(recalls[place], took[place])
        per_query = [1e6 * each.sum() / len(queries) for each in batches[place]]
        figures["batch_us"] = summary([float(each) for each in per_query])
        if name == TARGET:
            info = docs.search(queries[0], K, target_recall=point["asked"]).info
            figures["expected"] = None if info.recall is None else info.recall.expected
        context.record(name, point, figures)


def _figures(found: float, took: list[npt.NDArray[np.float64]]) -> Point:
    return {
        "recall_10": found,
        "mean_us": summary([1e6 * float(each.mean()) for each in took]),
        "p50_us": summary([1e6 * percentile(each, 50) for each in took]),
        "p99_us": summary([1e6 * percentile(each, 99) for each in took]),
    }


def _timed(
    search: Search, asked: list[npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the rows found, one below the other, and the seconds of each call."""
    found, seconds = [], np.empty(len(asked))
    for at, queries in enumerate(asked):
        began = time.perf_counter()
        rows = search(queries)
        seconds[at] = time.perf_counter() - began
        found.append(np.reshape(np.asarray(rows, np.int64), (-1, K)))
    return np.concatenate(found), seconds


def _ours(docs: Any, point: Point) -> Search:
    def search(queries: npt.NDArray[np.float32]) -> Any:
        hits = docs.search(queries, K, target_recall=point["asked"], include_metadata=False)
        return hits.ids if queries.ndim == 1 else [each.ids for each in hits]

    return search


def _theirs(index: Any, point: Point) -> Search:
    index.set_ef(point["effort"])

    def search(queries: npt.NDArray[np.float32]) -> Any:
        return index.knn_query(queries, K, num_threads=1)[0]

    return search


def _compressed(context: Context, name: str, points: list[Point]) -> None:
    """Measure a library that keeps rows of fewer bits."""
    if all(context.known(name, **point) for point in points):
        return
    with context.attempt(name, **points[0]), Bench(context) as bench:
        rows = len(context.dataset.base)
        context.say(f"{name}: {rows:,} rows")
        worker = bench.opened(name, threads=1)
        bench.load(worker, rows, batch=rows)
        out = str(bench.folder / "latency.npy")
        for point in points:
            asked = {"queries": bench.queries, "k": K, "effort": point["effort"]}
            seconds = context.scale.seconds
            took, batches = [], []
            for _ in range(context.scale.rounds):
                worker.call("latency", **asked, seconds=seconds, out=out)
                took.append(np.load(out))
                rate = worker.call("speed", **asked, batch=BATCH, callers=1, seconds=seconds)
                batches.append(1e6 / rate)
            found = bench.answers(worker, bench.queries, K, point["effort"])
            figures = _figures(context.dataset.recall(found, K), took)
            context.record(name, point, {**figures, "batch_us": summary(batches)})


def _growth(context: Context) -> None:
    """Measure what a target of recall costs by the number of rows."""
    sizes = [rows for rows in context.scale.sizes if rows <= len(context.dataset.base)]
    for rows in sizes:
        point: Point = {"rows": rows, "asked": GROWTH_TARGET}
        if context.known(TARGET, **point) is None:
            context.say(f"{TARGET}: {rows:,} rows")
            with context.attempt(TARGET, **point), Bench(context) as bench:
                with _opened(bench) as database:
                    figures = _grown(context, _filled(context, database, rows), rows)
                context.record(TARGET, point, figures)
    lines = [context.known(TARGET, rows=rows, asked=GROWTH_TARGET) for rows in sizes]
    found = [line["figures"] for line in lines if line and line["status"] == "measured"]
    fitted: Point = {"what": "exponents", "sizes": sizes}
    if len(found) > 1 and context.known(TARGET, **fitted) is None:
        measured = [each["rows"] for each in found]
        costs = {
            "mean_us": slope(measured, [each["mean_us"]["median"] for each in found]),
            "visited": slope(measured, [each["visited"] for each in found]),
        }
        context.record(TARGET, fitted, costs)


def _grown(context: Context, docs: Any, rows: int) -> Point:
    dataset, base = context.dataset, np.asarray(context.dataset.base[:rows])
    _, distances = true_neighbours(base, dataset.queries, dataset.metric, K)
    search, queries = _ours(docs, {"asked": GROWTH_TARGET}), list(np.asarray(dataset.queries))
    took = []
    for _ in range(context.scale.rounds):
        found, seconds = _timed(search, queries)
        took.append(seconds)
    hits = docs.search(np.asarray(dataset.queries), K, target_recall=GROWTH_TARGET)
    found_recall = recall(found, base, dataset.queries, dataset.metric, distances, K).mean()
    visited = float(np.mean([each.info.visited for each in hits]))
    return {"rows": rows, **_figures(float(found_recall), took), "visited": visited}
