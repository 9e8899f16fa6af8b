"""An embedded database: writers, commits, opening and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now
from tests.places import override, value_of
from tests.waiting import HANG_S, eventually
from vecdb.engine.store import layout
from vecdb.engine.store.batch import make_batch
from vecdb.engine.testing import (
    opened_of,
    put_catalog_entry,
    runtime_of,
    submit,
)

RNG = np.random.default_rng(3)


def rows(count: int, dim: int = 8) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


def test_acknowledged_write_is_visible_at_once(tmp_path: Path) -> None:
    """Concurrent writers and readers on a real disk: no search misses an acknowledged write."""
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 8)
        docs.upsert(["first"], rows(1))
        behind: list[tuple[int, int]] = []
        stopping = threading.Event()

        def read() -> None:
            while not stopping.is_set():
                docs.search(rows(1)[0], k=1)

        reader = threading.Thread(target=read)
        reader.start()
        query = rows(1)[0]
        for i in range(300):
            receipt = docs.upsert([f"row-{i % 7}"], rows(1))
            seen = docs.search(query, k=1).info.seq
            if seen < receipt.seq:
                behind.append((receipt.seq, seen))
        stopping.set()
        reader.join()
        assert behind == []


def test_failure_after_a_commit_does_not_end_the_writer(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = database.create_collection("docs", 8)

    def failing(runtime: Any, opened: Any) -> None:
        raise vecdb.NotFoundError("planted")

    override(monkeypatch, "after_commit", failing)
    for i in range(3):
        docs.upsert([f"row-{i}"], rows(1))
    assert docs.count() == 3


def test_damaged_collection_does_not_block_graphs_of_others(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data") as database:
        bad, good = (database.create_collection(name, 8) for name in ("bad", "good"))
        for docs in (bad, good):
            docs.upsert(names(100), rows(100))
        environment = opened_of(bad).store.environment

        def damage(transaction: Any) -> None:
            with transaction.cursor(environment.database(b"segments")) as cursor:
                cursor.put(layout.row_key(99), b"not what it should be")

        flush_now(bad)
        environment.transact(damage)
        runtime_of(database).wake_indexer(opened_of(bad).id)
        assert good.optimize(timeout_s=HANG_S).unindexed_rows == 0
        runtime = runtime_of(database)
        eventually(lambda: "checksum" in runtime.indexer_status(opened_of(bad)))
        assert "crash" not in runtime_of(database).indexer_status(opened_of(good))


def test_writes_of_many_threads_share_commits_and_none_is_lost(database: Any) -> None:
    docs = database.create_collection("docs", 8)
    receipts: list[Any] = []

    def write(writer_number: int) -> None:
        for i in range(20):
            receipts.append(docs.upsert(names(5, 10_000 * writer_number + 5 * i), rows(5)))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.seq for r in receipts) == list(range(1, 161))
    assert docs.count() == 800


def test_failed_batch_of_a_group_does_not_fail_the_others(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = database.create_collection("docs", 8)
    store = opened_of(docs).store
    apply = type(store).apply

    def failing(self: Any, transaction: Any, batch: Any) -> Any:
        if b"bad" in batch.ids:
            raise ValueError("planted")
        return apply(self, transaction, batch)

    monkeypatch.setattr(type(store), "apply", failing)
    proceed = threading.Event()
    original = value_of("take_batches")

    def slow_take(self: Any) -> Any:
        proceed.wait(HANG_S)
        return original(self)

    override(monkeypatch, "take_batches", slow_take)
    batches = [make_batch([name], rows(1), None) for name in ("a", "bad", "b")]
    futures = [submit(docs, batch) for batch in batches]
    proceed.set()
    assert futures[0].result(HANG_S).seq == 1
    with pytest.raises(vecdb.InternalError):
        futures[1].result(HANG_S)
    assert futures[2].result(HANG_S).seq == 2
    assert docs.get(["a", "bad", "b"]).ids == ["a", "b"]


def test_full_queue_refuses_the_batch_and_writes_nothing(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False, queue_bytes_max=1000) as database:
        docs = database.create_collection("docs", 8)
        results: list[Any] = []

        def write(n: int) -> None:
            try:
                results.append(docs.upsert(names(500, 1000 * n), rows(500)))
            except vecdb.ResourceExhaustedError as error:
                results.append(error)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written = [r for r in results if isinstance(r, vecdb.Receipt)]
        assert all("1000" in str(r) for r in results if r not in written)
        assert docs.count() == 500 * len(written) > 0


def test_full_map_grows(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False, map_bytes=1 << 20) as database:
        docs = database.create_collection("docs", 256)
        vectors = rows(4000, 256)
        docs.upsert_many(names(4000), vectors)
        assert docs.get(["row-0", "row-3999"]).vectors.tobytes() == vectors[[0, 3999]].tobytes()


def test_two_processes_see_each_others_writes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with vecdb.open(folder, indexer=False, map_bytes=1 << 20) as database:
        docs = database.create_collection("docs", 8)
        docs.upsert(["mine"], rows(1))
        assert docs.search(rows(1)[0], k=5).ids == ["mine"]
        script = f"""
