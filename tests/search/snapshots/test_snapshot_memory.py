"""Snapshots stay within their memory bound, and rows that they do not hold are searched too."""

from __future__ import annotations

import random
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model, flush_now, index_now
from tests.places import override, value_of
from tests.search.snapshots.bounded import (
    DIM,
    MEBIBYTE,
    ROW_BYTES,
    names,
    opened,
    rows,
    snapshot_of,
)
from vecdb import limits
from vecdb.engine.search import search
from vecdb.engine.search.search import SearchRequest
from vecdb.engine.search.snapshots import streaming
from vecdb.engine.store import clock as store_clock
from vecdb.engine.store import leases
from vecdb.engine.store.purging import purge_all
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import opened_of

pytestmark = pytest.mark.usefixtures("small_slices")


def lose(docs: Any) -> None:
    """Delete the files of all segments."""
    shutil.rmtree(opened_of(docs).folder / "segments")
    opened_of(docs).snapshots.forget()


class Pair:
    """A collection with small bounds, one without, and the model: all must agree, and the two
    collections bit for bit."""

    def __init__(self, bounded: Any, free: Any, metric: str) -> None:
        self.both = [d.create_collection("docs", DIM, metric) for d in (bounded, free)]
        self.docs = self.both[0]
        self.model = Model(DIM, metric)

    def upsert(self, ids: list[str], vectors: np.ndarray) -> None:
        metadata = [{"n": name} for name in ids]
        for docs in self.both:
            docs.upsert(ids, vectors, metadata)
        self.model.upsert(ids, vectors, metadata)

    def delete(self, ids: list[str]) -> None:
        for docs in self.both:
            docs.delete(ids)
        self.model.delete(ids)

    def each(self, action: Callable[[Any], Any]) -> None:
        for docs in self.both:
            action(docs)

    def check(self, queries: np.ndarray, k: int, **arguments: Any) -> None:
        found, expected = (docs.search(queries, k=k, **arguments) for docs in self.both)
        for hits, others, query in zip(found, expected, queries, strict=True):
            self.model.check_hits(hits, query, k, exact=True)
            assert hits.ids == others.ids
            assert hits.distances.tobytes() == others.distances.tobytes()
            assert hits.metadata == others.metadata
            assert hits.info.matches == others.info.matches == len(self.model.rows)
            assert hits.info.seq == others.info.seq


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    metric = getattr(request, "param", "cosine")
    with opened(tmp_path / "bounded") as bounded, opened(tmp_path / "free", 1 << 20) as free:
        yield Pair(bounded, free, metric)


