"""Export to a FAISS file and import from it, compared with building that index from vectors.

Baseline: with the vectors in memory, one ``IndexHNSWFlat.add`` builds the graph with the same M and
ef_construction.

Export: ``export_faiss`` over gRPC from a server that has the graph already, until the file and its
sidecar are fsynced; and the same call embedded, without gRPC. The growth of the server's resident
memory during the call is sampled ten times a second; pages of mapped files count while resident.

Import: ``import_faiss`` over gRPC into a new collection of that server, until all rows are durable
and the graph is searchable, compared with ``upsert_many`` and ``optimize`` of the same vectors.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb_bench.common import glove, median, served_process, spread

__all__ = ["measure_export"]

_M, _EF_CONSTRUCTION, _K = 16, 128, 10
_LOOK_EVERY_S = 0.1


class _Memory(threading.Thread):
    """Samples a process's resident memory until ``stopping`` is set.

    Attributes:
        grown: greatest growth since the start, in bytes.
    """

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._status = Path(f"/proc/{pid}/status")
        self._before = self._now()
        self.stopping = threading.Event()
        self.grown = 0

    def _now(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", self._status.read_text())
        assert found is not None
        return 1024 * int(found[1])

    def run(self) -> None:
        while not self.stopping.wait(_LOOK_EVERY_S):
            self.grown = max(self.grown, self._now() - self._before)


def _widened(rows: int, dim: int) -> tuple[Any, Any]:
    """Return GloVe vectors and 200 queries mapped to ``dim`` by a fixed random two-layer net."""
    random = np.random.default_rng(1)
    first = 2 * random.standard_normal((50, 2 * dim), np.float32)
    second = random.standard_normal((2 * dim, dim), np.float32)

    def widen(words: Any) -> Any:
        words = words / np.linalg.norm(words, axis=1, keepdims=True)
        return np.tanh(words @ first) @ second

    base, queries = glove(rows)
    return np.concatenate([widen(part) for part in np.array_split(base, 20)]), widen(queries[:200])


@contextmanager
def _watched(pid: int) -> Iterator[_Memory]:
    memory = _Memory(pid)
    memory.start()
    try:
        yield memory
    finally:
        memory.stopping.set()
        memory.join()


def _embedded(folder: Path, queries: Any, rounds: int, sha256: str) -> list[float]:
    """Return the seconds of each export of the collection by this process."""
    taken = []
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        while not docs.search(queries[0], _K).info.verified:
            time.sleep(0.1)
        for _ in range(rounds):
            out = docs.export_faiss(folder.parent / "embedded.faiss", overwrite=True)
            assert (out.sha256, out.work) == (sha256, "nothing")
            taken.append(out.elapsed_s)
    return taken


def measure_export(
    rows: int = 400_000, dim: int = 256, rounds: int = 3, threads: int = 2
) -> dict[str, Any]:
    """Measure export, import and FAISS's build in seconds, and the server's memory growth."""
    import faiss

    base, queries = _widened(rows, dim)
    taken: dict[str, list[float]] = {name: [] for name in ("export", "import")}
    grown: dict[str, list[float]] = {name: [] for name in taken}
    with tempfile.TemporaryDirectory() as place:
        with (
            served_process(Path(place) / "data") as (pid, address),
            vecdb.connect(address) as client,
        ):
            began = time.perf_counter()
            docs = client.create_collection(
                "docs", dim, "euclidean", M=_M, ef_construction=_EF_CONSTRUCTION
            )
            docs.upsert_many(map(str, range(rows)), base, batch_rows=2_000)
            docs.optimize()
            loaded_s = time.perf_counter() - began
            while not docs.search(queries[0], _K).info.verified:
                time.sleep(0.1)  # Checksums of the files are verified in the background first.
            file = Path(place) / "docs.faiss"
            for _ in range(rounds):
                with _watched(pid) as memory:
                    out = docs.export_faiss(file, overwrite=True)
                assert (out.rows, out.work) == (rows, "nothing")
                taken["export"].append(out.elapsed_s)
                grown["export"].append(memory.grown)
                with _watched(pid) as memory:
                    back = client.import_faiss(file, "back")
                assert (back.rows, back.graph) == (rows, "taken over"), back
                taken["import"].append(back.elapsed_s)
                grown["import"].append(memory.grown)
                again = client.collection("back").search(queries, _K)
                client.drop_collection("back")
            hits = docs.search(queries, _K)
            assert all(a.ids == b.ids for a, b in zip(hits, again, strict=True))
        taken["embedded"] = _embedded(Path(place) / "data", queries, rounds, out.sha256)
        index = faiss.read_index(str(file))
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
    exported_s, imported_s, embedded_s = (median(each) for each in taken.values())
    print(f"{rows} x {dim} between a server and a FAISS file over gRPC, M {_M}; seconds")
    print(f"  export_faiss             {spread(taken['export'])}, {rows / exported_s:,.0f} rows/s")
    print(
        f"  embedded                 {spread(taken['embedded'])}, {rows / embedded_s:,.0f} rows/s"
    )
    print(f"  IndexHNSWFlat.add alone  {built_s:.3g}, {rows / built_s:,.0f} rows/s")
    print(f"  built / exported: {built_s / exported_s:.3g}, embedded {built_s / embedded_s:.3g}")
    print(f"  import_faiss             {spread(taken['import'])}, {rows / imported_s:,.0f} rows/s")
    print(f"  upsert_many, optimize    {loaded_s:.3g}, {rows / loaded_s:,.0f} rows/s")
    print(f"  loaded / imported: {loaded_s / imported_s:.3g}")
    print(f"  the server's memory grew by {max(grown['export']) / 1e6:.0f} MB (bound: 300)", end="")
    print(f", importing by {max(grown['import']) / 1e6:.0f} MB")
    print(f"  FAISS found the same {_K} as the server for {alike:.1%} of the queries")
    return {"taken_s": taken, "built_s": built_s, "loaded_s": loaded_s, "grown_bytes": grown,
            "ratio": built_s / exported_s, "alike": float(alike)}  # fmt: skip
