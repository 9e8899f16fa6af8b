"""Purging frees the space of deleted rows; the size of a folder stays bounded."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.model import Model, flush_now, recall
from tests.places import override
from tests.store.replacing import DIM, batch_rows, check, entries, held, names, replaced, rows
from tests.waiting import HANG_S, eventually
from vecdb.engine.maintenance.compaction import folder_bytes
from vecdb.engine.runtime.upkeep import Upkeep
from vecdb.engine.segments import flushing
from vecdb.engine.store import clock as store_clock
from vecdb.engine.store import layout
from vecdb.engine.store.purging import GRACE_S, PurgePass, Purger, purge_all
from vecdb.engine.system import folder_use
from vecdb.engine.system.folder_use import FolderUse
from vecdb.engine.testing import opened_of, runtime_of


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
