"""Snapshots of several collections, threads and processes share one bound, and see one state."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.model import Model, flush_now
from tests.search.snapshots.bounded import (
    DIM,
    ROW_BYTES,
    names,
    opened,
    rows,
    snapshot_of,
)
from tests.waiting import HANG_S
from vecdb.engine.store.purging import purge_all
from vecdb.engine.testing import holds_snapshot, opened_of, runtime_of

pytestmark = pytest.mark.usefixtures("small_slices")


READER = """
import sys, numpy as np, vecdb
from vecdb.engine.testing import opened_of
rng = np.random.default_rng(0)
with vecdb.open(sys.argv[1], indexer=False, seal_bytes=1 << 40, fresh_bytes_max=7_000) as database:
    docs = database.collection("docs")
    print("ready", flush=True)
    last, searches = 0, 0
    while docs.count() > 1:
        hits = docs.search(rng.normal(size=16).astype(np.float32), k=600)
        assert hits.info.matches in (1, 500), hits.info
        assert len(hits) == len(set(hits.ids)) == hits.info.matches
        # Each batch replaces all rows, so the rows of one state are of one batch.
        assert len({m["n"] for m in hits.metadata}) == 1
        assert hits.info.seq >= last
        last, searches = hits.info.seq, searches + 1
    print(searches, opened_of(docs).snapshots.snapshot().counters.next_row, flush=True)
"""


@pytest.mark.slow
def test_search_in_another_process_during_purges_sees_one_state(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(500), rows(500), [{"n": 0}] * 500)
        command = [sys.executable, "-W", "error", "-c", READER, str(tmp_path / "data")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
            for turn in range(1, 60):
                docs.upsert(names(500), rows(500, turn), [{"n": turn}] * 500)
                purge_all(opened_of(docs).store, grace_s=0.0)
            docs.delete(names(499))
            out, _ = reader.communicate(timeout=HANG_S)
        assert reader.returncode == 0
        searches, next_row = map(int, out.split())
        assert searches >= 5 and next_row == 30_000


@pytest.mark.slow
def test_threads_under_a_tight_budget_see_one_state(tmp_path: Path) -> None:
    """Snapshots are created, evicted, advanced and become too old while all collections are
    rewritten. The memory suffices for two."""
    budget = int(150 * ROW_BYTES)
    with opened(tmp_path / "data", 100, view_bytes_max=budget) as database:
        every = [database.create_collection(name, DIM) for name in ("a", "b", "c")]
        vectors, ids = rows(300), names(300)
        for docs in every:
            docs.upsert(ids, vectors, [{"n": 0}] * 300)
        stop, failures = threading.Event(), []

        def guarded(work: Callable[[], None]) -> threading.Thread:
            def run() -> None:
                try:
                    work()
                except Exception as error:
                    failures.append(error)
                    stop.set()

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        def search_all() -> None:
            last = [0, 0, 0]
            while not stop.is_set():
                for i, docs in enumerate(every):
                    hits = docs.search(vectors[0], k=400, exact=True)
                    assert sorted(hits.ids) == sorted(ids)
                    assert len({metadata["n"] for metadata in hits.metadata}) == 1
                    assert hits.info.seq >= last[i]
                    last[i] = hits.info.seq

        searchers = [guarded(search_all) for _ in range(2)]
        for turn in range(1, 17):
            for docs in every:
                docs.upsert(ids, np.roll(vectors, turn, 0), [{"n": turn}] * 300)
                if turn % 4 == 0:
                    purge_all(opened_of(docs).store, grace_s=0.0)
                if turn % 7 == 0:
                    flush_now(docs)
        stop.set()
        for searcher in searchers:
            searcher.join(HANG_S)
            assert not searcher.is_alive()
        assert failures == []
        for docs in every:
            docs.search(vectors[0])
            assert runtime_of(database).snapshot_budget.weight <= budget


def test_least_recently_used_snapshots_are_evicted(tmp_path: Path) -> None:
    """Eight collections with memory for three; results stay correct."""
    one = 1_024 * ROW_BYTES
    with opened(tmp_path / "data", 10_000, view_bytes_max=int(3.5 * one)) as database:
        budget, models = runtime_of(database).snapshot_budget, {}
        for i in range(8):
            docs = database.create_collection(f"docs-{i}", DIM)
            models[i] = Model(DIM, "cosine")
            docs.upsert(names(900), rows(900, i))
            models[i].upsert(names(900), rows(900, i), None)
        open_ones = [database.collection(f"docs-{i}") for i in range(8)]

        def kept() -> list[int]:
            return [i for i, d in enumerate(open_ones) if holds_snapshot(opened_of(d).snapshots)]

        def search_in(*numbers: int) -> None:
            for i in numbers:
                query = rows(1, 50 + i)[0]
                models[i].check_hits(open_ones[i].search(query, k=9), query, 9, exact=True)
                assert budget.weight <= 3.5 * one

        search_in(*range(8))
        assert kept() == [5, 6, 7]
        search_in(5, 2)
        assert kept() == [2, 5, 7]
        search_in(5, 0, 5, 1, 5, 3)
        assert kept() == [1, 3, 5]
        open_ones[4].upsert(["id-3"], rows(1, 99))
        models[4].upsert(["id-3"], rows(1, 99), None)
        search_in(4, 5, *range(8))
        used = budget.weight
        assert 0 < used <= 3.5 * one
        database.drop_collection("docs-7")
        assert budget.weight < used
    assert budget.weight == 0


def test_snapshot_of_a_single_collection_stays_within_the_budget(tmp_path: Path) -> None:
    with opened(tmp_path / "data", 1 << 20, view_bytes_max=100_000) as database:
        docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
        for first in range(0, 3_000, 500):
            docs.upsert(names(500, first), rows(500, first))
            model.upsert(names(500, first), rows(500, first), None)
            query = rows(1, first + 1)[0]
            model.check_hits(docs.search(query, k=20), query, 20, exact=True)
            assert 0 < runtime_of(database).snapshot_budget.weight <= 50_000
        assert not snapshot_of(docs).holds_all
        opened_of(docs).snapshots.forget()
        assert runtime_of(database).snapshot_budget.weight == 0
