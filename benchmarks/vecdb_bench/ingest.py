"""Durable writes in batches with random UUID ids, into a store that already holds rows.

Three writers store the same rows, ids and batches, each commit fsynced: a bare loop of putmulti on
LMDB (ids, records and blocks; no validation, nothing else stored), the engine in this process, and
a server over gRPC. Each round starts from copies of prepared folders, so that all writers start
from the same store. Runs are interleaved. The engine and the server flush and build graphs in the
background, as in normal operation.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt

import vecdb
from vecdb_bench.common import in_turns, median, served, spread, uuids

__all__ = ["measure_ingest"]

_BLOCK_BYTES = 65_520


class _Bare:
    """The minimal durable store: three LMDB databases, one transaction per batch."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.environment = lmdb.open(str(folder), map_size=1 << 36, max_dbs=4)
        self.ids, self.records, self.blocks = (
            self.environment.open_db(name) for name in (b"ids", b"records", b"blocks")
        )
        self.block_rows = max(1, _BLOCK_BYTES // (4 * dim))
        with self.environment.begin() as transaction:
            self.row = transaction.stat(self.records)["entries"]

    def upsert(self, ids: list[str], vectors: npt.NDArray[np.float32]) -> None:
        keys = [name.encode() for name in ids]
        pack, first = struct.Struct(">Q").pack, self.row
        with self.environment.begin(write=True) as transaction:
            with transaction.cursor(self.ids) as cursor:
                cursor.putmulti(sorted((key, pack(first + i)) for i, key in enumerate(keys)))
            with transaction.cursor(self.records) as cursor:
                cursor.putmulti([(pack(first + i), key) for i, key in enumerate(keys)], append=True)
            with transaction.cursor(self.blocks) as cursor:
                step = self.block_rows
                cursor.putmulti(
                    [
                        (pack(first + at), vectors[at : at + step].tobytes())
                        for at in range(0, len(vectors), step)
                    ],
                    append=True,
                )
        self.row += len(ids)

    def close(self) -> None:
        self.environment.close()


def measure_ingest(
    dim: int = 384, before: int = 300_000, rows: int = 100_000, batch: int = 1000, rounds: int = 3
) -> dict[str, Any]:
    """Measure rows per second of bare LMDB, the engine and a server, interleaved."""
    names = uuids(before + rows)
    vectors = np.random.default_rng(3).normal(size=(rows, dim)).astype(np.float32)

    def fill(upsert: Any, first: int, end: int) -> float:
        began = time.perf_counter()
        for at in range(first, end, batch):
            part = vectors[at % rows : at % rows + batch]
            upsert(names[at : at + len(part)], part)
        return (end - first) / (time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        bare = _Bare(root / "bare", dim)
        fill(bare.upsert, 0, before)
        bare.close()
        with vecdb.open(root / "engine") as database:
            docs = database.create_collection("docs", dim)
            fill(docs.upsert, 0, before)
            docs.optimize()

        def run_bare() -> float:
            copy = _copied(root / "bare")
            store = _Bare(copy, dim)
            rate = fill(store.upsert, before, before + rows)
            store.close()
            shutil.rmtree(copy)
            return rate

        def run_engine() -> float:
            copy = _copied(root / "engine")
            with vecdb.open(copy, indexer_outlives_parent=False) as database:
                rate = fill(database.collection("docs").upsert, before, before + rows)
            shutil.rmtree(copy)
            return rate

        def run_server() -> float:
            copy = _copied(root / "engine")
            with served(copy) as address, vecdb.connect(address) as client:
                docs = client.collection("docs")
                rate = fill(docs.upsert, before, before + rows)
                assert docs.count() == before + rows
            shutil.rmtree(copy)
            return rate

        figures = in_turns(rounds, bare_lmdb=run_bare, engine=run_engine, over_grpc=run_server)
    engine = [e / b for e, b in zip(figures["engine"], figures["bare_lmdb"], strict=True)]
    wire = [g / e for g, e in zip(figures["over_grpc"], figures["engine"], strict=True)]
    print(
        f"durable writes, {rows} x {dim} after {before}, random UUIDs, batches of {batch}, one "
        "writer; rows a second"
    )
    for name, values in figures.items():
        print(f"  {name:12s} {spread(values)}")
    print(f"  engine / bare LMDB: {spread(engine)} (bound: 0.5)")
    print(f"  over gRPC / engine: {spread(wire)} (bound: 0.6)")
    return {"figures": figures, "engine_ratio": median(engine), "wire_ratio": median(wire)}


def _copied(folder: Path) -> Path:
    copy = folder.with_name(folder.name + "-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy
