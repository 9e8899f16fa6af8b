"""The compiled graph search beside hnswlib's own: one thread, one graph, equal answers.

Both search the same graph, so that at equal effort only time differs. hnswlib searches rows without
padding; the kernel searches rows that are padded and mapped from files, as in a segment. Unlike in
``search`` no collection is involved: the difference to it is what a call of vecdb costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.builder import Builder, Space
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.kernels import compiled as kernels
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context

__all__ = ["TITLE", "hnswlib_search", "kernel_search", "run"]

TITLE = "The walk through the graph, beside hnswlib's"
K = 10
_EF_CONSTRUCTION = 200
_NOTHING_DELETED = np.zeros(0, np.uint8)
_SPACES: dict[str, Space] = {"cosine": "ip", "euclidean": "l2", "dot": "dot"}

Floats = npt.NDArray[np.float32]
Search = Callable[[int], npt.NDArray[np.int64]]
"""ef → rows, int64, shape (q, 10)."""


def run(context: Context) -> None:
    """Measure the efforts that are not in the results, until one reaches enough recall."""
    points = [
        {"effort": effort, "ef_construction": _EF_CONSTRUCTION} for effort in context.scale.efforts
    ]
    if "vecdb" not in context.targets or _ended(context, points):
        return
    with Bench(context) as bench:
        context.say(f"building one graph of {len(context.dataset.base):,} rows")
        searches = _searches(context, bench)
        for point in points:
            if context.known("hnswlib", **point):
                continue
            context.say(f"kernel and hnswlib, effort {point['effort']}")
            took: dict[str, list[float]] = {name: [] for name in searches}
            recalls = {}
            for _ in range(context.scale.rounds):
                for name, search in searches.items():
                    began = time.perf_counter()
                    found = search(point["effort"])
                    took[name].append(time.perf_counter() - began)
                    recalls[name] = context.dataset.recall(found, K)
            for name, seconds in took.items():
                speeds = summary([len(context.dataset.queries) / each for each in seconds])
                figures = {"recall_10": recalls[name], "queries_per_s": speeds}
                context.record(name, point, figures)
            if min(recalls.values()) >= context.scale.recall_enough:
                return


def _ended(context: Context, points: list[dict[str, int]]) -> bool:
    lines = [context.known("hnswlib", **point) for point in points]
    enough = context.scale.recall_enough
    return all(lines) or any(line and line["figures"]["recall_10"] >= enough for line in lines)


def _searches(context: Context, bench: Bench) -> dict[str, Search]:
    dataset = context.dataset
    width = -(-dataset.dim // kernels.LANES) * kernels.LANES

    def mapped(array: Any) -> Any:
        return np.load(bench.array_file(array), mmap_mode="r").view(np.ndarray)

    def prepared(raw: Floats) -> Floats:
        rows = np.empty((len(raw), width), np.float32)
        kernels.prepare_rows(np.ascontiguousarray(raw), rows, dataset.metric == "cosine")
        return np.asarray(mapped(rows))

    space, M = _SPACES[dataset.metric], context.settings.M
    rows, queries = prepared(dataset.base), prepared(dataset.queries)
    builder = Builder(space, width, M, _EF_CONSTRUCTION, len(rows))
    builder.add(rows)
    made = builder.graph(bench.folder)
    graph = Graph(
        mapped(made.links),
        mapped(made.upper_offsets),
        mapped(made.upper_links),
        made.entry,
        made.top_level,
    )
    metric = kernels.EUCLIDEAN if dataset.metric == "euclidean" else kernels.INNER
    narrow = rows[:, : dataset.dim], queries[:, : dataset.dim]
    return {
        "vecdb": kernel_search(graph, rows, queries, metric),
        "hnswlib": hnswlib_search(graph, *narrow, space, M, bench.folder),
    }


def kernel_search(graph: Graph, rows: Floats, queries: Floats, metric: int) -> Search:
    """Return the kernel's search of a graph, over padded rows."""
    scratch, q = kernels.Scratch(), len(queries)
    nodes, scores = np.zeros((q, K), np.int64), np.zeros((q, K), np.float32)
    counts, visited = np.zeros(q, np.int64), np.zeros(q, np.int64)

    def search(ef: int) -> npt.NDArray[np.int64]:
        kernels.walk(
            scratch, rows, graph, _NOTHING_DELETED, queries, 0, q, metric, K, ef, nodes, scores,
            counts, visited,
        )  # fmt: skip
        return nodes

    return search


def hnswlib_search(
    graph: Graph, rows: Floats, queries: Floats, space: Space, M: int, work_dir: Path
) -> Search:
    """Return hnswlib's search of the same graph, over rows without padding."""
    index = Builder.from_graph(
        graph,
        rows,
        space=space,
        M=M,
        ef_construction=_EF_CONSTRUCTION,
        capacity=len(rows),
        work_dir=work_dir,
    ).index
    asked = np.ascontiguousarray(queries)

    def search(ef: int) -> npt.NDArray[np.int64]:
        index.set_ef(ef)
        return np.asarray(index.knn_query(asked, K, num_threads=1)[0], np.int64)

    return search
