"""Recall asked for, expected and measured, and what it takes beside hnswlib: one query a call.

A collection with all rows in one graph is searched through its public interface, at several targets
of recall. hnswlib searches a graph that it has built of the same rows, with the same M and
ef_construction, at rising ef. Both have one thread; rounds are taken in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt

import vecdb
from vecdb_bench.figures import percentile, summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.embedded import NAME

__all__ = ["TITLE", "run"]

TITLE = "Recall asked for and measured, beside hnswlib"
TARGET, PEER = "vecdb", "hnswlib"
TARGETS = (0.9, 0.95, 0.98, 0.99)
K = 10

Search = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64]]
"""query, float32 (dim,) → rows, int64 (K,)."""


def run(context: Context) -> None:
    """Measure the targets, and hnswlib's efforts, unless the results have them."""
    points: list[tuple[str, dict[str, Any]]] = [(TARGET, {"asked": each}) for each in TARGETS]
    points += [(PEER, {"effort": each}) for each in context.scale.efforts if each >= K]
    if TARGET not in context.targets or all(context.known(name, **at) for name, at in points):
        return
    with context.attempt(TARGET, **points[0][1]), Bench(context) as bench:
        context.say(f"{TARGET} and {PEER}: {len(context.dataset.base):,} rows")
        # The meter would adapt the effort to the queries while they are measured.
        with vecdb.open(bench.folder / "contract", recall_meter=0) as database:
            _measure(context, _filled(context, database), _index(context), points)


def _filled(context: Context, database: Any) -> Any:
    docs = database.create_collection(NAME, context.dataset.dim, context.dataset.metric)
    base = np.asarray(context.dataset.base)
    docs.upsert_many([str(row) for row in range(len(base))], base)
    docs.optimize()
    return docs


def _index(context: Context) -> Any:
    dataset, settings = context.dataset, context.settings
    space = {"cosine": "cosine", "euclidean": "l2", "dot": "ip"}[dataset.metric]
    index = hnswlib.Index(space, dataset.dim)
    index.init_index(len(dataset.base), M=settings.M, ef_construction=settings.ef_construction)
    index.add_items(np.asarray(dataset.base))
    return index


def _measure(
    context: Context, docs: Any, index: Any, points: list[tuple[str, dict[str, Any]]]
) -> None:
    took: dict[int, list[npt.NDArray[np.float64]]] = {}
    recalls: dict[int, float] = {}
    for _ in range(context.scale.rounds):
        for place, (name, point) in enumerate(points):
            search = _ours(docs, point) if name == TARGET else _theirs(index, point)
            found, seconds = _timed(search, context.dataset.queries)
            took.setdefault(place, []).append(seconds)
            recalls[place] = context.dataset.recall(found, K)
    for place, (name, point) in enumerate(points):
        figures: dict[str, Any] = {
            "recall_10": recalls[place],
            "mean_us": summary([1e6 * float(each.mean()) for each in took[place]]),
            "p50_us": summary([1e6 * percentile(each, 50) for each in took[place]]),
            "p99_us": summary([1e6 * percentile(each, 99) for each in took[place]]),
        }
        if name == TARGET:
            info = docs.search(context.dataset.queries[0], K, target_recall=point["asked"]).info
            figures["expected"] = None if info.recall is None else info.recall.expected
        context.record(name, point, figures)


def _timed(
    search: Search, queries: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    found, seconds = np.empty((len(queries), K), np.int64), np.empty(len(queries))
    for at, query in enumerate(np.asarray(queries)):
        began = time.perf_counter()
        rows = search(query)
        seconds[at] = time.perf_counter() - began
        found[at] = rows
    return found, seconds


def _ours(docs: Any, point: dict[str, Any]) -> Search:
    def search(query: npt.NDArray[np.float32]) -> Any:
        return docs.search(query, K, target_recall=point["asked"], include_metadata=False).ids

    return search


def _theirs(index: Any, point: dict[str, Any]) -> Search:
    index.set_ef(point["effort"])

    def search(query: npt.NDArray[np.float32]) -> Any:
        return index.knn_query(query, K, num_threads=1)[0][0]

    return search
