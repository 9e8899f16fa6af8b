"""Time from ``vecdb.open`` to the first answer, memory of an idle server, cost of a snapshot check.

``measure_opening``: opens in a new process each time, with the kernels compiled beforehand. One
collection has 10,000 rows and one 400,000, each with 15 % of its rows deleted and 10,000 rows in
the memtable. The time should hardly depend on the number of rows, since segments are mapped, not
read.

``measure_memory``: the server's private memory (without the page cache) after its first answers.

``measure_snapshot_check``: the time a search takes to check that its snapshot is still the newest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb.engine.testing import opened_of
from vecdb_bench.common import glove, in_turns, median, served_process, spread

__all__ = ["measure_memory", "measure_opening", "measure_snapshot_check"]

_CHILD = """
import sys, time
import numpy as np
import vecdb
query = np.load(sys.argv[2])
began = time.perf_counter()
database = vecdb.open(sys.argv[1], indexer=False)
hits = database.collection("words").search(query, k=10)
took = time.perf_counter() - began
assert len(hits) == 10, hits
print(took)
database.close()
"""


def _prepared(folder: Path, rows: int, fresh: int) -> None:
    """Create a collection with 15 % of its rows deleted and ``fresh`` rows in the memtable."""
    base, _ = glove(rows)
    rng = np.random.default_rng(5)
    with vecdb.open(folder) as database:
        words = database.create_collection("words", base.shape[1])
        words.upsert_many(range(rows), base)
        words.optimize()
        deleted = rng.permutation(rows)[: int(0.15 * rows)]
        for start in range(0, len(deleted), 1000):
            words.delete(deleted[start : start + 1000].tolist())
        extra = base[rng.integers(0, rows, fresh)] + rng.normal(0, 0.1, (fresh, base.shape[1]))
        words.upsert_many(range(rows, rows + fresh), extra.astype(np.float32))
        stats = words.stats()
        assert stats.live_count == rows - len(deleted) + fresh, stats
        assert stats.fresh_rows == fresh, stats


def measure_opening(
    small: int = 10_000, large: int = 400_000, fresh: int = 10_000, rounds: int = 9
) -> dict[str, Any]:
    """Measure seconds from ``vecdb.open`` to the first answer, runs interleaved."""
    with tempfile.TemporaryDirectory() as place:
        folders = {"small": Path(place) / "small", "large": Path(place) / "large"}
        for name, rows in (("small", small), ("large", large)):
            _prepared(folders[name], rows, fresh)
        query_file = Path(place) / "query.npy"
        np.save(query_file, glove(small)[1][0])

        def opened(name: str) -> float:
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, str(folders[name]), str(query_file)],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
            return float(done.stdout)

        opened("small"), opened("large")
        figures = in_turns(rounds, small=lambda: opened("small"), large=lambda: opened("large"))
    ratios = [b / a for a, b in zip(figures["small"], figures["large"], strict=True)]
    print(f"from vecdb.open to the first answer, 15 % dead, {fresh} fresh rows; seconds")
    print(f"  {small:7d} rows   {spread(figures['small'])}")
    print(f"  {large:7d} rows   {spread(figures['large'])}")
    print(f"  ratio {spread(ratios)} (bound: 1.5)")
    return {"figures": figures, "ratio": median(ratios)}


def _private_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Private_")
    )


def measure_memory(rows: int = 400_000) -> dict[str, Any]:
    """Measure the private memory, in bytes, of a server that has answered and is idle."""
    base, queries = glove(rows)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        with vecdb.open(folder) as database:
            words = database.create_collection("words", base.shape[1])
            words.upsert_many(range(rows), base)
            words.optimize()
        with served_process(folder) as (pid, address), vecdb.connect(address) as client:
            served = client.collection("words")
            for query in queries[:200]:
                assert len(served.search(query, k=10)) == 10
            served.search(queries, k=10)
            time.sleep(1.0)
            private = _private_bytes(pid)
    bound = 300e6 + 0.05 * base.nbytes
    print(f"private memory of an idle server with {rows} x {base.shape[1]}")
    print(f"  {private / 1e6:.0f} MB (bound: {bound / 1e6:.0f} MB)")
    return {"private_bytes": private, "bound_bytes": bound}


def measure_snapshot_check(rows: int = 20_000, count: int = 20_000) -> dict[str, Any]:
    """Measure the microseconds that checking whether a snapshot is the newest takes."""
    base, _ = glove(rows)
    with tempfile.TemporaryDirectory() as place:
        with vecdb.open(place) as database:
            words = database.create_collection("words", base.shape[1])
            words.upsert_many(range(rows), base)
            words.optimize()  # A flush or a build during the measurement would end the snapshot.
        took = _snapshot_checks_us(Path(place), count)
    print(f"the check that a snapshot is the newest: {spread(took)} µs")
    return {"view_check_us": median(took)}


def _snapshot_checks_us(folder: Path, count: int) -> list[float]:
    with vecdb.open(folder, indexer=False) as database:
        snapshot = opened_of(database.collection("words")).snapshots.snapshot
        held = snapshot()
        took = []
        for _ in range(9):
            began = time.perf_counter()
            for _ in range(count):
                snapshot()
            took.append(1e6 * (time.perf_counter() - began) / count)
        assert snapshot() is held
        return took
