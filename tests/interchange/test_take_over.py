"""Graphs of imported files are taken over without building them, whatever other writers do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import vecdb
from tests.index_files import faiss_index, vectors
from tests.places import override
from tests.waiting import HANG_S
from vecdb.engine.indexing.trimming import trim_tombstones
from vecdb.engine.interchange.importing import import_file, take_over
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.store.purging import purge_all
from vecdb.engine.system import failpoints
from vecdb.engine.testing import opened_of
from vecdb.errors import ResourceExhaustedError

N, DIM = 2_000, 24
METRICS = {
    "euclidean": faiss.METRIC_L2,
    "dot": faiss.METRIC_INNER_PRODUCT,
    "cosine": faiss.METRIC_INNER_PRODUCT,
}


def saved(path: Path, index: Any) -> Path:
    faiss.write_index(index, str(path))
    return path


def kinds_of(docs: Any) -> list[tuple[str, int, int]]:
    return [(s.kind, s.first_row, s.end_row) for s in docs.stats().segments]


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    pairs = zip(found.tolist(), truth.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


@pytest.mark.parametrize("metric", METRICS)
def test_imported_faiss_graph_returns_the_results_of_faiss(
    metric: str, database: Any, tmp_path: Path
) -> None:
    unit = metric == "cosine"
    rows, queries = vectors(N, DIM, unit=unit), vectors(500, DIM, unit=unit, seed=6)
    index = faiss_index("hnsw-ids", rows, METRICS[metric], M=16)
    path = saved(tmp_path / "index", index)
    asked = metric if unit else None
    report = database.import_faiss(path, "docs", metric=asked)
    assert (report.graph, report.rows, report.made) == ("taken over", N, True)
    assert report.kind == "IndexIDMap2(IndexHNSWFlat)"
    docs = database.collection("docs")
    assert docs.config == vecdb.CollectionConfig(DIM, vecdb.Metric(metric), 16, 40)
    assert kinds_of(docs) == [("graph", 0, N)]
    faiss.downcast_index(index.index).hnsw.efSearch = 64
    scores, ids = index.search(queries, 10)
    answers = docs.search(queries, k=10, ef=64)
    assert {hits.info.plan for hits in answers} == {"graph"}
    ours = np.array([[int(text) for text in hits.ids] for hits in answers])
    assert (ours == ids).all(axis=1).mean() >= 0.99
    truth = np.array([h.ids for h in docs.search(queries, k=10, exact=True)]).astype(np.int64)
    assert abs(recall(ours, truth) - recall(ids, truth)) <= 0.01
    expected = {"euclidean": np.sqrt(scores), "dot": -scores, "cosine": 1 - scores}[metric]
    same = (ours == ids).all(axis=1)
    np.testing.assert_allclose(
        np.array([hits.distances for hits in answers])[same], expected[same], atol=1e-5
    )
    found = docs.get(["100", "103"])
    assert found.vectors.tobytes() == rows[:2].tobytes()


def test_links_of_a_connected_graph_are_imported_unchanged(database: Any, tmp_path: Path) -> None:
    index = faiss_index("hnsw", vectors(N, DIM), M=16)
    report = database.import_faiss(saved(tmp_path / "index", index), "docs")
    folder = next((database.path / "collections").glob("*/segments/*"))
    links = np.load(folder / "links.npy")
    hnsw = index.hnsw
    neighbors = faiss.vector_to_array(hnsw.neighbors)
    offsets = faiss.vector_to_array(hnsw.offsets).astype(np.int64)
    theirs = neighbors[offsets[:-1, None] + np.arange(32)]
    assert np.count_nonzero(links != theirs) == report.connected
    upper = np.load(folder / "upper_links.npy")
    above = np.ones(len(neighbors), bool)
    above[(offsets[:-1, None] + np.arange(32)).ravel()] = False
    np.testing.assert_array_equal(upper.ravel(), neighbors[above])


def test_interrupted_import_continues_when_repeated(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(N, DIM), M=8))
    override(monkeypatch, "import_batch_bytes", 4 * DIM * 300)
    submit, calls = Runtime.submit, []

    def stopped(self: Any, opened: Any, batch: Any) -> Any:
        calls.append(len(batch.ids))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return submit(self, opened, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Runtime, "submit", stopped)
        with pytest.raises(KeyboardInterrupt):
            database.import_faiss(path, "docs")
    docs = database.collection("docs")
    assert docs.count() == 900
    again = database.import_faiss(path, "docs")
    assert (again.graph, again.made, docs.count()) == ("taken over", False, N)
    assert docs.stats().next_row == N
    third = database.import_faiss(path, "docs")
    assert (third.graph, docs.stats().next_row) == ("there already", N)


CRASHING = """
import sys, vecdb
with vecdb.open(sys.argv[1], indexer=False) as database:
    database.import_faiss(sys.argv[2], "docs")
