"""Long reads end soon after their deadline and hold no transaction for long."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import vecdb
from tests.model import Model, flush_now, index_now
from tests.places import override, value_of
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb.engine.kernels import compiled as kernels
from vecdb.engine.kv.environment import Environment
from vecdb.engine.search import search as search_module
from vecdb.engine.search.search import Searcher, SearchRequest
from vecdb.engine.search.snapshots import lookup, snapshot_manager
from vecdb.engine.segments import flushing
from vecdb.engine.store import tombstones
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import deleted_rows_of, opened_of, set_slice_rows
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix
from vecdb_proto.vecdb_pb2_grpc import VecdbStub

RNG = np.random.default_rng(37)


def rows(count: int, dim: int = 8) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


class Checks(Deadline):
    """A deadline that sums the kernels' work per thread between two checks."""

    def __init__(self) -> None:
        super().__init__(None)
        self._work = threading.local()
        self.largest = 0.0
        self.count = 0

    def check(self) -> None:
        self._work.done = 0.0
        self.count += 1

    def add(self, work: float) -> None:
        self._work.done = getattr(self._work, "done", 0.0) + work
        self.largest = max(self.largest, self._work.done)


@pytest.mark.parametrize(
    ("count", "dim", "queries", "k"),
    [
        (30_000, 16, 1, 10),  # One long buffer.
        (30_000, 16, 100, 10),  # Many queries.
        (5_000, 8, 40, 4_000),  # Large heaps.
        (100, 16_384, 40, 5),  # Wide rows.
    ],
)
def test_scan_checks_its_deadline_within_a_slice(
    database: Any, monkeypatch: pytest.MonkeyPatch, count: int, dim: int, queries: int, k: int
) -> None:
    """Counts floats and hits, since times of a busy machine prove nothing: 8 million floats take
    about 5 ms, sorting 250,000 hits about 20 ms. Uses a hundredth of those limits."""
    assert search_module.SCAN_SLICE_FLOATS <= 8_000_000
    assert search_module.SORT_SLICE_HITS <= 250_000
    monkeypatch.setattr(search_module, "SCAN_SLICE_FLOATS", 80_000)
    monkeypatch.setattr(search_module, "SORT_SLICE_HITS", 5_000)
    docs = database.create_collection("docs", dim, "euclidean")
    vectors = rows(count, dim)
    size = 5_000 if dim <= 16 else 100
    for start in range(0, count, size):
        docs.upsert(names(size, first=start), vectors[start : start + size])
    flush_now(docs)
    checks = Checks()
    scan, sort = kernels.scan_rows, kernels.sort_heaps
    floats, hits = search_module.SCAN_SLICE_FLOATS, search_module.SORT_SLICE_HITS

    def counted_scan(*arguments: Any) -> None:
        _, _, start, stop, _, first, last = arguments[:7]
        pair = arguments[0].shape[1] + 8 * min(k, count).bit_length()
        work = (stop - start) * (last - first) * pair
        # A slice has at least one row per query.
        checks.add(work / max(floats, (last - first) * pair))
        scan(*arguments)

    def counted_sort(*arguments: Any) -> None:
        scores, first, last = arguments[0], *arguments[3:]
        checks.add((last - first) * scores.shape[1] / hits)
        sort(*arguments)

    monkeypatch.setattr(kernels, "scan_rows", counted_scan)
    monkeypatch.setattr(kernels, "sort_heaps", counted_sort)
    asked = SearchRequest(vectors[:queries], k, exact=True, include_metadata=False)
    found = opened_of(docs).searcher.run(asked, checks)
    assert found.counts == [min(k, count)] * queries
    assert 0 < checks.largest <= 1
    assert checks.count > 1


def test_remote_scan_ends_when_its_caller_disconnects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "SCAN_SLICE_FLOATS", 20_000)
    scanned = [0]
    entered, cancelled, ended = threading.Event(), threading.Event(), threading.Event()
    scan, run_search = kernels.scan_rows, Searcher.run

    def slowly(*arguments: Any) -> None:
        scanned[0] += arguments[3] - arguments[2]
        entered.set()
        assert cancelled.wait(HANG_S)
        time.sleep(0.2)  # The server is notified while much is left to scan.
        scan(*arguments)

    def run_to_the_end(self: Searcher, *arguments: Any) -> Any:
        try:
            return run_search(self, *arguments)
        finally:
            ended.set()

    with running_server(tmp_path / "data") as address, vecdb.connect(address) as client:
        docs = client.create_collection("docs", 8)
        docs.upsert_many(names(100_000), rows(100_000), batch_rows=10_000)
        assert docs.search(rows(1)[0], k=1).info.matches == 100_000
        request = wire.SearchRequest(
            collection="docs", queries=encode_matrix(rows(1)), k=1, exact=True
        )
        monkeypatch.setattr(kernels, "scan_rows", slowly)
        monkeypatch.setattr(Searcher, "run", run_to_the_end)
        with grpc.insecure_channel(address) as channel:
            call = VecdbStub(channel).Search.future(request)
            assert entered.wait(HANG_S)
            call.cancel()
            cancelled.set()
            assert ended.wait(HANG_S)
        assert 0 < scanned[0] < 75_000


