"""Searching a collection four times the size of the memory there is, by codes and in float32.

All rows are in one graph segment. A process whose memory a control group limits to a quarter of the
segment's files, with the pages of files that it reads, searches one query a call at a target of
recall. With codes a walk reads sketches and links, and float32 rows of the best candidates only;
with ``codes="none"`` the same graph is walked over float32 rows. Before each turn all files are
dropped from the page cache; then comes a warm-up. Without a limit, the same is measured once more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb.errors import InternalError, UnsupportedError
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.embedded import NAME
from vecdb_bench.targets.memory_group import drop_from_cache, inside, limited_memory, peak_bytes

__all__ = ["PART", "TITLE", "run"]

TITLE = "A collection four times the size of memory"
TARGET = "vecdb"
PART = 4
"""The limit is the size of the segment's files, divided by this."""

LEAST_BYTES = 128 * 1024**2
"""Below this limit, Python and its libraries would not leave much."""

K = 10
RECALL = 0.95
_TIMEOUT_S = 600.0


def run(context: Context) -> None:
    """Measure with and without codes, with and without a limit, unless the results have that."""
    points: list[dict[str, Any]] = [
        {"codes": codes, "limited": limited} for limited in (True, False) for codes in _CODES
    ]
    if TARGET not in context.targets or all(context.known(TARGET, **at) for at in points):
        return
    with context.attempt(TARGET, **points[0]), Bench(context) as bench:
        context.say(f"{TARGET}: {len(context.dataset.base):,} rows, with memory for a quarter")
        folder = bench.folder / "memory"
        size = _fill(context, folder)
        for point in points:
            with context.attempt(TARGET, **point):
                context.record(TARGET, point, _measured(context, bench, folder, size, **point))


_CODES = ("auto", "none")


def _fill(context: Context, folder: Path) -> int:
    """Write all rows into one graph; return the bytes of its files."""
    with vecdb.open(folder) as database:
        docs = database.create_collection(NAME, context.dataset.dim, context.dataset.metric)
        base = np.asarray(context.dataset.base)
        docs.upsert_many([str(row) for row in range(len(base))], base)
        docs.optimize()
        return sum(segment.bytes for segment in docs.stats().segments)


def _measured(
    context: Context, bench: Bench, folder: Path, size: int, codes: str, limited: bool
) -> dict[str, Any]:
    if limited and size // PART < LEAST_BYTES:
        raise UnsupportedError(
            f"a quarter of {size} bytes is less than the {LEAST_BYTES} that a process needs",
            "NO_MEMORY_LIMIT",
        )
    ef = None if codes == "auto" else _least_ef(context, folder)
    turns, peaks, recalls = [], [], []
    for _ in range(context.scale.rounds):
        drop_from_cache(folder)
        with limited_memory(size // PART) if limited else nullcontext() as group:
            out = str(bench.folder / "found.npy")
            arguments = {
                "folder": str(folder), "collection": NAME, "codes": codes,
                "queries": bench.queries, "k": K, "target": RECALL, "ef": ef,
                "seconds": context.scale.latency_seconds, "out": out,
            }  # fmt: skip
            turns.append(_searched(arguments, group))
            peaks += [peak_bytes(group)] if group is not None else []
        found = np.load(out)
        asked = found[:, 0] >= 0
        recalls.append(_recall(context, found, asked))
    figures = {name: summary([turn[name] for turn in turns]) for name in turns[0]}
    return {
        **figures,
        "recall_10": min(recalls),
        "ef": ef,
        "segment_bytes": size,
        "limit_bytes": size // PART if limited else None,
        "peak_bytes": max(peaks, default=None),
    }


def _least_ef(context: Context, folder: Path) -> int:
    """Return the least ef at which float32 reaches the recall, since its curve is not stored."""
    queries = np.asarray(context.dataset.queries)
    with vecdb.open(folder, codes="none", recall_meter=0) as database:
        docs: Any = database.collection(NAME)
        for ef in context.scale.efforts:
            found = docs.search(queries, K, ef=max(ef, K), include_metadata=False)
            rows = np.array([[int(name) for name in hits.ids] for hits in found])
            if context.dataset.recall(rows, K) >= RECALL:
                break
    return max(ef, K)


def _recall(context: Context, found: np.ndarray, asked: np.ndarray) -> float:
    """Return the recall of the queries that were asked."""
    share = float(asked.mean())
    # A query that was not asked counts as nothing found.
    return context.dataset.recall(found, K) / share if share else 0.0


def _searched(arguments: dict[str, Any], group: Path | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "vecdb_bench.targets.short_memory", json.dumps(arguments)]
    done = subprocess.run(
        command if group is None else inside(group, command),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
    )
    if done.returncode:
        raise InternalError(
            f"the search within a limit of memory exited with status {done.returncode}:\n"
            f"{done.stderr[-1000:]}",
            "TARGET_FAILED",
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
