"""Time from the first upsert until all rows are in one graph segment, compared with hnswlib.

Baseline: with the vectors in memory, one hnswlib ``add_items`` builds the graph with the same M,
ef_construction and threads. Ours: each row is written durably over gRPC while the indexer builds.
A client searches throughout; p50 is reported during the load and after it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np

import vecdb
from vecdb_bench.common import glove, in_turns, median, recall, served, spread

__all__ = ["measure_indexing"]

_SEARCH_EVERY_S = 0.1


class _Searches(threading.Thread):
    """A client that searches every ``_SEARCH_EVERY_S`` seconds until ``stopping`` is set."""

    def __init__(self, address: str, queries: Any) -> None:
        super().__init__()
        self.address, self.queries = address, queries
        self.took_ms: list[float] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        with vecdb.connect(self.address) as client:
            words = client.collection("words")
            while not self.stopping.wait(_SEARCH_EVERY_S):
                query = self.queries[len(self.took_ms) % len(self.queries)]
                began = time.perf_counter()
                words.search(query, k=10)
                self.took_ms.append(1e3 * (time.perf_counter() - began))


class _Run:
    """Figures of the loads, one entry per load.

    Attributes:
        loading: rows per second of the upserts.
        during_ms, after_ms: p50 of searches during the load and after it.
        recalls: recall@10.
    """

    def __init__(self) -> None:
        self.loading: list[float] = []
        self.during_ms: list[float] = []
        self.after_ms: list[float] = []
        self.recalls: list[float] = []

    def load(self, base: Any, queries: Any) -> float:
        """Return the seconds from the first upsert until all rows are in one graph, over gRPC."""
        names = [str(i) for i in range(len(base))]
        with (
            tempfile.TemporaryDirectory() as place,
            served(Path(place) / "data") as address,
            vecdb.connect(address) as client,
        ):
            words = client.create_collection("words", base.shape[1])
            searches = _Searches(address, queries)
            searches.start()
            began = time.perf_counter()
            words.upsert_many(names, base)
            self.loading.append(len(base) / (time.perf_counter() - began))
            stats = words.optimize()
            took_s = time.perf_counter() - began
            searches.stopping.set()
            searches.join()
            assert [(s.kind, s.rows) for s in stats.segments] == [("graph", len(base))]
            self.during_ms.append(median(searches.took_ms))
            self._look(words, queries)
        return took_s

    def _look(self, words: Any, queries: Any) -> None:
        quiet = []
        for query in queries[:200]:
            began = time.perf_counter()
            words.search(query, k=10)
            quiet.append(1e3 * (time.perf_counter() - began))
        self.after_ms.append(median(quiet))
        exact, found = words.search(queries, k=10, exact=True), words.search(queries, k=10)
        self.recalls.append(recall(found, exact))


def measure_indexing(rows: int = 400_000, rounds: int = 3, threads: int = 2) -> dict[str, Any]:
    """Measure seconds until all rows are in one graph: hnswlib and ours over gRPC, interleaved."""
    base, queries = glove(rows)
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    run = _Run()
    theirs: list[float] = []

    def alone() -> float:
        began = time.perf_counter()
        index = hnswlib.Index("ip", base.shape[1])
        index.init_index(rows, M=16, ef_construction=128)
        index.add_items(unit, np.arange(rows), num_threads=threads)
        took_s = time.perf_counter() - began
        index.set_ef(128)
        asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        bounds = np.concatenate(
            [np.partition(1 - part @ unit.T, 9, axis=1)[:, 9] for part in np.split(asked, 10)]
        )
        found = index.knn_query(asked, k=10)[1]
        theirs.append(float((found <= bounds[:, None] + 1e-6).mean()))
        return took_s

    figures = in_turns(rounds, hnswlib_alone=alone, until_indexed=lambda: run.load(base, queries))
    ratios = [
        o / a for o, a in zip(figures["until_indexed"], figures["hnswlib_alone"], strict=True)
    ]
    print(f"until {rows} x 50 GloVe are in one graph, M 16, ef_construction 128; seconds")
    for name, values in figures.items():
        print(f"  {name:14s} {spread(values)}")
    print(f"  until indexed / hnswlib alone: {spread(ratios)} (bound: 1.3)")
    print(f"  rows a second while loading over gRPC: {spread(run.loading)}")
    print(f"  search p50 during load {spread(run.during_ms)} ms, after {spread(run.after_ms)} ms")
    print(f"  recall@10 at ef 128: {spread(run.recalls)}, of hnswlib's graph {spread(theirs)}")
    return {
        "figures": figures,
        "ratio": median(ratios),
        "during_ms": median(run.during_ms),
        "recall": median(run.recalls),
    }