@contextlib.contextmanager
def small_slices(monkeypatch: pytest.MonkeyPatch, tombstones_max: int = 3) -> Iterator[None]:
    for module, name, size in (
        (lookup, "_SLICE_ROWS", 7),
        (tombstones, "_SLICE_TOMBSTONES", tombstones_max),
        (tombstones, "_SLICE_BATCHES", 2),
        (snapshot_manager, "_BATCHES_AT_ONCE", 2),
        (snapshot_manager, "_SLICE_ROWS", 11),
        (flushing, "_SLICE_ROWS", 13),
    ):
        monkeypatch.setattr(module, name, size)
    yield


@pytest.mark.parametrize("forget", [False, True])
def test_snapshots_created_in_slices_match_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: bool
) -> None:
    """New and advanced snapshots agree with the model through flushes, merges and updates."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance, vectors = random.Random(seed), rows(400)
    with small_slices(monkeypatch), vecdb.open(tmp_path / "data", indexer=False) as database:
        docs, model = database.create_collection("docs", 8), Model(8, "cosine")
        for _ in range(20):
            for _ in range(chance.randrange(1, 6)):
                chosen = sorted({f"row-{chance.randrange(150)}" for _ in range(25)})
                if chance.random() < 0.4:
                    docs.delete(chosen)
                    model.delete(chosen)
                    continue
                given = vectors[[chance.randrange(400) for _ in chosen]]
                docs.upsert(chosen, given, [{"n": 1}] * len(chosen))
                model.upsert(chosen, given, [{"n": 1}] * len(chosen))
            action = chance.random()
            if action < 0.3:
                flush_now(docs)
            if action < 0.1:
                index_now(docs)
            if forget:
                opened_of(docs).snapshots.forget()
            query = vectors[0]
            hits = docs.search(query, k=200, exact=True, include_vectors=True)
            model.check_hits(hits, query, 200, exact=True)
            for name, vector in zip(hits.ids, hits.vectors, strict=True):
                assert vector.tobytes() == model.rows[name][0].tobytes()
            asked = [f"row-{i}" for i in chance.sample(range(160), 60)]
            model.check_records(docs.get(asked), asked)


def test_snapshot_created_during_writes_is_of_one_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch gives all rows a new generation of ids: a snapshot of two mixed states would hold
    rows of two generations, or too few."""
    with small_slices(monkeypatch, 50), vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 8)
        vectors, ids = rows(60), names(60)
        docs.upsert(ids, vectors, [{"n": 0}] * 60)
        stop, failures = threading.Event(), []

        def write() -> None:
            generation = 0
            try:
                while not stop.is_set() and generation < 100:
                    generation += 1
                    docs.upsert(ids, np.roll(vectors, generation, 0), [{"n": generation}] * 60)
                    if generation % 10 == 0:
                        flush_now(docs)
                    if generation % 25 == 0:
                        index_now(docs)
            except Exception as error:
                failures.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            while writer.is_alive():
                opened_of(docs).snapshots.forget()
                hits = docs.search(vectors[0], k=100, exact=True)
                assert sorted(hits.ids) == sorted(ids)
                assert len({metadata["n"] for metadata in hits.metadata}) == 1
        finally:
            stop.set()
            writer.join()
        assert failures == []


def test_deleted_rows_of_a_replaced_segment_are_not_read(database: Any) -> None:
    """Tombstones of replaced segments may be removed: reading them must raise, not return less."""
    docs = database.create_collection("docs", 8)
    docs.upsert(names(50), rows(50))
    docs.delete(names(10))
    flush_now(docs)
    store, snapshots = opened_of(docs).store, opened_of(docs).snapshots
    state = store.current_state()
    with store.environment.read() as transaction:
        ((number, entry),) = store.read_segments(transaction).items()
    assert deleted_rows_of(snapshots, number, entry, state).tolist() == list(range(10))
    index_now(docs)
    with pytest.raises(value_of("segment_gone_error")):
        deleted_rows_of(snapshots, number, entry, state)
    assert len(docs.search(rows(1)[0], k=50, exact=True)) == 40


def test_no_transaction_reads_more_than_a_slice(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction of a look-up or of a new snapshot reads more rows than a slice has."""
    docs = database.create_collection("docs", 8)
    vectors = rows(3000)
    docs.upsert(names(3000), vectors, [{"n": i} for i in range(3000)])
    docs.delete(names(500))
    read: dict[int, int] = {}
    of_transaction = [0]
    begin = value_of("begin_transaction")

    def counted(self: Environment, **how: bool) -> Any:
        of_transaction[0] += 1
        return begin(self, **how)

    reader = opened_of(docs).store.rows

    def counting(name: str, size: Any) -> None:
        real = getattr(reader, name)

        def wrapped(*arguments: Any) -> Any:
            result = real(*arguments)
            key = of_transaction[0]
            read[key] = read.get(key, 0) + size(result)
            return result

        monkeypatch.setattr(reader, name, wrapped)

    counting("read_records", len)
    counting("read_vectors", len)
    counting("read_deleted_slice", lambda found: len(found[0]))
    override(monkeypatch, "begin_transaction", counted)
    with small_slices(monkeypatch):
        found = docs.get(names(3000))
        assert len(found) == 2500 and found.missing == names(500)
        assert found.vectors.tobytes() == vectors[500:].tobytes()
        assert found.metadata == [{"n": i} for i in range(500, 3000)]
        opened_of(docs).snapshots.forget()
        set_slice_rows(opened_of(docs).snapshots, 11)
        hits = docs.search(vectors[0], k=3000, include_vectors=True)
        assert len(hits) == 2500
    assert len(read) > 600 and max(read.values()) <= 11
