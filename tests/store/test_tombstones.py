"""Tombstones that a block, segment or reservation needs stay, so that no deleted row is revived."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.model import Model, flush_now, index_now
from tests.places import override
from tests.store.replacing import DIM, check, entries, names, rows
from vecdb.engine.indexing.trimming import trim_tombstones
from vecdb.engine.segments import flushing
from vecdb.engine.segments.lifecycle import (
    FLUSH_LOCK,
    GRAPH_LOCK,
    discard_reservations,
    reserve,
    widen,
)
from vecdb.engine.store import layout
from vecdb.engine.store.purging import PurgePass, Purger, purge_all
from vecdb.engine.testing import opened_of


@pytest.mark.slow
def test_interrupted_purge_does_not_revive_deleted_rows(tmp_path: Path) -> None:
    """The pass ends after its first step, whose blocks also held rows of later steps."""
    model = Model(DIM, "cosine")
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        for start in range(0, 50_000, 10_000):
            part, vectors = names(10_000, start), rows(10_000, start)
            docs.upsert(part, vectors)
            model.upsert(part, vectors, None)
        for start in (8_000, 14_000):
            docs.delete(names(6_000, start))
            model.delete(names(6_000, start))
        purge = PurgePass.begin(opened_of(docs).store, rows_max=10**6, grace_s=0.0)
        assert purge is not None
        for _ in range(2):
            purge.step()
            assert sorted(n for page in docs.scroll(10_000) for n in page.ids) == sorted(model.rows)
    assert vecdb.check(tmp_path).content
    vecdb.compact(tmp_path)
    assert vecdb.check(tmp_path).content
    with vecdb.open(tmp_path, indexer=False) as database:
        assert database.collection("docs").count() == len(model.rows)


@pytest.mark.slow
def test_flush_and_trim_between_purge_steps_do_not_revive_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge step removes vectors of later steps' rows, a flush creates a segment without them,
    and a trim runs before the next step."""
    model, passes = Model(DIM, "cosine"), list[Any]()
    real = flushing.load_rows
    with vecdb.open(tmp_path, indexer=False, seal_bytes=2**26) as database:
        docs = database.create_collection("docs", DIM)
        monkeypatch.setattr(Purger, "relieve", lambda *_: False)
        docs.upsert(names(10_000), rows(10_000))
        model.upsert(names(10_000), rows(10_000), None)
        docs.delete(names(7_000, 2_000))
        model.delete(names(7_000, 2_000))
        store = opened_of(docs).store

        def late(*arguments: Any) -> Any:
            passes.append(PurgePass.begin(store, rows_max=10**6, grace_s=0.0))
            passes[0].step()
            return real(*arguments)

        monkeypatch.setattr(flushing, "load_rows", late)
        flush_now(docs)
        monkeypatch.setattr(flushing, "load_rows", real)
        before = entries(docs, b"dead")
        opened_of(docs).trim()
        assert 0 < entries(docs, b"dead") < before
        check(docs, model)
        assert vecdb.check(tmp_path).content
        while not passes[0].done:
            passes[0].step()
        opened_of(docs).trim()
        assert entries(docs, b"records") == 3_000
        check(docs, model)
    assert vecdb.check(tmp_path).content


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_random_order_of_purge_flush_and_trim_revives_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Two purge passes run at once, with flushes between and during their steps."""
    chance, model, passes = random.Random(seed), Model(DIM, "cosine"), dict[int, PurgePass]()
    override(monkeypatch, "purge_step_rows", 300)
    monkeypatch.setattr(Purger, "relieve", lambda *_: False)
    with vecdb.open(tmp_path, indexer=False, seal_bytes=2**26) as database:
        docs = database.create_collection("docs", DIM)
        opened, real = opened_of(docs), flushing.load_rows

        def step() -> None:
            which = chance.randrange(2)
            if which not in passes:
                rows_max = chance.choice([700, 10**6])
                begun = PurgePass.begin(opened.store, rows_max=rows_max, grace_s=0.0)
                if begun is not None:
                    passes[which] = begun
            elif passes[which].done:
                del passes[which]
            else:
                passes[which].step()

        def between(*arguments: Any) -> Any:
            for _ in range(chance.randrange(4)):
                step()
            return real(*arguments)

        def write() -> None:
            first, count = chance.randrange(4_000), chance.randrange(1, 1_200)
            docs.upsert(names(count, first), rows(count, first))
            model.upsert(names(count, first), rows(count, first), None)

        def delete() -> None:
            dying = names(chance.randrange(1, 1_500), chance.randrange(5_000))
            docs.delete(dying)
            model.delete(dying)

        def flush() -> None:
            flush_now(docs)

        def trim() -> None:
            trim_tombstones(opened.store, opened.snapshots.snapshot())

        monkeypatch.setattr(flushing, "load_rows", between)
        for _ in range(3):
            write()
        for _ in range(60):
            chance.choice([*[step] * 6, delete, delete, write, flush, trim])()
            assert sorted(n for page in docs.scroll(10_000) for n in page.ids) == sorted(model.rows)
        assert vecdb.check(tmp_path).content
        check(docs, model)


def test_tombstone_of_a_row_with_a_record_is_not_trimmed(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purge of an earlier version was interrupted between a vector and its record."""
    monkeypatch.setattr(Purger, "relieve", lambda *_: False)
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(300), rows(300))
    docs.delete(names(299))
    flush_now(docs)  # Of the only live row.
    store, key = opened_of(docs).store, layout.record_key(7, 1)
    with store.environment.read() as transaction:
        value = bytes(transaction.get(key, db=store.environment.database(b"records")))
    purge_all(store, grace_s=0.0)
    store.environment.transact(
        lambda t: t.put(key, value, db=store.environment.database(b"records"))
    )
    assert entries(docs, b"dead") == 299
    assert trim_tombstones(store, opened_of(docs).snapshots.snapshot()) == 298
    assert [name for page in docs.scroll() for name in page.ids] == names(1, 299)
    store.environment.transact(lambda t: t.delete(key, db=store.environment.database(b"records")))
    assert trim_tombstones(store, opened_of(docs).snapshots.snapshot()) == 1


