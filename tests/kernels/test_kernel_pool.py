"""Permits for kernels: waiting can be cancelled, is bounded, and loses no permit."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from tests.places import override
from tests.waiting import HANG_S, eventually
from vecdb.engine.kernels import compiled as kernels
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.search import search as search_module
from vecdb.engine.search.search import SearchRequest
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import free_permits, opened_of, runtime_of, waiting_callers
from vecdb.errors import CancelledError, DeadlineExceededError, VecdbError

RNG = np.random.default_rng(41)
FOREVER = Deadline(None)


def rows(count: int, dim: int = 8) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"row-{i}" for i in range(count)]


@contextlib.contextmanager
def all_permits_held(pool: KernelPool) -> Iterator[None]:
    release, holding = threading.Event(), threading.Semaphore(0)

    def hold(*_: Any) -> None:
        holding.release()
        assert release.wait(HANG_S)

    with ThreadPoolExecutor(pool.threads) as threads:
        holders = [threads.submit(pool.call, FOREVER, hold, 0, 1) for _ in range(pool.threads)]
        try:
            for _ in holders:
                assert holding.acquire(timeout=HANG_S)
            yield
        finally:
            release.set()
        for holder in holders:
            holder.result()


def check_all_permits_are_back(pool: KernelPool) -> None:
    """Check that exactly this number of permits can be taken."""
    with all_permits_held(pool), pytest.raises(DeadlineExceededError):
        pool.call(Deadline(0.001), lambda *_: None, 0, 1)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("threads", [1, 2])
def test_search_that_waits_for_a_permit_can_be_cancelled(
    tmp_path: Path, exact: bool, queries: int, threads: int
) -> None:
    with vecdb.open(tmp_path / "data", indexer=False, threads=threads, recall_meter=0) as database:
        docs, pool = database.create_collection("docs", 8), runtime_of(database).pool
        vectors = rows(100)
        docs.upsert(names(100), vectors)
        flush_now(docs)
        index_now(docs)
        asked = vectors[:queries]
        before = docs.search(asked, k=3, exact=exact)
        cancelled = threading.Event()
        request = SearchRequest(asked, 3, exact=exact)
        with all_permits_held(pool), ThreadPoolExecutor(2) as callers:
            late = callers.submit(docs.search, asked, k=3, exact=exact, timeout_s=0.1)
            with pytest.raises(DeadlineExceededError, match=r"0\.1 s"):
                late.result(timeout=HANG_S)
            run, deadline = opened_of(docs).searcher.run, Deadline(None, cancelled.is_set)
            gone = callers.submit(run, request, deadline)
            eventually(lambda: waiting_callers(pool) > 0)
            cancelled.set()
            with pytest.raises(CancelledError):
                gone.result(timeout=HANG_S)
            assert waiting_callers(pool) == 0
        check_all_permits_are_back(pool)
        after = docs.search(asked, k=3, exact=exact)
        assert [hits.ids for hits in after] == [hits.ids for hits in before]


def test_walk_gets_a_permit_between_slices_of_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan takes the only permit once per slice. The walk arrives during the fifth slice and
    must run before the sixth.
    """
    monkeypatch.setattr(search_module, "SCAN_SLICE_FLOATS", 2_000)
    override(monkeypatch, "yield_s_max", 20)
    scan, walk = kernels.scan_rows, kernels.find_by_graph
    scanned, walked_after = [0], []
    with (
        vecdb.open(tmp_path / "data", indexer=False, threads=1, recall_meter=0) as database,
        ThreadPoolExecutor(1) as caller,
    ):
        docs, pool = database.create_collection("docs", 8), runtime_of(database).pool
        vectors = rows(2_000)
        docs.upsert(names(2_000), vectors)
        flush_now(docs)
        index_now(docs)
        walks = []

        def counted_scan(*arguments: Any) -> None:
            scanned[0] += 1
            if scanned[0] == 5:
                walks.append(caller.submit(docs.search, vectors[7], k=1))
                eventually(lambda: waiting_callers(pool) == 1)
            scan(*arguments)

        def counted_walk(*arguments: Any) -> bool:
            walked_after.append(scanned[0])
            return bool(walk(*arguments))

        monkeypatch.setattr(kernels, "scan_rows", counted_scan)
        monkeypatch.setattr(kernels, "find_by_graph", counted_walk)
        found = docs.search(vectors[:20], k=3, exact=True)
        assert walks[0].result(timeout=HANG_S).ids == ["row-7"]
        assert walked_after == [5]
        assert scanned[0] > 50
        assert [hits.ids[0] for hits in found] == names(20)
        check_all_permits_are_back(pool)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_concurrent_sliced_scans_give_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    scan, at_once, most = kernels.scan_rows, [0], [0]
    lock = threading.Lock()

    def counted(*arguments: Any) -> None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        scan(*arguments)
        with lock:
            at_once[0] -= 1

    with vecdb.open(tmp_path / "data", indexer=False, threads=threads, recall_meter=0) as database:
        docs = database.create_collection("docs", 8)
        vectors = rows(3_000)
        docs.upsert(names(3_000), vectors)
        flush_now(docs)
        docs.upsert([f"fresh-{i}" for i in range(500)], vectors[:500])

        def answers() -> list[Any]:
            found = docs.search(vectors[:70], k=50, exact=True)
            return [(hits.ids, hits.distances.tolist()) for hits in found]

        whole = answers()
        monkeypatch.setattr(search_module, "SCAN_SLICE_FLOATS", 20_000)
        monkeypatch.setattr(search_module, "SORT_SLICE_HITS", 100)
        monkeypatch.setattr(kernels, "scan_rows", counted)
        with ThreadPoolExecutor(4) as callers:
            several = [callers.submit(answers) for _ in range(8)]
            assert all(one.result() == whole for one in several)
        assert 1 <= most[0] <= threads
        check_all_permits_are_back(runtime_of(database).pool)


def test_number_of_permits_is_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many threads take permits and stop waiting at random moments."""
    override(monkeypatch, "deadline_poll_s", 0.0005)
    seed = random.randrange(2**32)
    print("seed", seed)
    pool = KernelPool(2)
    held: set[int] = set()
    done = [0, 0]

    def work(scratch: Any, naps: int, _: int) -> None:
        assert id(scratch) not in held, "two have the same scratch memory"
        held.add(id(scratch))
        time.sleep(naps / 10_000)
        held.remove(id(scratch))

    def use(number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(150):
            wanted = Deadline(chance.choice([None, 0.0002, 0.001]))
            try:
                pool.call(wanted, work, chance.randrange(4), 0)
                done[0] += 1
            except DeadlineExceededError:
                done[1] += 1
            pool.yield_to_waiters()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    assert min(done) > 0
    assert free_permits(pool) == 2 and waiting_callers(pool) == 0
    check_all_permits_are_back(pool)
    pool.close()


@pytest.mark.parametrize("error", [VecdbError, KeyboardInterrupt])
def test_exception_in_one_thread_ends_the_others(error: type[BaseException]) -> None:
    """Also a thread that is in the middle of a long piece."""
    pool, caller = KernelPool(2), threading.get_ident()
    entered, ended = threading.Event(), threading.Event()

    def work(until: Deadline, first: int, last: int) -> None:
        if threading.get_ident() == caller:
            assert entered.wait(HANG_S)
            raise error("broken off")
        entered.set()
        try:
            while True:
                pool.call(until, lambda *_: time.sleep(0.001), first, last)
        except CancelledError:
            ended.set()
            raise

    with pytest.raises(error, match="broken off"):
        pool.share(10, 1, FOREVER, work)
    assert ended.is_set()
    pool.close()
