"""Files, segments and processes of an embedded database."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.checking import checked
from tests.model import Model, flush_now, index_now, indexer_of
from tests.places import override, value_of
from tests.waiting import HANG_S, NEVER_S, eventually
from vecdb.engine.segments import lifecycle as publication
from vecdb.engine.segments.segment import RowArrays, Segment, SegmentDamagedError, padded_width
from vecdb.engine.store import layout
from vecdb.engine.store.batch import make_batch
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import (
    has_flushes_to_retry,
    merge_segments,
    opened_of,
    put_catalog_entry,
    runtime_of,
    snapshot_of_indexer,
    submit,
)

RNG = np.random.default_rng(3)


def rows(count: int, dim: int = 8) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


def entries_of(docs: Any) -> dict[int, SegmentEntry]:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        return store.read_segments(transaction)


def test_segment_lifecycle_from_reservation_to_removal(database: Any) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(100), rows(100))
    opened = opened_of(docs)
    taken = publication.reserve(opened.store, publication.GRAPH_LOCK, 0, 50)
    assert entries_of(docs)[taken.number].state == "claimed"
    publication.discard_reservations(
        opened.store, opened.folder / "segments", publication.FLUSH_LOCK
    )
    assert taken.number in entries_of(docs)  # A reservation under another lock stays.
    publication.discard_reservations(
        opened.store, opened.folder / "segments", publication.GRAPH_LOCK
    )
    assert entries_of(docs) == {}

    flush_now(docs)
    index_now(docs)
    (number,) = entries_of(docs)
    entry = entries_of(docs)[number]
    assert (entry.state, entry.kind, entry.first_row, entry.end_row) == (
        "published", "graph", 0, 100,
    )  # fmt: skip
    assert number > taken.number + 1  # Numbers are never reused.
    folders = [entry.name for entry in (opened.folder / "segments").iterdir()]
    assert folders == [str(number)]


def test_segment_whose_files_cannot_be_unlinked_is_retried(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced segments and abandoned reservations stay listed until their files are removed;
    otherwise their disk space would leak.
    """
    docs = database.create_collection("docs", 8)
    docs.upsert(names(100), rows(100))
    opened = opened_of(docs)
    segments = opened.folder / "segments"
    with monkeypatch.context() as patch:
        patch.setattr(publication, "remove_segment_folder", lambda folder: False)
        taken = publication.reserve(opened.store, publication.GRAPH_LOCK, 0, 50)
        (segments / str(taken.number)).mkdir()
        publication.discard_reservations(opened.store, segments, publication.GRAPH_LOCK)
        flush_now(docs)
        index_now(docs)
        states = {number: entry.state for number, entry in entries_of(docs).items()}
        assert list(states.values()) == ["retired", "retired", "published"]
        assert {path.name for path in segments.iterdir()} == set(map(str, states))
        assert docs.count() == len(docs.search(rows(1)[0], k=200).ids) == 100
    database.close()
    assert checked(database.path)[0] == []  # A check does not report them.
    with vecdb.open(database.path, indexer=False) as again:
        docs = again.collection("docs")
        index_now(docs)
        (number,) = entries_of(docs)
        assert [path.name for path in segments.iterdir()] == [str(number)]
    assert checked(database.path)[0] == []


def test_publish_of_a_changed_interval_is_refused(database: Any) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(100), rows(100))
    flush_now(docs)
    store = opened_of(docs).store
    before = entries_of(docs)
    for first, end in ((0, 50), (50, 100), (10, 110), (100, 130)):
        taken = publication.reserve(store, publication.GRAPH_LOCK, first, end)
        assert not publication.publish(store, taken, SegmentEntry("published", first, end, 1))
    published = {n: e for n, e in entries_of(docs).items() if e.state != "claimed"}
    assert published == before