@pytest.mark.parametrize("pair", ["cosine", "euclidean", "dot"], indirect=True)
def test_rows_not_held_are_searched_with_the_same_result(pair: Pair) -> None:
    """Random operations with few distinct vectors, so that slices have many ties."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance, vectors, queries = random.Random(seed), rows(60), rows(9, 1)
    streamed = 0
    for _ in range(30):
        for _ in range(chance.randrange(1, 4)):
            ids = [f"id-{i}" for i in chance.sample(range(500), 40)]
            if chance.random() < 0.2:
                pair.delete(ids)
            else:
                pair.upsert(ids, vectors[[chance.randrange(60) for _ in ids]])
        action = chance.random()
        if action < 0.06:
            pair.each(flush_now)
        elif action < 0.3:
            pair.each(lambda docs: purge_all(opened_of(docs).store, grace_s=0.0))
        elif action < 0.5:
            pair.each(lambda docs: opened_of(docs).snapshots.forget())
        if not pair.model.rows:
            continue
        asked = queries[: chance.choice([1, 9])]
        pair.check(asked, chance.choice([1, 10, 700]), exact=True)
        snapshot = snapshot_of(pair.docs)
        streamed += snapshot.rest is not None
        # Each chunk rounds the size of its delete bitmap up.
        assert snapshot.memtable.nbytes <= 100 * ROW_BYTES + len(snapshot.memtable.chunks)
        assert pair.docs.stats().fresh_rows == snapshot_of(pair.both[1]).memtable.live_count
        assert snapshot_of(pair.both[1]).holds_all
    assert streamed > 5


def test_flush_makes_room_in_the_memtable(pair: Pair) -> None:
    for first in range(0, 450, 50):
        pair.upsert(names(50, first), rows(50, first))
    pair.check(rows(2), 10)
    snapshot = snapshot_of(pair.docs)
    assert snapshot.memtable.count == 100 and snapshot.rest == streaming.Unread(100, 450, 350)
    hits = pair.docs.search(rows(1)[0], k=3)
    assert hits.info.plan == "scan" and hits.info.exact and hits.info.visited == 450
    pair.each(flush_now)
    pair.check(rows(2), 10)
    assert snapshot_of(pair.docs).holds_all and snapshot_of(pair.docs).memtable.count == 0
    pair.upsert(names(50, 430), rows(50, 7))
    pair.check(rows(2), 480)
    assert snapshot_of(pair.docs).holds_all


def test_search_of_a_graph_and_rows_not_held_is_complete(pair: Pair) -> None:
    pair.upsert(names(300), rows(300))
    pair.each(flush_now)
    pair.each(index_now)
    for first in range(250, 600, 50):
        pair.upsert(names(50, first), rows(50, first))
    assert snapshot_of(pair.docs).rest is not None
    for query in rows(5, 3):
        hits = pair.docs.search(query, k=40, ef=400)
        pair.model.check_hits(hits, query, 40, exact=True)
        assert hits.info.plan == "graph+scan" and hits.info.matches == 600
    pair.check(rows(5, 3), 600)


@pytest.mark.slow
def test_rows_replaced_repeatedly_stay_in_the_memtable(tmp_path: Path) -> None:
    """Row numbers keep growing, but only live rows are held, purged or not."""
    with opened(tmp_path / "data", 1 << 20) as database:
        docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
        for turn in range(150):
            ids, vectors = names(400, 400 * (turn % 3)), rows(400, turn)
            docs.upsert(ids, vectors)
            model.upsert(ids, vectors, None)
            if turn % 4 == 0:
                purge_all(opened_of(docs).store, grace_s=0.0)
            if turn in (50, 90):
                opened_of(docs).snapshots.forget()
            snapshot = snapshot_of(docs)
            assert snapshot.holds_all and snapshot.live_count == len(model.rows)
            # 1,200 rows live. Chunks are rewritten when one is full and under three quarters live.
            assert snapshot.memtable.capacity <= 2048
        assert snapshot.counters.next_row == 60_000
        for query in rows(3, 9):
            model.check_hits(docs.search(query, k=1300), query, 1300, exact=True)


def test_memory_of_a_search_stays_under_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "scan_slice_bytes", MEBIBYTE // 4)
    with opened(tmp_path / "data", fresh_bytes_max=MEBIBYTE) as database:
        docs = database.create_collection("docs", 256)
        for first in range(0, 16_000, 2_000):
            docs.upsert(names(2_000, first), rows(2_000, first, 256))
        query = rows(1, 5, 256)[0]
        opened_of(docs).snapshots.forget()
        tracemalloc.start()
        try:
            hits = docs.search(query, k=5)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(hits) == 5 and hits.info.visited == 16_000
        assert snapshot_of(docs).private_bytes <= MEBIBYTE
        # The buffer, the half-sized one from which it grew, and one slice; not all 16 MB.
        assert MEBIBYTE <= peak + MEBIBYTE // 4 < 3 * MEBIBYTE


@pytest.mark.parametrize("queries", [1, 40])
def test_scan_of_rows_not_held_ends_within_a_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    read, real = [0], value_of("read_scan_slice")

    def counted(*arguments: Any) -> Any:
        read[0] += 1
        return real(*arguments)

    override(monkeypatch, "read_scan_slice", counted)
    with opened(tmp_path / "data") as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(1_000), rows(1_000))
        request = SearchRequest(rows(queries), 5, exact=True, include_metadata=False)
        opened_of(docs).searcher.run(request, Deadline())
        assert read[0] == -(-900 // 37)
        read[0] = 0
        with pytest.raises(vecdb.CancelledError):
            opened_of(docs).searcher.run(request, Deadline(is_cancelled=lambda: read[0] >= 3))
        assert read[0] == 3


@pytest.mark.parametrize("advance", [False, True])
def test_large_quarantined_segment_is_read_from_the_store(pair: Pair, advance: bool) -> None:
    for first in range(0, 300, 100):
        pair.upsert(names(100, first), rows(100, first))
    pair.delete(names(20, 50))
    pair.each(flush_now)
    pair.upsert(names(60, 300), rows(60, 8))
    pair.each(flush_now)
    lose(pair.docs)
    pair.upsert(names(150, 400), rows(150, 9))
    pair.check(rows(3), 10, exact=True)
    large, small = snapshot_of(pair.docs).segments
    # Only one of them fits, beside as many bytes of memtable.
    assert (large.unread_count, large.segment, len(large.content.rows)) == (280, None, 0)
    assert (small.unread_count, small.segment, len(small.content.rows)) == (0, None, 60)
    assert snapshot_of(pair.docs).rest == streaming.Unread(460, 510, 50)
    for first in (40, 280, 90):
        if not advance:
            opened_of(pair.docs).snapshots.forget()
        pair.delete(names(30, first))
        pair.upsert(names(10, first), rows(10, first))
        pair.each(lambda docs: purge_all(opened_of(docs).store, grace_s=0.0))
        pair.check(rows(3), 700)
        large = snapshot_of(pair.docs).segments[0]
        assert pair.docs.stats().segments[0].rows == large.unread_count
        assert snapshot_of(pair.docs).private_bytes <= 2 * (100 * ROW_BYTES + 1)
    index_now(pair.docs)
    pair.check(rows(3), 700)
    assert all(s.segment is not None for s in snapshot_of(pair.docs).segments)


def test_more_tombstones_than_a_slice_are_all_applied(pair: Pair) -> None:
    """Rewritten blocks keep the tombstones of all their rows while a segment holds them."""
    pair.upsert(names(400), rows(400))
    pair.each(flush_now)
    lose(pair.docs)
    pair.check(rows(2), 50)
    pair.delete([f"id-{i}" for i in range(400) if i % 9])
    pair.check(rows(2), 50)
    pair.each(lambda docs: purge_all(opened_of(docs).store, grace_s=0.0))
    pair.check(rows(2), 50)
    # Rows deleted now are still in their block, after tombstones of rows that are not.
    pair.delete(["id-144", "id-270", "id-297"])
    for _ in range(2):
        pair.check(rows(2), 50)
        assert snapshot_of(pair.docs).segments[0].unread_count == 42
        opened_of(pair.docs).snapshots.forget()


@pytest.mark.parametrize("times", [1, 2])
def test_search_whose_rows_were_purged_is_repeated_under_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Between two slices rows are deleted and purged; the second time a lease protects them."""
    with opened(tmp_path / "data") as database:
        docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
        vectors = rows(1_000)
        docs.upsert(names(1_000), vectors)
        model.upsert(names(1_000), vectors, None)
        read, to_delete, searches = search.read_slices, [names(400, 300), names(100, 850)], []

        def purging_first(*arguments: Any) -> Any:
            if not arguments[1]:
                return
            searches.append(1)
            for number, part in enumerate(read(*arguments)):
                if number == 1 and len(searches) <= times:
                    deleted = to_delete[len(searches) - 1]
                    docs.delete(deleted)
                    purge_all(opened_of(docs).store, grace_s=0.0)
                    if len(searches) == 1:
                        model.delete(deleted)
                yield part

        monkeypatch.setattr(search, "read_slices", purging_first)
        hits = docs.search(vectors[900], k=1_000)
        assert len(searches) == 2 and hits.info.seq == 2
        model.check_hits(hits, vectors[900], 1_000, exact=True)
        with opened_of(docs).store.environment.read() as transaction:
            assert opened_of(docs).store.purged_to(transaction) == 2


