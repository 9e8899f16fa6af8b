"""Export to a FAISS file and import from it, beside building that index from vectors.

    export_s             over gRPC, from a server that has the graph, until the file is fsynced
    embedded_export_s    the same export without gRPC
    import_s             over gRPC into a new collection, until its rows are durable and its graph
                         is searchable
    load_s               upserts and indexing of the same rows, over gRPC
    faiss_build_s        one ``IndexHNSWFlat.add`` of the vectors in memory, with the same M and
                         ef_construction

The growth of the server's resident memory is sampled; pages of mapped files count while resident.
FAISS reads the exported file, and its answers are compared with the server's.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.served import served_process

__all__ = ["TITLE", "run"]

TITLE = "Export to and import from a FAISS file"
TARGET = "vecdb-served"
K = 10
EFFORT = 128
"""That of the exported file, so that both walk alike."""

_QUERIES = 200
_SAMPLE_EVERY_S = 0.1


def run(context: Context) -> None:
    """Measure unless the results have it; needs FAISS."""
    point = {"what": "FAISS file"}
    if TARGET not in context.targets or context.known(TARGET, **point) is not None:
        return
    with context.attempt(TARGET, **point), Bench(context) as bench:
        figures = _served(context, bench)
        context.say("FAISS: building the index from vectors")
        rows = len(context.dataset.base)
        built = bench.load(bench.opened("faiss"), rows, batch=rows)["indexed_s"]
        context.record(TARGET, point, {"rows": rows, **figures, "faiss_build_s": summary([built])})


def _served(context: Context, bench: Bench) -> dict[str, Any]:
    base, queries = context.dataset.base, np.array(context.dataset.queries[:_QUERIES])
    names = ("export_s", "import_s", "export_grown_bytes", "import_grown_bytes")
    seen: dict[str, list[float]] = {name: [] for name in names}
    folder, file = bench.folder / "data", bench.folder / "docs.faiss"
    context.say(f"{TARGET}: loading {len(base):,} rows")
    with served_process(folder) as (pid, address), vecdb.connect(address) as client:
        began = time.perf_counter()
        docs = client.create_collection(
            "docs",
            context.dataset.dim,
            context.dataset.metric,
            M=context.settings.M,
            ef_construction=context.settings.ef_construction,
        )
        docs.upsert_many(map(str, range(len(base))), base, batch_rows=2_000)
        docs.optimize()
        load_s = time.perf_counter() - began
        _wait_until_verified(docs, queries[0])
        for _ in range(context.scale.rounds):
            context.say(f"{TARGET}: export and import")
            with _memory_growth(pid) as grown:
                out = docs.export_faiss(file, overwrite=True)
            seen["export_s"].append(out.elapsed_s)
            seen["export_grown_bytes"].append(max(grown))
            with _memory_growth(pid) as grown:
                back = client.import_faiss(file, "back")
            seen["import_s"].append(back.elapsed_s)
            seen["import_grown_bytes"].append(max(grown))
            again = _ids(client.collection("back"), queries)
            client.drop_collection("back")
            _check((out.rows, out.work, back.rows), (len(base), "nothing", len(base)))
        hits = _ids(docs, queries)
        _check(hits, again)
    return {
        **{name: summary(values) for name, values in seen.items()},
        "load_s": summary([load_s]),
        "embedded_export_s": summary(_embedded(context, folder, queries[0], out.sha256)),
        "same_answers_as_faiss": _same_answers(context, file, queries, hits),
    }


def _embedded(context: Context, folder: Path, query: Any, sha256: str) -> list[float]:
    """Return the seconds of each export of the collection by this process."""
    took = []
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        _wait_until_verified(docs, query)
        for _ in range(context.scale.rounds):
            out = docs.export_faiss(folder.parent / "embedded.faiss", overwrite=True)
            _check((out.sha256, out.work), (sha256, "nothing"))
            took.append(out.elapsed_s)
    return took


def _same_answers(context: Context, file: Path, queries: Any, hits: list[Any]) -> float:
    """Return the share of queries for which FAISS finds the same rows in the file."""
    import faiss

    unit = context.dataset.metric == "cosine"
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True) if unit else queries
    found = faiss.read_index(str(file)).search(np.ascontiguousarray(asked), K)[1]
    return float(np.mean([set(map(int, a)) == set(b) for a, b in zip(hits, found, strict=True)]))


def _ids(docs: Any, queries: Any) -> list[Any]:
    return [hits.ids for hits in docs.search(queries, K, ef=EFFORT)]


def _wait_until_verified(docs: Any, query: Any) -> None:
    """Wait for the checksums of the files, which are verified in the background first."""
    while not docs.search(query, K).info.verified:
        time.sleep(0.1)


def _check(found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"expected {expected}, got {found}")


@contextmanager
def _memory_growth(pid: int) -> Iterator[list[int]]:
    """Sample the growth of a process's resident memory, in bytes, into the list of the context."""

    def resident() -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found is not None
        return 1024 * int(found[1])

    before, grown, stopping = resident(), [0], threading.Event()

    def sample() -> None:
        while not stopping.wait(_SAMPLE_EVERY_S):
            grown.append(resident() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield grown
    finally:
        stopping.set()
        thread.join()