def test_lost_segment_is_served_from_the_store_and_rebuilt(database: Any) -> None:
    model = Model(8, "cosine")
    docs = database.create_collection("docs", 8)
    vectors = rows(200)
    docs.upsert(names(200), vectors)
    model.upsert(names(200), vectors, None)
    flush_now(docs)
    index_now(docs)
    (number,) = entries_of(docs)
    shutil.rmtree(opened_of(docs).folder / "segments" / str(number))
    opened_of(docs).snapshots.forget()
    query = rows(1)[0]
    hits = docs.search(query, k=20)
    model.check_hits(hits, query, 20, exact=True)
    assert entries_of(docs)[number].state == "lost"
    docs.delete(names(10))
    model.delete(names(10))
    model.check_hits(docs.search(query, k=20), query, 20, exact=True)
    index_now(docs)
    assert docs.stats().unindexed_rows == 0
    model.check_hits(docs.search(query, k=20), query, 20, exact=True)


def test_indexer_whose_folder_was_deleted_ends(database: Any) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(200), rows(200))
    flush_now(docs)
    indexer = indexer_of(docs)
    snapshot_of_indexer(indexer)
    shutil.rmtree(opened_of(docs).folder)
    with pytest.raises(FileNotFoundError):
        indexer.run("optimizing")
    assert not opened_of(docs).folder.exists()


@pytest.mark.parametrize(
    "file", ["manifest.json", "vectors.npy", "rows.npy", "links.npy", "id_bytes.npy"]
)
@pytest.mark.parametrize("damage", ["truncated", "longer", "other bytes"])
def test_damaged_segment_is_detected(database: Any, file: str, damage: str) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(50), rows(50))
    flush_now(docs)
    index_now(docs)
    (number,) = entries_of(docs)
    folder = opened_of(docs).folder / "segments" / str(number)
    path = folder / file
    raw = path.read_bytes()
    middle = len(raw) - 20
    changed = {
        "truncated": raw[:-1],
        "longer": raw + b"\0",
        "other bytes": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :],
    }[damage]
    path.write_bytes(changed)
    with pytest.raises(SegmentDamagedError):
        Segment(folder, number, opened_of(docs).id, entries_of(docs)[number]).verify()