@pytest.mark.parametrize("kept", [True, False])
def test_search_longer_than_a_lease_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """With each slice the clock advances by half a lease, and a row that is still to be read is
    deleted and purged; without a renewal the search would fail again."""
    now_ns = [store_clock.boot_time_ns()]
    monkeypatch.setattr(store_clock, "boot_time_ns", lambda: now_ns[0])
    if not kept:
        monkeypatch.setattr(leases, "keep_lease", lambda store, lease: lease)
    with opened(tmp_path / "data") as database:
        docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
        vectors = rows(1_000)
        docs.upsert(names(1_000), vectors)
        model.upsert(names(1_000), vectors, None)
        read, searches = search.read_slices, []

        def slow(*arguments: Any) -> Any:
            if not arguments[1]:
                return
            searches.append(0)
            for part in read(*arguments):
                yield part
                if len(searches) == 1:
                    deleted = names(300, 400)
                    model.delete(deleted)
                else:
                    now_ns[0] += int(0.5e9 * limits.LEASE_S)
                    deleted = names(1, 999 - searches[-1])
                searches[-1] += 1
                docs.delete(deleted)
                purge_all(opened_of(docs).store, grace_s=0.0)

        monkeypatch.setattr(search, "read_slices", slow)
        if not kept:
            with pytest.raises(vecdb.UnavailableError) as caught:
                docs.search(vectors[900], k=1_000)
            assert caught.value.reason == "OVERTAKEN"
            return
        hits = docs.search(vectors[900], k=1_000)
        assert searches[0] == 1 and searches[1] > 10 and hits.info.seq == 2
        model.check_hits(hits, vectors[900], 1_000, exact=True)
        with opened_of(docs).store.environment.read() as transaction:
            assert opened_of(docs).store.purged_to(transaction) == 2
            assert leases.oldest_lease(opened_of(docs).store, transaction) is None
