"""Segments from reservation to removal, and flushes and graph builds in between."""

from __future__ import annotations

import ast
import shutil
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
from vecdb.engine.segments import lifecycle
from vecdb.engine.segments.segment import Segment, SegmentDamagedError
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import (
    has_flushes_to_retry,
    merge_segments,
    opened_of,
    snapshot_of_indexer,
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
    taken = lifecycle.reserve(opened.store, lifecycle.GRAPH_LOCK, 0, 50)
    assert entries_of(docs)[taken.number].state == "claimed"
    lifecycle.discard_reservations(opened.store, opened.folder / "segments", lifecycle.FLUSH_LOCK)
    assert taken.number in entries_of(docs)  # A reservation under another lock stays.
    lifecycle.discard_reservations(opened.store, opened.folder / "segments", lifecycle.GRAPH_LOCK)
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
        patch.setattr(lifecycle, "remove_segment_folder", lambda folder: False)
        taken = lifecycle.reserve(opened.store, lifecycle.GRAPH_LOCK, 0, 50)
        (segments / str(taken.number)).mkdir()
        lifecycle.discard_reservations(opened.store, segments, lifecycle.GRAPH_LOCK)
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
        taken = lifecycle.reserve(store, lifecycle.GRAPH_LOCK, first, end)
        assert not lifecycle.publish(store, taken, SegmentEntry("published", first, end, 1))
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
    duplicate = rows(1)
    for part, size in enumerate((40, 400, 60)):
        vectors = rows(size)
        vectors[:5] = duplicate
        docs.upsert(names(size, 1000 * part), vectors)
        model.upsert(names(size, 1000 * part), vectors, None)
        flush_now(docs)
    middle = sorted(entries_of(docs).items(), key=lambda item: item[1].first_row)[1]
    indexer = indexer_of(docs, 400)
    snapshot = snapshot_of_indexer(indexer)
    taken = lifecycle.reserve(
        opened_of(docs).store, lifecycle.GRAPH_LOCK, middle[1].first_row, middle[1].end_row
    )
    assert taken is not None
    merge_segments(indexer, [s for s in snapshot.segments if s.number == middle[0]], taken)
    assert [s.kind for s in docs.stats().segments] == ["flat", "graph", "flat"]
    for _ in range(2):  # The second round extends everything again.
        index_now(docs)
        (segment,) = opened_of(docs).snapshots.snapshot().segments
        assert (np.diff(segment.content.rows) > 0).all()
        queries = np.concatenate([rows(20), duplicate])
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
    taken = lifecycle.reserve(store, lifecycle.GRAPH_LOCK, 0, 50)
    assert taken is not None
    assert lifecycle.reserve(store, lifecycle.FLUSH_LOCK, 40, 60) is None
    joining = lifecycle.reserve(store, lifecycle.FLUSH_LOCK, 50, 80)
    assert joining is not None
    assert lifecycle.widen(store, taken, 60) is None
    assert lifecycle.reserve(store, lifecycle.GRAPH_LOCK, 70, 90) is None


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


def test_flush_is_retried_after_another_process_held_its_lock(tmp_path: Path) -> None:
    """No later commit requests it again."""
    with vecdb.open(tmp_path / "data", indexer=False, seal_bytes=64 * 500) as database:
        docs = database.create_collection("docs", 8)
        with file_lock(opened_of(docs).folder / "seal.lock", wait=True):
            docs.upsert(names(2_000), rows(2_000))
            eventually(lambda: has_flushes_to_retry(database), "no flush was tried")
            assert docs.stats().sealed_to == 0
        eventually(lambda: docs.stats().sealed_to == 2_000, "the flush was not tried again")