@pytest.mark.parametrize("dtype", ["<f4", "<i4", "<i8", "|u1"])
@pytest.mark.parametrize("shape", [(0,), (7,), (0, 16), (123_456, 48), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_headers_are_read_as_numpy_writes_them(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], order: Any
) -> None:
    np.save(tmp_path / "a.npy", np.empty(shape, dtype, order))
    with open(tmp_path / "a.npy", "rb") as file:
        np.lib.format.read_magic(file)
        expected = np.lib.format.read_array_header_1_0(file)
        at = file.tell()
    with open(tmp_path / "a.npy", "rb") as file:
        assert value_of("read_npy_header")(file) == (*expected, at)


def test_segment_opens_while_the_python_parser_fails(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPython's parser may fail in one thread because of another; no segment may be quarantined
    then.
    """

    def fail(*arguments: Any, **options: Any) -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    docs = database.create_collection("docs", 8)
    docs.upsert(names(100), rows(100))
    monkeypatch.setattr(ast, "parse", fail)
    flush_now(docs)
    index_now(docs)
    assert [entry.state for entry in entries_of(docs).values()] == ["published"]
    assert len(docs.search(rows(1)[0], k=100).ids) == 100


def test_segment_of_another_collection_is_refused(database: Any) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(50), rows(50))
    flush_now(docs)
    (number,) = entries_of(docs)
    folder = opened_of(docs).folder / "segments" / str(number)
    with pytest.raises(SegmentDamagedError, match="belongs to"):
        Segment(folder, number, "0123456789abcdef", entries_of(docs)[number])


def test_merge_of_flat_and_graph_segments_keeps_rows_in_order(database: Any) -> None:
    """A graph between flat segments, with equal vectors in all of them."""
    model = Model(8, "euclidean")
    docs = database.create_collection("docs", 8, "euclidean")
    twin = rows(1)
    for part, size in enumerate((40, 400, 60)):
        vectors = rows(size)
        vectors[:5] = twin
        docs.upsert(names(size, 1000 * part), vectors)
        model.upsert(names(size, 1000 * part), vectors, None)
        flush_now(docs)
    middle = sorted(entries_of(docs).items(), key=lambda item: item[1].first_row)[1]
    indexer = indexer_of(docs, 400)
    snapshot = snapshot_of_indexer(indexer)
    taken = publication.reserve(
        opened_of(docs).store, publication.GRAPH_LOCK, middle[1].first_row, middle[1].end_row
    )
    assert taken is not None
    merge_segments(indexer, [s for s in snapshot.segments if s.number == middle[0]], taken)
    assert [s.kind for s in docs.stats().segments] == ["flat", "graph", "flat"]
    for _ in range(2):  # The second round extends everything again.
        index_now(docs)
        (segment,) = opened_of(docs).snapshots.snapshot().segments
        assert (np.diff(segment.content.rows) > 0).all()
        queries = np.concatenate([rows(20), twin])
        for query, hits in zip(queries, docs.search(queries, k=15, ef=200), strict=True):
            model.check_hits(hits, query, 15, exact=True)
        more = rows(30)
        docs.upsert(names(30, 5000), more)
        model.upsert(names(30, 5000), more, None)
        flush_now(docs)


@pytest.mark.slow
def test_graphs_are_built_during_steady_writes(tmp_path: Path) -> None:
    """Flushes and joins never pause, and the indexer still gets its turn."""
    with vecdb.open(tmp_path / "data", seal_bytes=64 * 200) as database:
        docs = database.create_collection("docs", 8)
        graphs: set[int] = set()

        def writes_on() -> bool:
            docs.upsert(names(50, int(RNG.integers(0, 3000))), rows(50))
            graphs.update(s.number for s in docs.stats().segments if s.kind == "graph")
            return len(graphs) >= 12

        eventually(writes_on, docs.stats)
        assert docs.count() == len(docs.search(rows(1)[0], k=4000))


def test_flush_and_graph_work_have_separate_locks(database: Any) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(100), rows(100))
    store = opened_of(docs).store
    taken = publication.reserve(store, publication.GRAPH_LOCK, 0, 50)
    assert taken is not None
    assert publication.reserve(store, publication.FLUSH_LOCK, 40, 60) is None
    joining = publication.reserve(store, publication.FLUSH_LOCK, 50, 80)
    assert joining is not None
    assert publication.widen(store, taken, 60) is None
    assert publication.reserve(store, publication.GRAPH_LOCK, 70, 90) is None


@pytest.mark.parametrize("stops", [False, True])
def test_close_does_not_wait_for_a_process_stopped_during_its_flush(
    database: Any, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """The indexer skips the collection, and ends when requested."""
    docs = database.create_collection("docs", 8)
    docs.upsert(names(100), rows(100))
    flush_now(docs)
    override(monkeypatch, "flush_wait_s_max", NEVER_S if stops else 0.3)
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(stops)
        return stops and len(asked) > 5

    indexer = indexer_of(docs, should_stop=should_stop)
    left: list[bool] = []
    with file_lock(opened_of(docs).folder / "seal.lock", wait=True):
        working = threading.Thread(target=lambda: left.append(indexer.run("writing")), daemon=True)
        working.start()
        working.join(HANG_S)
        assert not working.is_alive() and left == [True]
        assert [s.kind for s in docs.stats().segments] == ["flat"]
    index_now(docs)
    assert [s.kind for s in docs.stats().segments] == ["graph"]


def test_join_of_a_damaged_segment_reads_the_store_instead(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 8)
        vectors = rows(300)
        for i in range(12):
            docs.upsert(names(20, 20 * i), vectors[20 * i : 20 * i + 20])
            flush_now(docs)
        folder = opened_of(docs).folder / "segments"
        for entry in folder.iterdir():
            path = entry / "vectors.npy"
            raw = bytearray(path.read_bytes())
            raw[-40] ^= 0x40
            path.write_bytes(raw)
        for i in range(12, 15):
            docs.upsert(names(20, 20 * i), vectors[20 * i : 20 * i + 20])
            flush_now(docs)
        for hits in opened_of(docs).snapshots.snapshot().segments:
            if hits.segment is not None and hits.number > 12:
                hits.segment.verify()
        joined = [s for s in docs.stats().segments if s.rows > 20]
        assert joined == []  # Nothing was built from damaged rows.


def test_drafts_of_a_killed_indexer_are_removed(database: Any) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(50), rows(50))
    flush_now(docs)
    draft = opened_of(docs).folder / "graph-abc.hnsw"
    draft.write_bytes(b"half a graph")
    index_now(docs)
    assert not draft.exists()


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


def test_deleted_segments_are_rebuilt(tmp_path: Path) -> None:
    """All segments are deleted between two opens: no row is lost, and graphs are rebuilt."""
    model = Model(8, "cosine")
    vectors = rows(300)
    model.upsert(names(300), vectors, None)
    with vecdb.open(tmp_path / "data") as database:
        docs = database.create_collection("docs", 8)
        docs.upsert(names(300), vectors)
        docs.optimize(timeout_s=HANG_S)
        folder = opened_of(docs).folder / "segments"
    shutil.rmtree(folder)
    with vecdb.open(tmp_path / "data") as database:
        docs = database.collection("docs")
        query = rows(1)[0]
        model.check_hits(docs.search(query, k=10), query, 10, exact=True)
        eventually(lambda: not docs.stats().unindexed_rows, docs.stats)
        model.check_hits(docs.search(query, k=10), query, 10, exact=True)


def test_collection_without_an_indexer_has_at_most_sixteen_segments(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False, seal_bytes=64 * 10) as database:
        docs = database.create_collection("docs", 8)
        for i in range(60):
            docs.upsert(names(10, 10 * i), rows(10))
            opened_of(docs).flush(1)
            assert len(docs.stats().segments) <= 16
        assert docs.count() == 600
        assert len(docs.search(rows(1)[0], k=600)) == 600


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
    gate = threading.Event()
    original = value_of("take_batches")

    def slow_take(self: Any) -> Any:
        gate.wait(HANG_S)
        return original(self)

    override(monkeypatch, "take_batches", slow_take)
    batches = [make_batch([name], rows(1), None) for name in ("a", "bad", "b")]
    futures = [submit(docs, batch) for batch in batches]
    gate.set()
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


@pytest.mark.parametrize("name", ["ids", "records", "blocks", "dead", "log", "meta"])
def test_changed_value_in_the_store_is_data_loss(database: Any, name: str) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(5), rows(5))
    docs.delete(["row-4"])
    environment = opened_of(docs).store.environment

    def damage(transaction: Any) -> None:
        with transaction.cursor(environment.database(name.encode())) as cursor:
            assert cursor.first()
            while True:
                key, value = bytes(cursor.key()), bytearray(cursor.value())
                value[0] ^= 1
                cursor.put(key, bytes(value))
                if not cursor.next():
                    return

    environment.transact(damage)

    def read_everything() -> None:
        docs.get(["row-0"])
        opened_of(docs).snapshots.forget()
        docs.search(rows(1)[0], exact=True)
        with environment.read() as transaction:
            opened_of(docs).store.rows.read_log(transaction, 0, 2)

    with pytest.raises(vecdb.DataLossError):
        read_everything()


def test_packed_values_unpack_to_the_same() -> None:
    key = layout.row_key(77)
    vectors = rows(3)
    found_rows, found = layout.unpack_block(key, layout.pack_block(key, vectors), 8)
    assert found_rows.tolist() == [77, 78, 79]
    assert found.tobytes() == vectors.tobytes()
    entry = layout.LogEntry(5, 6, 7, np.array([1, 2], np.uint64), np.array([9], np.uint64))
    again = layout.unpack_log(key, layout.pack_log(key, entry))
    assert (again.time_ns, again.first_row, again.added) == (5, 6, 7)
    assert (again.deleted.tolist(), again.changed.tolist()) == ([1, 2], [9])
    record_key = layout.record_key(1, 2)
    packed = layout.pack_record(record_key, "é".encode(), b'{"a":1}')
    assert layout.unpack_record(record_key + packed) == ("é".encode(), b'{"a":1}')
    with pytest.raises(vecdb.DataLossError):
        layout.unpack_record(layout.record_key(1, 3) + packed)


def test_block_with_gaps_unpacks() -> None:
    """The form of a rewritten block: offsets after the rows."""
    key, vectors = layout.row_key(100), rows(3)
    tail = (
        np.array([0, 4, 9], np.uint32).tobytes()
        + (3).to_bytes(4, "little")
        + (1).to_bytes(4, "little")
    )
    value = layout.pack_value(key, vectors.tobytes() + tail)
    found_rows, found = layout.unpack_block(key, value, 8)
    assert found_rows.tolist() == [100, 104, 109]
    assert found.tobytes() == vectors.tobytes()


def test_tombstones_unpack_together() -> None:
    keys = [layout.row_key(row) for row in (3, 5, 2**40)]
    values = [layout.pack_u64(key, seq) for key, seq in zip(keys, (7, 8, 9), strict=True)]
    found, seqs = layout.unpack_u64_table(b"".join(keys), b"".join(values), "tombstone")
    assert (found.tolist(), seqs.tolist()) == ([3, 5, 2**40], [7, 8, 9])
    values[1] = values[1][:-1] + b"\0"
    with pytest.raises(vecdb.DataLossError):
        layout.unpack_u64_table(b"".join(keys), b"".join(values), "tombstone")


@pytest.mark.parametrize("letters", ["abc", "aé", "漢字x"])
def test_ids_of_many_nodes_equal_those_of_each(letters: str) -> None:
    ids = [letters[: 1 + i % len(letters)] * (i % 4) + str(i) for i in range(300)]
    encoded = [name.encode() for name in ids]
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in encoded])])
    content = RowArrays(
        np.zeros((300, 16), np.float32),
        np.arange(300),
        offsets,
        np.frombuffer(b"".join(encoded), np.uint8),
    )
    nodes = np.random.default_rng(0).integers(0, 300, 500)
    assert content.ids_of(nodes) == [ids[n] for n in nodes]
    assert content.ids_of(nodes[:5]) == [ids[n] for n in nodes[:5]]
    assert content.ids_of(nodes[:0]) == []


def test_blocks_stay_within_their_size() -> None:
    for dim in (1, 50, 384, 16_383, 16_384):
        count = layout.block_rows_max(dim)
        value = layout.pack_block(layout.row_key(0), np.zeros((count, dim), np.float32))
        assert count == 1 or len(value) <= layout.BLOCK_BYTES_MAX
        assert padded_width(dim) % 16 == 0


def test_flush_is_retried_after_another_process_held_its_lock(tmp_path: Path) -> None:
    """No later commit requests it again."""
    with vecdb.open(tmp_path / "data", indexer=False, seal_bytes=64 * 500) as database:
        docs = database.create_collection("docs", 8)
        with file_lock(opened_of(docs).folder / "seal.lock", wait=True):
            docs.upsert(names(2_000), rows(2_000))
            eventually(lambda: has_flushes_to_retry(database), "no flush was tried")
            assert docs.stats().sealed_to == 0
        eventually(lambda: docs.stats().sealed_to == 2_000, "the flush was not tried again")