"""


@pytest.mark.parametrize("point", ["import.reserved", "import.written", "import.published"])
def test_killed_import_continues_when_repeated(point: str, tmp_path: Path) -> None:
    rows = vectors(300, 8)
    path = saved(tmp_path / "index", faiss_index("hnsw", rows))
    arguments = [sys.executable, "-c", CRASHING, str(tmp_path / "data"), str(path)]
    environment = {**os.environ, failpoints.VARIABLE: f"{point}=crash"}
    killed = subprocess.run(arguments, env=environment, timeout=HANG_S, check=False)
    assert killed.returncode == -signal.SIGKILL
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.collection("docs")
        assert docs.count() == 300
        assert [h.ids[0] for h in docs.search(rows, k=1)] == [str(i) for i in range(300)]
        report = database.import_faiss(path, "docs")
        assert report.graph == ("there already" if point == "import.published" else "taken over")
        assert kinds_of(docs) == [("graph", 0, 300)]
        assert docs.stats().next_row == 300


@pytest.mark.parametrize("point", ["import.reserved", "import.written"])
def test_full_disk_during_take_over_leaves_rows_and_no_reservation(
    point: str, database: Any, tmp_path: Path
) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(300, 8)))
    failpoints.arm(f"{point}=ENOSPC")
    try:
        with pytest.raises(ResourceExhaustedError):
            database.import_faiss(path, "docs")
    finally:
        failpoints.arm("")
    assert database.collection("docs").count() == 300
    assert list((database.path / "collections").glob("*/segments/*")) == []
    assert database.import_faiss(path, "docs").graph == "taken over"


def test_rows_of_other_writers_prevent_taking_over_the_graph(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = vectors(400, 8)
    path = saved(tmp_path / "index", faiss_index("hnsw", rows))
    override(monkeypatch, "import_batch_bytes", 4 * 8 * 100)
    submit = Runtime.submit

    def write_both(self: Any, opened: Any, batch: Any) -> Any:
        if b"250" in batch.ids:
            database.collection("docs").upsert(["other"], vectors(1, 8, seed=8))
        return submit(self, opened, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Runtime, "submit", write_both)
        # The other writer's batch also comes through here, without the id.
        report = database.import_faiss(path, "docs")
    docs = database.collection("docs")
    assert report.graph == "to be built: its rows are not consecutive in the store"
    assert docs.count() == 401
    assert [h.ids[0] for h in docs.search(rows, k=1)] == [str(i) for i in range(400)]
    full = database.create_collection("full", 8, "euclidean", M=4)
    full.upsert(["other"], vectors(1, 8, seed=8))
    report = database.import_faiss(path, "full")
    assert report.graph == "to be built: the collection was not empty"
    assert full.count() == 401


def test_rows_deleted_during_the_import_are_deleted_nodes(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = vectors(400, 8)
    path = saved(tmp_path / "index", faiss_index("hnsw", rows))
    take_over = import_file.take_over

    def after_others(*arguments: Any, **options: Any) -> Any:
        docs = database.collection("docs")
        docs.delete(["7", "8"])
        docs.upsert(["0"], vectors(1, 8, seed=9))
        return take_over(*arguments, **options)

    monkeypatch.setattr(import_file, "take_over", after_others)
    assert database.import_faiss(path, "docs").graph == "taken over"
    docs = database.collection("docs")
    assert kinds_of(docs)[0] == ("graph", 0, 400)
    assert docs.count() == 398
    assert docs.search(rows[0], k=1).ids != ["0"]
    assert sorted(docs.search(rows[7], k=398).ids) == sorted(
        str(i) for i in range(400) if i not in (7, 8)
    )
    assert docs.search(vectors(1, 8, seed=9)[0], k=1).ids == ["0"]


def test_indexer_extends_an_imported_graph(tmp_path: Path) -> None:
    rows = vectors(900, 8)
    path = saved(tmp_path / "index", faiss_index("hnsw", rows[:600], M=8))
    with vecdb.open(tmp_path / "data") as database:
        assert database.import_faiss(path, "docs").graph == "taken over"
        docs = database.collection("docs")
        docs.upsert(range(600, 900), rows[600:])
        docs.optimize(timeout_s=HANG_S)
        assert kinds_of(docs) == [("graph", 0, 900)]
        assert [h.ids[0] for h in docs.search(rows, k=1)] == [str(i) for i in range(900)]
    assert vecdb.check(tmp_path / "data").problems == ()


def test_graph_without_links_is_rebuilt(database: Any, tmp_path: Path) -> None:
    rows = vectors(100, 3)
    index = faiss_index("hnsw", rows)
    links = np.full(index.hnsw.neighbors.size(), -1, np.int32)
    faiss.copy_array_to_vector(links, index.hnsw.neighbors)
    report = database.import_faiss(saved(tmp_path / "index", index), "docs")
    assert report.graph == (
        "to be built: no search can reach 99 of the 100 nodes of the file's graph"
    )
    docs = database.collection("docs")
    assert [h.ids[0] for h in docs.search(rows, k=1)] == [str(i) for i in range(100)]


def test_graph_with_another_m_is_rebuilt(database: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(50, 3), M=4))
    database.create_collection("docs", 3, "euclidean", M=8)
    assert database.import_faiss(path, "docs").graph == (
        "to be built: the collection has M 8, the file M 4"
    )


def test_tombstone_before_the_reservation_is_kept_while_the_graph_is_written(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = vectors(N, DIM)
    path = saved(tmp_path / "index", faiss_index("hnsw", rows, faiss.METRIC_L2, M=8))
    gone = [str(i) for i in range(N * 15 // 100)]  # Whole blocks, so that blocks are rewritten.
    take, write = import_file.take_over, take_over.write_segment

    def delete_then_take(*arguments: Any, **options: Any) -> Any:
        database.collection("docs").delete(gone)
        return take(*arguments, **options)

    def write_then_tidy(*arguments: Any, **named: Any) -> Any:
        entry = write(*arguments, **named)
        opened = opened_of(database.collection("docs"))
        purge_all(opened.store, 0.0)
        trim_tombstones(opened.store, opened.snapshots.snapshot())
        return entry

    monkeypatch.setattr(import_file, "take_over", delete_then_take)
    monkeypatch.setattr(take_over, "write_segment", write_then_tidy)
    assert database.import_faiss(path, "docs").graph == "taken over"
    docs = database.collection("docs")
    assert docs.count() == N - len(gone) and kinds_of(docs) == [("graph", 0, N)]
    for exact in (False, True):
        found = docs.search(rows[:50], k=10, exact=exact)
        assert not {text for hits in found for text in hits.ids} & set(gone)


def test_import_of_other_vectors_for_the_same_ids_takes_over_their_graph(
    database: Any, tmp_path: Path
) -> None:
    for seed in (1, 2):
        rows = vectors(N, DIM, seed=seed)
        path = saved(tmp_path / f"{seed}", faiss_index("hnsw", rows, faiss.METRIC_L2, M=8))
        report = database.import_faiss(path, "docs")
        assert report.graph == "taken over"
    docs = database.collection("docs")
    assert kinds_of(docs) == [("graph", 0, 2 * N)] and docs.count() == N
    assert docs.search(rows[7], k=1).ids == ["7"]
    assert docs.search(rows[7], k=1).info.plan == "graph"


def test_graph_with_too_many_deleted_rows_is_not_taken_over(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(N, DIM), faiss.METRIC_L2, M=8))
    take, dead = import_file.take_over, N // 10  # Too few for purging at once.
    monkeypatch.setattr(take_over, "DELETED_FRACTION_MAX", 0.05)

    def delete_then_take(*arguments: Any, **options: Any) -> Any:
        database.collection("docs").delete([str(i) for i in range(dead)])
        return take(*arguments, **options)

    monkeypatch.setattr(import_file, "take_over", delete_then_take)
    report = database.import_faiss(path, "docs")
    assert report.graph == f"to be built: {dead} of its {N} rows were deleted since"
    assert database.collection("docs").count() == N - dead
