"""Search latency in one process while another process writes and an indexer builds.

The collection starts with half the rows in one graph. A second process then upserts new rows: first
at a rate that the indexer sustains (a fraction of the rate at which it built the first half), then
at full speed. This process searches throughout, at a steady pace. The benchmark prints p50 and p99,
the rows written per second, and the unindexed bytes, which every search has to scan.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb_bench.common import glove, median

__all__ = ["measure_beside"]

_PACE_S = 0.005
_SUSTAINED_FRACTION = 0.5
"""Fraction of the rate of an undisturbed build: writer and searches need the cores as well."""

_WRITER = """
import sys, time
import numpy as np
import vecdb
folder, first, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
vectors = np.load(sys.argv[5], mmap_mode="r")
with vecdb.open(folder) as database:
    words = database.collection("words")
    print("ready", flush=True)
    began = time.monotonic()
    done = 0
    while time.monotonic() - began < seconds and first + done < len(vectors):
        batch = np.asarray(vectors[first + done : first + done + 200])
        words.upsert(range(first + done, first + done + len(batch)), batch)
        done += len(batch)
        ahead_s = done / rate - (time.monotonic() - began) if rate else 0
        if ahead_s > 0:
            time.sleep(ahead_s)
    print(done, time.monotonic() - began, flush=True)
"""


def _searched(words: Any, queries: Any, until: Any) -> tuple[list[float], list[int]]:
    """Return the latency of each search in ms, and the unindexed bytes, sampled every 50 calls."""
    took_ms, unindexed = [], []
    row_bytes = 4 * words.dim
    i = 0
    while not until(i):
        began = time.perf_counter()
        hits = words.search(queries[i % len(queries)], k=10)
        took_ms.append(1e3 * (time.perf_counter() - began))
        assert len(hits) == 10
        if i % 50 == 0:
            unindexed.append(words.stats().unindexed_rows * row_bytes)
        i += 1
        time.sleep(_PACE_S)
    return took_ms, unindexed


def measure_beside(rows: int = 400_000, seconds: float = 30.0) -> dict[str, Any]:
    """Measure p50 and p99 of searches in ms, without a writer and with one."""
    base, queries = glove(rows)
    half = rows // 2
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, file = Path(place) / "data", Path(place) / "vectors.npy"
        np.save(file, np.concatenate([base, base[::-1] * np.float32(0.5) + base * np.float32(0.5)]))
        with vecdb.open(folder) as database:
            words = database.create_collection("words", base.shape[1])
            began = time.monotonic()
            words.upsert_many(range(half), base[:half])
            words.optimize()
            build_rate = half / (time.monotonic() - began)
        rate = _SUSTAINED_FRACTION * build_rate
        first = half
        with vecdb.open(folder, indexer=False) as database:
            words = database.collection("words")
            idle, _ = _searched(words, queries, lambda i: i >= 1500)
            results["idle"] = _report("idle", idle, [0], 0.0)
            for name, paced in (("sustained", rate), ("full", 0.0)):
                command = [sys.executable, "-c", _WRITER, str(folder), str(first), str(paced)]
                writer = subprocess.Popen(
                    [*command, str(seconds), str(file)],
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                )
                assert writer.stdout is not None
                assert writer.stdout.readline() == "ready\n"
                took, unindexed = _searched(
                    words, queries, lambda i, w=writer: w.poll() is not None and i > 0
                )
                done, took_s = writer.stdout.read().split()
                writer.stdout.close()
                first += int(done)
                results[name] = _report(name, took, unindexed, int(done) / float(took_s))
    ratio = results["sustained"]["p99_ms"] / results["idle"]["p99_ms"]
    print(f"  p99 beside sustained writing / idle: {ratio:.2f} (bound: 5)")
    return {**results, "ratio": ratio}


def _report(
    name: str, took_ms: list[float], unindexed: Sequence[float], rate: float
) -> dict[str, float]:
    p50, p99 = np.percentile(took_ms, [50, 99])
    print(
        f"  {name:10s} p50 {p50:.2f} ms, p99 {p99:.2f} ms; {rate:,.0f} rows a second written; "
        f"unindexed {median(unindexed) / 1e6:.1f} MB (at most {max(unindexed) / 1e6:.1f})",
        flush=True,
    )
    return {"p50_ms": float(p50), "p99_ms": float(p99), "rows_per_s": rate}
