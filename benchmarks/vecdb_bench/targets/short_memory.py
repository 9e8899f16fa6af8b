"""Searches a collection, one query a call, in a process of its own; its memory may be limited.

``python -m vecdb_bench.targets.short_memory ARGUMENTS``, a JSON object with the arguments of
``measure``; prints its result as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import vecdb

__all__ = ["main", "measure"]


def measure(
    folder: str, collection: str, codes: str, queries: str, k: int, target: float | None,
    ef: int | None, seconds: float, out: str,
) -> dict[str, Any]:  # fmt: skip
    """Search with all queries in turn until the time is over, after as long a warm-up.

    Args:
        codes: as for ``vecdb.open``.
        target, ef: one of them; how good answers have to be.
        queries: file of the queries. out: file for the ids found, int64 (q, k); -1 for a query that
            was not reached.

    Returns:
        Queries, queries/s, median and 99th percentile of the time of a query in milliseconds, and
        for each query the pages that had to wait for the disk and the bytes read from it.
    """
    asked = np.load(queries)
    effort: dict[str, Any] = {"target_recall": target} if ef is None else {"ef": ef}
    found = np.full((len(asked), k), -1, np.int64)
    options: dict[str, Any] = {"codes": codes, "recall_meter": 0, "threads": 1, "indexer": False}
    with vecdb.open(folder, **options) as database:
        docs = database.collection(collection)

        def search(at: int) -> float:
            began = time.perf_counter()
            hits = docs.search(asked[at], k, **effort, include_metadata=False)
            took = time.perf_counter() - began
            found[at] = [int(name) for name in hits.ids]
            return took

        ends, at = time.perf_counter() + seconds, 0
        while time.perf_counter() < ends:
            search(at % len(asked))
            at += 1
        before, read, took = _waits(), _bytes_read(), []
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            took.append(search(at % len(asked)))
            at += 1
        passed = time.perf_counter() - began
        np.save(out, found)
        return {
            "queries": len(took),
            "queries_per_s": len(took) / passed,
            "p50_ms": 1000 * float(np.percentile(took, 50)),
            "p99_ms": 1000 * float(np.percentile(took, 99)),
            "waits": (_waits() - before) / len(took),
            "bytes_read": (_bytes_read() - read) / len(took),
        }


def _waits() -> int:
    """Return the page faults of this process that had to wait for the disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _bytes_read() -> int:
    """Return the bytes that this process has read from the disk; 0 if the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), 0)


def main() -> None:
    """Measure as the first argument says, and print the result."""
    print(json.dumps(measure(**json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