def test_reservation_of_replaced_segments_is_refused(database: Any) -> None:
    """Its tombstones may be gone, so a reservation names the segments that it was planned for."""
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(100), rows(100))
    flush_now(docs)
    opened = opened_of(docs)
    (planned,) = opened.snapshots.snapshot().segments
    docs.delete(names(90))
    opened.trim()  # Rewrites it as a new flat segment.
    assert [s.number for s in opened.snapshots.snapshot().segments] != [planned.number]
    purge_all(opened.store, grace_s=0.0)
    opened.trim()
    for lock in (FLUSH_LOCK, GRAPH_LOCK):
        assert reserve(opened.store, lock, 0, 100, replacing=[planned.number]) is None
    docs.upsert(names(100, 200), rows(100))
    flush_now(docs)
    first, second = opened.snapshots.snapshot().segments
    taken = reserve(opened.store, GRAPH_LOCK, 0, 100, replacing=[first.number])
    assert taken is not None
    assert widen(opened.store, taken, 200, replacing=[planned.number]) is None
    assert widen(opened.store, taken, 200, replacing=[second.number], lost_seq=0) is None
    assert widen(opened.store, taken, 200, replacing=[second.number]) is not None


def test_tombstones_of_rows_in_a_segment_are_kept(database: Any) -> None:
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    docs.upsert(names(400), rows(400))
    model.upsert(names(400), rows(400), None)
    flush_now(docs)
    index_now(docs)
    opened = opened_of(docs)
    docs.delete(names(40))
    model.delete(names(40))
    purge_all(opened.store, grace_s=0.0)
    assert (
        trim_tombstones(opened.store, opened.snapshots.snapshot()) == 0
        and entries(docs, b"dead") == 40
    )
    check(docs, model)
    docs.delete(names(360 - 1, 40))
    model.delete(names(360 - 1, 40))
    purge_all(opened.store, grace_s=0.0)
    index_now(docs)  # Rebuilt without deleted rows; the indexer trims.
    assert entries(docs, b"dead") == 0
    check(docs, model)


@pytest.mark.parametrize("lock", [FLUSH_LOCK, GRAPH_LOCK])
def test_tombstones_of_reserved_rows_are_kept(database: Any, lock: str) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(100), rows(100))
    store = opened_of(docs).store
    docs.delete(names(10))
    taken = reserve(store, lock, 0, 100)
    assert taken is not None
    docs.delete(names(80, 10))
    purge_all(store, grace_s=0.0)
    assert entries(docs, b"dead") == 90  # The segment being built may hold its whole interval.
    assert (
        trim_tombstones(store, opened_of(docs).snapshots.snapshot()) == 10
    )  # Deleted before the reservation, so not in it.
    assert entries(docs, b"dead") == 80
    discard_reservations(store, opened_of(docs).folder / "segments", lock)
    assert trim_tombstones(store, opened_of(docs).snapshots.snapshot()) == 80