import numpy as np, vecdb
from vecdb.engine.testing import opened_of
with vecdb.open({str(folder)!r}, indexer=False) as database:
    docs = database.collection("docs")
    assert docs.get(["mine"]).ids == ["mine"]
    vectors = np.eye(8, dtype=np.float32)[np.arange(5000) % 8]
    docs.upsert([f"theirs-{{i}}" for i in range(5000)], vectors)
    docs.delete(["mine"])
    opened_of(docs).flush(1)
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG_S)
        assert docs.count() == 5000
        hits = docs.search(np.eye(8, dtype=np.float32)[3], k=5)
        assert (hits.distances == 0).all() and "mine" not in hits.ids
        assert docs.stats().segments[0].rows == 5000


def test_second_open_in_a_process_returns_the_same_database(tmp_path: Path) -> None:
    first = vecdb.open(tmp_path / "data", indexer=False)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "data")
    second = vecdb.open(link)
    assert second is first
    with pytest.raises(vecdb.InvalidArgumentError):
        vecdb.open(tmp_path / "data", indexer=True)
    second.close()
    docs = first.create_collection("docs", 8)
    first.close()
    for call in (lambda: docs.count(), lambda: docs.upsert(["a"], rows(1)), first.list_collections):
        with pytest.raises(vecdb.FailedPreconditionError, match="closed"):
            call()
    first.close()


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_use_after_a_fork_is_refused(database: Any) -> None:
    docs = database.create_collection("docs", 8)
    child = os.fork()
    if child == 0:
        refused = 0
        for call in (
            docs.count,
            lambda: docs.upsert(["a"], rows(1)),
            lambda: docs.search(rows(1)[0]),
        ):
            try:
                call()
            except vecdb.FailedPreconditionError:
                refused += 1
        os._exit(10 + refused)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 13
    assert docs.count() == 0


def test_folder_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(vecdb.FailedPreconditionError, match="not a vecdb database"):
        vecdb.open(tmp_path / "other")
    with pytest.raises(vecdb.FailedPreconditionError, match="not a folder"):
        vecdb.open(tmp_path / "other" / "thesis.tex")
    vecdb.open(tmp_path / "data", indexer=False).close()
    (tmp_path / "data" / "FORMAT").write_text("vecdb 2\n")
    with pytest.raises(vecdb.FailedPreconditionError, match=r"format 2.*up to 1"):
        vecdb.open(tmp_path / "data")
    (tmp_path / "data" / "FORMAT").write_text("sqlite\n")
    with pytest.raises(vecdb.FailedPreconditionError, match="sqlite"):
        vecdb.open(tmp_path / "data")


def test_interrupted_create_and_drop_are_resolved_on_open(tmp_path: Path) -> None:
    """Operations of a process killed half way are undone or finished by the next open."""
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        database.create_collection("kept", 8)
        database.create_collection("dropping", 8)
        runtime_of(database).catalog.drop("dropping")  # Only its first step.
        put_catalog_entry(database, "creating", "creating")
        assert [d.name for d in database.list_collections()] == ["kept"]
        with pytest.raises(vecdb.AlreadyExistsError):
            database.create_collection("dropping", 8)
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        assert [d.name for d in database.list_collections()] == ["kept"]
        assert len(list((tmp_path / "data" / "collections").iterdir())) == 1
        assert list((tmp_path / "data" / "trash").iterdir()) == []
        database.create_collection("dropping", 8)
        database.create_collection("creating", 8)
