"""Purging, trimming and compaction free the space of deleted rows without affecting readers."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model, flush_now, index_now, recall
from tests.places import override, value_of
from tests.waiting import HANG_S, eventually
from vecdb.engine.indexing.trimming import trim_tombstones
from vecdb.engine.maintenance.compaction import folder_bytes
from vecdb.engine.runtime.upkeep import Upkeep
from vecdb.engine.search import lookup, search
from vecdb.engine.segments import flushing
from vecdb.engine.segments.lifecycle import (
    FLUSH_LOCK,
    GRAPH_LOCK,
    discard_reservations,
    reserve,
    widen,
)
from vecdb.engine.store import clock as store_clock
from vecdb.engine.store import layout, leases
from vecdb.engine.store.purging import GRACE_S, PurgePass, Purger, purge_all
from vecdb.engine.system import folder_use
from vecdb.engine.system.folder_use import FolderUse
from vecdb.engine.testing import opened_of, runtime_of

DIM = 16


def rows(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"id-{i}" for i in range(first, first + count)]


def entries(docs: Any, database: bytes) -> int:
    environment = opened_of(docs).store.environment
    with environment.read() as transaction:
        return int(transaction.stat(environment.database(database))["entries"])


def held(docs: Any) -> set[int]:
    """Return the rows whose vectors are in the store."""
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        every = np.arange(store.read_counters(transaction).next_row)
        return {int(r) for _, _, own in store.rows.blocks_holding(transaction, every) for r in own}


def check(docs: Any, model: Model) -> None:
    """Check that every way of reading agrees with the model."""
    assert docs.count() == len(model.rows)
    wanted = sorted(model.rows)
    for start in range(0, len(wanted), 5_000):
        part = wanted[start : start + 5_000]
        model.check_records(docs.get(part), part)
    seen = [name for page in docs.scroll() for name in page.ids]
    assert sorted(seen) == wanted
    for query in rows(3, 77):
        model.check_hits(docs.search(query, k=20, exact=True), query, 20, exact=True)
        model.check_hits(docs.search(query, k=20), query, 20, exact=False)


def batch_rows(count: int) -> int:
    return min(500, count // 10)


def replaced(docs: Any, model: Model, count: int, seed: int) -> None:
    """Replace all rows, in another order, in ten batches or more."""
    order = np.random.default_rng(seed).permutation(count)
    vectors = rows(count, seed)
    size = batch_rows(count)
    for start in range(0, count, size):
        ids = [f"id-{i}" for i in order[start : start + size]]
        part = vectors[start : start + size]
        metadata = [{"n": seed}] * len(ids)
        docs.upsert(ids, part, metadata)
        model.upsert(ids, part, metadata)


@pytest.mark.slow
@pytest.mark.parametrize("count", [300, 6_000])
def test_ten_replacements_take_at_most_two_and_a_half_new_loads(tmp_path: Path, count: int) -> None:
    options = {"seal_bytes": 64 * 1024}
    with vecdb.open(tmp_path / "fresh", **options) as database:
        docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
        replaced(docs, model, count, 1)
        docs.optimize()
    with FolderUse(tmp_path / "fresh", exclusive=True):  # After its indexer has ended.
        fresh = folder_bytes(tmp_path / "fresh")
    shutil.copytree(tmp_path / "fresh", tmp_path / "data")
    with vecdb.open(tmp_path / "data", **options) as database:
        docs = database.collection("docs")
        for seed in range(2, 12):
            replaced(docs, model, count, seed)
        docs.optimize()
        check(docs, model)
        queries = rows(100, 5)
        exact = docs.search(queries, k=10, exact=True)
        assert recall(docs.search(queries, k=10), exact) >= 0.95
    with FolderUse(tmp_path / "data", exclusive=True):
        assert folder_bytes(tmp_path / "data") <= 2.5 * fresh
    report = vecdb.compact(tmp_path / "data")
    assert report.bytes_after == folder_bytes(tmp_path / "data") <= 1.1 * fresh
    assert report.bytes_before > report.bytes_after
    with vecdb.open(tmp_path / "data", **options) as database:
        docs = database.collection("docs")
        check(docs, model)
        exact = docs.search(queries, k=10, exact=True)
        assert recall(docs.search(queries, k=10), exact) >= 0.95
        assert docs.upsert(["later"], rows(1)).seq == 11 * -(-count // batch_rows(count)) + 1


def test_deleted_rows_are_purged_after_a_minute(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    for ids, vectors in ((names(200), rows(200)), (names(50), rows(50, 1))):
        docs.upsert(ids, vectors)
        model.upsert(ids, vectors, None)
    docs.delete(names(10))
    model.delete(names(10))
    store = opened_of(docs).store
    assert purge_all(store) == 0 and entries(docs, b"records") == 250
    real = store_clock.boot_time_ns
    passed_ns = int((GRACE_S + 1) * 1e9)
    monkeypatch.setattr(store_clock, "boot_time_ns", lambda: real() + passed_ns)
    assert purge_all(store) == 60
    assert entries(docs, b"records") == 190 == docs.count()
    assert entries(docs, b"log") == 0
    with store.environment.read() as transaction:
        assert store.purged_to(transaction) == 3
    check(docs, model)
    # Writes continue after the whole log was purged.
    docs.delete(names(1, 100))
    model.delete(names(1, 100))
    check(docs, model)


def test_blocks_with_deleted_rows_are_rewritten_then_removed(database: Any) -> None:
    """Blocks of 255 rows stay with few deleted rows, then are rewritten, then removed."""
    docs, model = database.create_collection("docs", 64), Model(64, "euclidean")
    vectors = rows(1020, dim=64)
    docs.upsert(names(1020), vectors)
    store = opened_of(docs).store
    docs.delete(names(20))
    purge_all(store, grace_s=0.0)
    assert held(docs) == set(range(1020)) and entries(docs, b"records") == 1000
    assert entries(docs, b"dead") == 20  # Without them the rows would look live.
    docs.delete(names(60, 20))
    purge_all(store, grace_s=0.0)
    assert held(docs) == set(range(80, 1020)) and entries(docs, b"dead") == 0
    docs.delete(names(500, 80))
    purge_all(store, grace_s=0.0)
    assert held(docs) == set(range(580, 1020)) | (held(docs) & set(range(510, 580)))
    assert entries(docs, b"blocks") == 2
    found = docs.get(names(440, 580))
    assert not found.missing and (found.vectors == vectors[580:]).all()
    del model


def test_old_metadata_versions_are_purged(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    vectors = rows(20)
    for version in range(5):
        docs.upsert(names(20), vectors, [{"v": version}] * 20)
    docs.upsert(names(5), vectors[:5], [{"v": 9}] * 5)
    assert entries(docs, b"records") == 105
    purge_all(opened_of(docs).store, grace_s=0.0)
    assert entries(docs, b"records") == 20
    assert [m["v"] for m in docs.get(names(20)).metadata] == [9] * 5 + [4] * 15


def test_purge_during_a_scroll_keeps_its_rows(database: Any) -> None:
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    replaced(docs, model, 1_000, 1)
    before = dict(model.rows)
    with docs.scroll(100) as scroll:
        pages = [next(scroll)]
        for seed in range(2, 6):
            replaced(docs, model, 1_000, seed)
        purge_all(opened_of(docs).store, grace_s=0.0)
        assert entries(docs, b"records") >= 5_000
        pages += list(scroll)
    seen = {n: v.tobytes() for page in pages for n, v in zip(page.ids, page.vectors, strict=True)}
    assert seen == {name: vector.tobytes() for name, (vector, _) in before.items()}
    purge_all(opened_of(docs).store, grace_s=0.0)
    assert entries(docs, b"records") == 1_000
    check(docs, model)


def test_garbage_during_writes_stays_bounded(database: Any) -> None:
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    for seed in range(8):
        replaced(docs, model, 2_000, seed)
        assert entries(docs, b"records") <= 2 * 2_000
    check(docs, model)


def test_interrupted_purge_pass_is_repeated(tmp_path: Path) -> None:
    model = Model(DIM, "cosine")
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(9_000), rows(9_000))
        model.upsert(names(9_000), rows(9_000), None)
        docs.delete(names(2_000))
        model.delete(names(2_000))
        purge = PurgePass.begin(opened_of(docs).store, rows_max=10**6, grace_s=0.0)
        assert purge is not None and not purge.done
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.collection("docs")
        store = opened_of(docs).store
        with store.environment.read() as transaction:
            assert store.purged_to(transaction) == 2
        check(docs, model)
        purge = PurgePass.begin(store, rows_max=10**6, grace_s=0.0)
        assert purge is not None and purge.step() == 2_000
        check(docs, model)
        assert purge_all(store, grace_s=0.0) == 2_000  # The repetition has no other effect.
        assert entries(docs, b"records") == 7_000 and entries(docs, b"log") == 0
        check(docs, model)


def test_close_ends_a_purge_after_its_current_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close begins while the upkeep thread is in the first of ten steps; after the next open the
    others follow."""
    model = Model(DIM, "cosine")
    override(monkeypatch, "purge_step_rows", 300)
    in_a_step, closing = threading.Event(), threading.Event()
    step, close, taken = PurgePass.step, Upkeep.close, []

    def held_step(self: PurgePass) -> int:
        taken.append(self)
        in_a_step.set()
        assert closing.wait(HANG_S)
        return step(self)

    def told_close(self: Upkeep) -> None:
        with self._changed:
            self._closed = True
        closing.set()
        close(self)

    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(9_000), rows(9_000))
        model.upsert(names(9_000), rows(9_000), None)
        # The work after the commit leaves all of it to the other thread.
        monkeypatch.setattr(Purger, "relieve", lambda *_: False)
        docs.delete(names(3_000))
        model.delete(names(3_000))
        monkeypatch.setattr(PurgePass, "step", held_step)
        monkeypatch.setattr(Upkeep, "close", told_close)
        runtime_of(database).upkeep.purge_now(opened_of(docs).id)
        assert in_a_step.wait(HANG_S)
    assert len(taken) == 1
    monkeypatch.setattr(PurgePass, "step", step)
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.collection("docs")
        assert 6_000 < entries(docs, b"records") < 9_000
        check(docs, model)
        opened_of(docs).purge_old()
        # Garbage up to a quarter of the live rows is kept for the purge delay.
        assert entries(docs, b"records") <= 1.25 * 6_000
        purge_all(opened_of(docs).store, grace_s=0.0)
        assert entries(docs, b"records") == 6_000 and entries(docs, b"log") == 0
        check(docs, model)
    assert vecdb.check(tmp_path).content


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
        deaths = entries(docs, b"dead")
        opened_of(docs).trim()
        assert 0 < entries(docs, b"dead") < deaths
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


