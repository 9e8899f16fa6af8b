"""One query over gRPC compared with its parts, and batches compared with in-process search.

``measure_query``: p50 of a search through a server, of a bare echo (whose messages are as large as
the request in both directions) and of the same search in this process, on the same folder. The
overhead of server and client is the first minus the sum of the other two.

``measure_batch``: queries per second in batches of 100 through a server, compared with in-process.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import vecdb
from vecdb_bench.common import echoing, glove, in_turns, median, recall, served, spread
from vecdb_bench.echo import METHOD

__all__ = ["measure_batch", "measure_query"]


def _filled(folder: Path, rows: int) -> Any:
    base, queries = glove(rows)
    with vecdb.open(folder) as database:
        words = database.create_collection("words", 50)
        words.upsert_many((str(i) for i in range(rows)), base)
        words.optimize()
    return queries


def _p50s_us(calls: dict[str, Any], queries: Any, count: int) -> dict[str, float]:
    """Return the p50 of each call in microseconds; for each query all calls are made in turn.

    All calls thus find the processor's caches in the same state. In a tight loop a search finds its
    code and data cached, which a search triggered by a message does not, embedded or served.
    """
    took = {name: np.empty(count) for name in calls}
    for i in range(count):
        query = queries[i % len(queries)]
        for name, call in calls.items():
            began = time.perf_counter()
            call(query)
            took[name][i] = time.perf_counter() - began
    return {name: float(np.median(times) * 1e6) for name, times in took.items()}


def measure_query(rows: int = 400_000, rounds: int = 7, count: int = 1000) -> dict[str, Any]:
    """Measure the p50 in microseconds of echo, in-process search and search over gRPC."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        queries = _filled(folder, rows)
        with (
            served(folder) as address,
            echoing() as echo_address,
            vecdb.open(folder, indexer=False) as database,
            vecdb.connect(address) as client,
            grpc.insecure_channel(echo_address) as channel,
        ):
            here, there = database.collection("words"), client.collection("words")
            echo = channel.unary_unary(METHOD)
            message = queries[0].tobytes() + b"words" + bytes(16)
            for query in queries[:50]:
                a, b = here.search(query, k=10), there.search(query, k=10)
                assert a.ids == b.ids and (a.distances == b.distances).all()
                echo(message)
            calls = {
                "echo": lambda _: echo(message),
                "in_process": lambda q: here.search(q, k=10),
                "over_grpc": lambda q: there.search(q, k=10),
            }
            mixed = [_p50s_us(calls, queries, count) for _ in range(rounds)]
            figures = {name: [turn[name] for turn in mixed] for name in calls}
            loops = [
                {name: _p50s_us({name: call}, queries, count)[name] for name, call in calls.items()}
                for _ in range(rounds)
            ]
            tight = {name: [turn[name] for turn in loops] for name in calls}
            exact = here.search(queries, k=10, exact=True)
            share = recall(here.search(queries, k=10), exact)
    print(f"one query, k 10, ef 128, {rows} x 50 GloVe, cosine; recall@10 {share:.4f}; p50 in µs")
    overheads = {}
    for rhythm, kind in (("one after the other", figures), ("each in a tight loop", tight)):
        print(f"  {rhythm}:")
        for name, values in kind.items():
            print(f"    {name:12s} {spread(values)}")
        over = [
            g - e - p
            for g, e, p in zip(kind["over_grpc"], kind["echo"], kind["in_process"], strict=True)
        ]
        overheads[rhythm] = median(over)
        print(f"    server and client add {spread(over)} µs (bound: 100)")
    return {"figures": figures, "tight": tight, "overheads_us": overheads, "recall": share}


def measure_batch(rows: int = 400_000, rounds: int = 7, size: int = 100) -> dict[str, Any]:
    """Measure queries per second in batches, over gRPC and in process, interleaved."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        queries = _filled(folder, rows)
        with (
            served(folder) as address,
            vecdb.open(folder, indexer=False) as database,
            vecdb.connect(address) as client,
        ):
            here, there = database.collection("words"), client.collection("words")
            batches = [queries[i : i + size] for i in range(0, len(queries), size)]

            def rate(collection: Any, callers: int) -> float:
                """Run all batches once per caller; each thread has one call in flight."""

                def ask(batch: Any) -> None:
                    answers = collection.search(batch, k=10)
                    assert len(answers) == len(batch) and len(answers[-1]) == 10

                with ThreadPoolExecutor(callers) as pool:
                    began = time.perf_counter()
                    list(pool.map(ask, batches * callers))
                    return callers * len(queries) / (time.perf_counter() - began)

            results: dict[str, Any] = {}
            print(f"batches of {size}, k 10, ef 128, {rows} x 50 GloVe, cosine; queries a second")
            for callers in (1, 2):
                rate(here, callers), rate(there, callers)
                figures = in_turns(
                    rounds,
                    in_process=lambda: rate(here, callers),  # noqa: B023
                    over_grpc=lambda: rate(there, callers),  # noqa: B023
                )
                ratios = [
                    g / p for g, p in zip(figures["over_grpc"], figures["in_process"], strict=True)
                ]
                print(f"  {callers} caller{'s' if callers > 1 else ''}:")
                for name, values in figures.items():
                    print(f"    {name:12s} {spread(values)}")
                print(f"    over gRPC / in process: {spread(ratios)} (bound: 0.85)")
                results[f"callers_{callers}"] = {"figures": figures, "ratio": median(ratios)}
    return results
