"""A collection out as a FAISS file, beside FAISS building that index from the same vectors.

FAISS alone: the vectors are in memory and one ``IndexHNSWFlat.add`` builds the graph with the same
M and ef_construction. Ours: ``export_faiss`` over gRPC from a server whose graph is there, until
file and side file are fsynced. How much the server's memory grew meanwhile is read ten times a
second; mapped files count as long as their pages are held.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb_bench.common import median, served_process, spread

__all__ = ["measure_export"]

_M, _EF_CONSTRUCTION, _K = 16, 128, 10
_LOOK_EVERY_S = 0.1


class _Memory(threading.Thread):
    """Looks at a process's resident memory until it is told to stop. Attributes: peak, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._status = Path(f"/proc/{pid}/status")
        self.stopping = threading.Event()
        self.peak = self.now()

    def now(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", self._status.read_text())
        assert found is not None
        return 1024 * int(found[1])

    def run(self) -> None:
        while not self.stopping.wait(_LOOK_EVERY_S):
            self.peak = max(self.peak, self.now())


def measure_export(
    rows: int = 400_000, dim: int = 256, rounds: int = 1, threads: int = 2
) -> dict[str, Any]:
    """Seconds of an export and of FAISS's build, and by how much the server's memory grew."""
    import faiss

    random = np.random.default_rng(1)
    centres = random.standard_normal((1_000, dim), np.float32)
    base = centres[random.integers(0, 1_000, rows)]
    base += 0.5 * random.standard_normal((rows, dim), np.float32)
    queries = base[random.integers(0, rows, 200)]
    queries = queries + 0.3 * random.standard_normal(queries.shape, np.float32)
    exports: list[float] = []
    grown: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        with (
            served_process(Path(place) / "data") as (pid, address),
            vecdb.connect(address) as client,
        ):
            docs = client.create_collection(
                "docs", dim, "euclidean", M=_M, ef_construction=_EF_CONSTRUCTION
            )
            docs.upsert_many(map(str, range(rows)), base, batch_rows=2_000)
            docs.optimize()
            for number in range(rounds):
                memory = _Memory(pid)
                before = memory.now()
                memory.start()
                report = docs.export_faiss(Path(place) / f"{number}.faiss")
                memory.stopping.set()
                memory.join()
                assert (report.rows, report.work) == (rows, "nothing")
                exports.append(report.elapsed_s)
                grown.append(memory.peak - before)
            hits = docs.search(queries, _K)
        index = faiss.read_index(str(Path(place) / "0.faiss"))
        found = index.search(queries, _K)[1]
        alike = np.mean(
            [set(map(int, h.ids)) == set(f.tolist()) for h, f in zip(hits, found, strict=True)]
        )
    faiss.omp_set_num_threads(threads)
    began = time.perf_counter()
    built = faiss.IndexHNSWFlat(dim, _M)
    built.hnsw.efConstruction = _EF_CONSTRUCTION
    built.add(base)
    built_s = time.perf_counter() - began
    ratio = built_s / median(exports)
    print(f"{rows} x {dim} out of a server as a FAISS file, M {_M}; seconds")
    print(f"  export_faiss over gRPC   {spread(exports)}, {rows / median(exports):,.0f} rows/s")
    print(f"  IndexHNSWFlat.add alone  {built_s:.3g}, {rows / built_s:,.0f} rows/s")
    print(f"  built / exported: {ratio:.3g}")
    print(f"  the server's memory grew by {max(grown) / 1e6:.0f} MB (bound: 300)")
    print(f"  FAISS found the same {_K} as the server for {alike:.1%} of the queries")
    return {"exported_s": exports, "built_s": built_s, "ratio": ratio, "grown_bytes": max(grown),
            "alike": float(alike)}  # fmt: skip