def test_end_of_one_purge_pass_keeps_the_seq_of_another(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(300), rows(300))
    docs.delete(names(10))
    store = opened_of(docs).store
    first = PurgePass.begin(store, rows_max=10**6, grace_s=0.0)
    docs.delete(names(10, 10))
    second = PurgePass.begin(store, rows_max=10**6, grace_s=0.0)
    assert first is not None and second is not None
    second.step()
    while not first.done:
        first.step()
    with store.environment.read() as transaction:
        assert store.purged_to(transaction) == 3  # The second pass still purges up to there.
    while not second.done:
        second.step()
    with store.environment.read() as transaction:
        assert store.purged_to(transaction) == 3


def test_commit_with_much_garbage_leaves_most_to_another_thread(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With much garbage a commit purges for a short time and leaves the rest to another thread."""
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    replaced(docs, model, 2_000, 0)
    with docs.scroll(10) as scroll:
        next(scroll)
        for seed in range(1, 25):
            replaced(docs, model, 2_000, seed)
        assert entries(docs, b"records") == 50_000
        asked: list[str] = []
        override(monkeypatch, "purge_relief_s", 0.0)
        monkeypatch.setattr(runtime_of(database).upkeep, "purge_now", asked.append)
    docs.upsert(["one more"], rows(1))
    model.upsert(["one more"], rows(1), None)
    eventually(lambda: asked)  # What follows a commit runs after its answer.
    assert asked == [opened_of(docs).id]
    assert 50_000 - 2 * 4_000 < entries(docs, b"records") < 50_000
    opened_of(docs).purge_old()
    assert entries(docs, b"records") <= 1.5 * 2_000
    check(docs, model)


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


def test_rows_purged_during_a_flush_are_left_out(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were deleted after the reservation: their vectors exist, their records do not."""
    docs, model = database.create_collection("docs", 64), Model(64, "cosine")
    docs.upsert(names(1_000), rows(1_000, dim=64))
    model.upsert(names(1_000), rows(1_000, dim=64), None)
    real = flushing.load_rows

    def late(*arguments: Any) -> Any:
        docs.delete(names(5, 20))
        model.delete(names(5, 20))
        purge_all(opened_of(docs).store, grace_s=0.0)
        return real(*arguments)

    monkeypatch.setattr(flushing, "load_rows", late)
    flush_now(docs)
    (segment,) = opened_of(docs).snapshots.snapshot().segments
    assert len(segment.content.rows) == len(segment.content.id_offsets) - 1 == 995
    for query in rows(3, 7, dim=64):
        model.check_hits(docs.search(query, k=30), query, 30, exact=True)
    monkeypatch.setattr(flushing, "load_rows", real)
    key = layout.record_key(500, 1)
    environment = opened_of(docs).store.environment
    environment.transact(lambda t: t.delete(key, db=environment.database(b"records")))
    with pytest.raises(vecdb.DataLossError):
        flushing.load_rows(opened_of(docs).store, 0, 1_000, 2)


def test_damaged_lease_does_not_stop_purging(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(300), rows(300))
    docs.delete(names(10))
    environment = opened_of(docs).store.environment
    environment.transact(lambda t: t.put(b"p" * 16, b"bad", db=environment.database(b"pins")))
    assert purge_all(opened_of(docs).store, grace_s=0.0) == 10


def test_damaged_log_entry_does_not_stop_purging(database: Any) -> None:
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    replaced(docs, model, 300, 1)
    docs.delete(names(10))
    docs.delete(names(10, 10))
    model.delete(names(20))
    environment = opened_of(docs).store.environment
    key = layout.row_key(11)
    environment.transact(lambda t: t.put(key, b"nonsense", db=environment.database(b"log")))
    purge_all(opened_of(docs).store, grace_s=0.0)
    # Its rows are deleted; only their bytes stay.
    assert entries(docs, b"log") == 0 and entries(docs, b"records") == 290
    check(docs, model)


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


def test_search_whose_hit_was_purged_is_repeated(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its best hit is deleted and purged between the walk and the read of metadata."""
    docs = database.create_collection("docs", DIM)
    vectors = rows(50)
    docs.upsert(names(50), vectors, [{"n": i} for i in range(50)])
    real, calls = search.answers, []

    def late(*arguments: Any) -> Any:
        if len(calls) < 2:
            docs.delete(names(1, 7 + len(calls)))
            purge_all(opened_of(docs).store, grace_s=0.0)
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(search, "answers", late)
    hits = docs.search(vectors[7], k=50)
    assert "id-7" not in hits.ids and {m["n"] for m in hits.metadata} >= set(range(9, 50))
    assert hits.info.seq >= 2
    # The second time a lease protected the rows deleted then.
    assert len(calls) == 2


@pytest.mark.parametrize("part", ["vectors", "records"])
def test_look_up_of_purged_rows_is_repeated_under_a_lease(
    database: Any, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """All rows are replaced and purged after each look-up of row numbers; the second time a lease
    protects the rows found."""
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    replaced(docs, model, 400, 1)
    real, finds = value_of("find_rows"), []

    def purging_first(*arguments: Any) -> Any:
        found = real(*arguments)
        if len(finds) == 1:
            then.rows.update(model.rows)
        finds.append(1)
        replaced(docs, model, 400, 1 + len(finds))
        purge_all(opened_of(docs).store, grace_s=0.0)
        return found

    then = Model(DIM, "cosine")
    override(monkeypatch, "find_rows", purging_first)
    if part == "records":  # The vectors were read just before.
        vectors = np.zeros((3, DIM), np.float32)
        monkeypatch.setattr(lookup, "read_vectors", lambda *_: vectors)
    got = docs.get(names(3))
    assert len(finds) == 2 and got.missing == []
    if part == "vectors":
        then.check_records(got, names(3))
    assert [m["n"] for m in got.metadata] == [2, 2, 2]
    with opened_of(docs).store.environment.read() as transaction:
        assert leases.oldest_lease(opened_of(docs).store, transaction) is None
    monkeypatch.undo()
    check(docs, model)


def test_look_up_of_damaged_rows_is_not_repeated(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(3), rows(3))
    environment, key = opened_of(docs).store.environment, layout.record_key(1, 1)
    environment.transact(lambda t: t.put(key, b"bad", db=environment.database(b"records")))
    monkeypatch.setattr(leases, "take_lease", None)  # Called only for a repetition.
    with pytest.raises(vecdb.DataLossError):
        docs.get(names(3))


def test_snapshot_that_became_too_old_is_created_again(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    replaced(docs, model, 400, 1)
    real, late = value_of("fill_snapshot"), [True, True, True, True]

    def purging_first(self: Any, *arguments: Any) -> Any:
        if late:
            late.pop()
            override(monkeypatch, "fill_snapshot", real)
            replaced(docs, model, 400, 9 + len(late))
            purge_all(opened_of(docs).store, grace_s=0.0)
            override(monkeypatch, "fill_snapshot", purging_first)
        return real(self, *arguments)

    override(monkeypatch, "fill_snapshot", purging_first)
    opened_of(docs).snapshots.forget()
    query = rows(1, 3)[0]
    hits = docs.search(query, k=20, exact=True)
    assert len(late) == 1  # Two attempts without a lease, the third with one.
    assert hits.info.matches == 400 and len(hits) == 20
    check(docs, model)


READER = """
import sys, numpy as np, vecdb
rng = np.random.default_rng(0)
with vecdb.open(sys.argv[1], indexer=False) as database:
    docs = database.collection("docs")
    print("ready", flush=True)
    last, searches = 0, 0
    while docs.count() > 1:
        hits = docs.search(rng.normal(size=16).astype(np.float32), k=10)
        assert hits.info.matches in (1, 1000), hits.info
        if hits.info.matches == 1000:
            assert len(hits) == 10 and len(set(hits.ids)) == 10
            assert all("n" in m for m in hits.metadata)
        assert hits.info.seq >= last
        last, searches = hits.info.seq, searches + 1
print("searches", searches)
"""


@pytest.mark.slow
def test_reader_in_another_process_sees_whole_states_during_replacement(
    tmp_path: Path,
) -> None:
    with vecdb.open(tmp_path, seal_bytes=64 * 1024) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(1_000), rows(1_000), [{"n": 0}] * 1_000)
        child = subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            for seed in range(1, 25):
                docs.upsert(names(1_000), rows(1_000, seed), [{"n": seed}] * 1_000)
            docs.delete(names(999))
            said, _ = child.communicate(timeout=HANG_S)
            assert child.returncode == 0 and said.startswith("searches ")
        finally:
            child.kill()
            child.wait()


def test_compaction_of_an_open_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_use, "PATIENCE_S", 0.1)
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(3), rows(3))
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            vecdb.compact(tmp_path)
        assert caught.value.reason == "IN_USE"
    with pytest.raises(vecdb.NotFoundError):
        vecdb.compact(tmp_path / "nowhere")
    vecdb.compact(tmp_path)
    with vecdb.open(tmp_path, indexer=False) as database:
        assert database.collection("docs").get(names(3)).missing == []


def test_compaction_of_a_damaged_store_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(30), rows(30))
        environment = opened_of(docs).store.environment
        key = layout.record_key(4, 1)
        environment.transact(lambda t: t.put(key, b"bad", db=environment.database(b"records")))
        folder = opened_of(docs).folder
    with pytest.raises(vecdb.DataLossError):
        vecdb.compact(tmp_path)
    assert not (folder / "store.compact").exists()
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.collection("docs")
        assert docs.count() == 30 and docs.get(names(3)).missing == []


def test_command_compact_reports_the_space_freed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vecdb_cli.command_line import run

    monkeypatch.setattr(folder_use, "PATIENCE_S", 0.1)

    with vecdb.open(tmp_path / "data", indexer=False) as database:
        database.create_collection("docs", DIM).upsert(names(3), rows(3))
    assert run(["compact", str(tmp_path / "data")]) == 0
    assert "before" in capsys.readouterr().out
    assert run(["compact", str(tmp_path / "data"), "--json"]) == 0
    assert '"bytes_after"' in capsys.readouterr().out
    with vecdb.open(tmp_path / "data", indexer=False):
        assert run(["compact", str(tmp_path / "data")]) == 1
