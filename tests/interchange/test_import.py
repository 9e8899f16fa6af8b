"""Imports of FAISS and hnswlib files: rows, ids, metadata, and the graph without building it.

faiss-cpu and hnswlib write the files and check the results. ``test_import_fuzz.py`` imports damaged
files.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pytest

import vecdb
from tests.index_files import faiss_index, vectors
from tests.places import override
from tests.waiting import HANG_S
from vecdb.engine.indexing.trimming import trim_tombstones
from vecdb.engine.interchange.importing import import_file, take_over
from vecdb.engine.interchange.importing.foreign_index import Rows
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.store.purging import purge_all
from vecdb.engine.system import failpoints
from vecdb.engine.testing import opened_of
from vecdb.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from vecdb_cli import command_line

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


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("kind", ["flat", "flat-ids", "hnsw", "hnsw-ids"])
def test_small_and_flat_files_are_imported(
    kind: str, n: int, database: Any, tmp_path: Path
) -> None:
    rows = vectors(n, 3)
    path = saved(tmp_path / "index", faiss_index(kind, rows))
    report = database.import_faiss(path, "docs")
    docs = database.collection("docs")
    assert (docs.count(), docs.config.metric) == (n, "euclidean")
    assert (report.graph == "taken over") == (kind.startswith("hnsw") and n > 0)
    first = 100 if kind.endswith("ids") else 0
    for row in rows:
        assert int(docs.search(row, k=1).ids[0]) >= first


def test_file_with_a_normalisation_is_imported_as_cosine(database: Any, tmp_path: Path) -> None:
    index = faiss_index("hnsw-normalised", vectors(300, 8), faiss.METRIC_INNER_PRODUCT)
    database.import_faiss(saved(tmp_path / "index", index), "docs")
    docs, query = database.collection("docs"), 9 * vectors(1, 8, seed=7)
    scores, ids = index.search(query, 5)
    hits = docs.search(query[0], k=5, exact=True)
    assert docs.metric == "cosine"
    assert hits.ids[0] == str(ids[0, 0])
    assert hits.distances[0] == pytest.approx(1 - scores[0, 0], abs=1e-5)


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


def test_import_into_a_collection_dropped_during_it_is_refused(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(100, 8)))
    take_over = import_file.take_over

    def after_drop(*arguments: Any, **options: Any) -> Any:
        database.drop_collection("docs")
        return take_over(*arguments, **options)

    monkeypatch.setattr(import_file, "take_over", after_drop)
    with pytest.raises(NotFoundError):
        database.import_faiss(path, "docs")
    assert database.list_collections() == []


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


def refusal(database: Any, path: Path, name: str = "docs", **options: Any) -> Any:
    with pytest.raises(InvalidArgumentError) as caught:
        database.import_faiss(path, name, **options)
    return caught.value


def test_another_dim_or_metric_is_refused_with_both_values(database: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "index", faiss_index("flat", vectors(5, 3)))
    docs = database.create_collection("docs", 4, "euclidean")
    error = refusal(database, path)
    assert (error.reason, "4 dimensions, the file 3" in error.message) == ("DIM_MISMATCH", True)
    database.create_collection("dots", 3, "dot")
    error = refusal(database, path, "dots")
    assert error.reason == "METRIC_MISMATCH"
    assert "euclidean" in error.message and "got dot" in error.message
    error = refusal(database, path, "new", metric="cosine")
    assert error.reason == "METRIC_MISMATCH" and "has length" in error.message
    assert docs.count() == 0
    assert [each.name for each in database.list_collections()] == ["docs", "dots"]


def test_graph_with_another_m_is_rebuilt(database: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw", vectors(50, 3), M=4))
    database.create_collection("docs", 3, "euclidean", M=8)
    assert database.import_faiss(path, "docs").graph == (
        "to be built: the collection has M 8, the file M 4"
    )


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("IVF2,Flat", "IwFl: vectors of an inverted file are complete"),
        ("SQ8", "IxSQ: scalar-quantised vectors can't be recovered exactly"),
        ("HNSW8,SQ8", "IHNs: scalar-quantised"),
        ("LSH", "IxHe: locality-sensitive hashes"),
        ("PCA2,Flat", "Pcam: vectors of a principal component analysis"),
        ("Flat,RFlat", "IxRF: "),
    ],
)
def test_unsupported_index_is_refused_by_name(
    recipe: str, words: str, database: Any, tmp_path: Path
) -> None:
    index, rows = faiss.index_factory(3, recipe), vectors(100, 3)
    index.train(rows)
    index.add(rows)
    error = refusal(database, saved(tmp_path / "index", index))
    assert error.reason == "FAISS_INDEX"
    assert words in error.message and "reconstruct_n" in error.message


def test_invalid_value_is_refused_with_its_place(database: Any, tmp_path: Path) -> None:
    rows = vectors(40, 3)
    rows[17, 1] = np.nan
    path = saved(tmp_path / "index", faiss_index("flat", rows))
    at = 4 + 33 + 8 + 4 * (17 * 3 + 1)
    assert f"byte {at}, vectors: row 17, component 1 is nan" in refusal(database, path).message
    index = faiss.IndexIDMap(faiss.IndexFlatL2(3))
    for ids, words in (
        ([5, 6, 5], "duplicate id 5 at row 2"),
        ([5, -6, 7], "row 1 is negative"),
    ):
        index.reset()
        index.add_with_ids(vectors(3, 3), np.array(ids))
        error = refusal(database, saved(path, index))
        assert words in error.message and "byte " in error.message
    chosen = faiss.IndexHNSWFlat(3, 4)
    chosen.hnsw.set_nb_neighbors(1, 6)
    chosen.add(vectors(30, 3))
    assert "set_nb_neighbors" in refusal(database, saved(path, chosen)).message
    with pytest.raises(NotFoundError):
        database.import_faiss(tmp_path / "nothing", "docs")
    assert "not a regular file" in refusal(database, tmp_path).message
    assert database.list_collections() == []


def lines(*entries: tuple[Any, Any, Any]) -> str:
    keys = ("faiss_id", "id", "metadata")
    return "".join(json.dumps(dict(zip(keys, each, strict=True))) + "\n" for each in entries)


def test_ids_and_metadata_are_read_from_the_sidecar(database: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "index", faiss_index("hnsw-ids", vectors(4, 3)))
    sidecar = tmp_path / "index.meta.jsonl"
    # Row 106 has no entry; the index has no row 999.
    sidecar.write_text(
        lines((100, "a", {"n": 1}), (103, "ž", '{"n":  2}'), (999, "x", None), (109, "d", None))
    )
    assert database.import_faiss(path, "docs").graph == "taken over"
    found = database.collection("docs").get(["a", "ž", "106", "d"])
    assert (found.missing, found.metadata) == ([], [{"n": 1}, {"n": 2}, {}, {}])
    database.import_faiss(path, "plain", meta=False)
    assert database.collection("plain").get(["100"]).missing == []
    for content, words in (
        (lines((103, "b", None), (100, "a", None)), "line 1: expected faiss_id 100"),
        (lines((100, "a", None), (100, "b", None)), "line 2: duplicate faiss_id 100"),
        (lines((100, "106", None)), "duplicate id '106'"),
        (lines((100, "", None)), "id length in bytes must be 1 to 500"),
        (lines((100, "a", "[]")), "must be a JSON object"),
        ("{}\n", "faiss_id must be an integer"),
        ('{"faiss_id": 100, "id": 7}\n', "id must be text"),
        ("no\n", "line 1: not JSON"),
    ):
        sidecar.write_text(content)
        error = refusal(database, path, "new")
        assert (error.reason, words in error.message) == ("BAD_META", True), error
    with pytest.raises(NotFoundError):
        database.collection("new")


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_hnswlib_file_is_imported_with_its_graph(space: str, database: Any, tmp_path: Path) -> None:
    rows, metric = vectors(800, 8), {"l2": "euclidean", "ip": "dot"}.get(space, "cosine")
    index = hnswlib.Index(space, 8)
    index.init_index(1000, M=16, ef_construction=60)
    index.add_items(rows, np.arange(800) + 5)
    path = tmp_path / "index.bin"
    index.save_index(str(path))
    report = database.import_hnswlib(path, "docs", dim=8, metric=metric)
    assert (report.graph, report.skipped) == ("taken over", 0)
    docs, queries = database.collection("docs"), vectors(100, 8, seed=6)
    assert docs.config.ef_construction == 60
    index.set_ef(64)
    labels, _ = index.knn_query(queries, 10, num_threads=1)
    ours = np.array([[int(i) for i in h.ids] for h in docs.search(queries, k=10, ef=64)])
    assert (ours == labels.astype(np.int64)).all(axis=1).mean() >= 0.99
    message = r"expected 9 dimensions, the file has 8 \(byte 32, "
    with pytest.raises(InvalidArgumentError, match=message):
        database.import_hnswlib(path, "docs", dim=9, metric=metric)
    index.mark_deleted(5)
    index.mark_deleted(300)
    index.save_index(str(path))
    report = database.import_hnswlib(path, "fewer", dim=8, metric=metric)
    assert (report.rows, report.skipped) == (798, 2)
    assert report.graph == "to be built: 2 nodes of the file are marked deleted"
    fewer = database.collection("fewer")
    assert fewer.get(["5", "300"]).missing == ["5", "300"]
    stored = np.asarray(index.get_items([6, 804], return_type="numpy"))
    assert fewer.get(["6", "804"]).vectors.tobytes() == stored.tobytes()


def test_command_line_imports_a_local_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet, table

    path = saved(tmp_path / "index", faiss_index("hnsw-ids", vectors(4, 3)))
    columns = {
        "faiss_id": [100, 103, 106, 109],
        "id": list("abcd"),
        "metadata": ['{"n": 1}', None, None, None],
    }
    parquet.write_table(table(columns), tmp_path / "index.meta.parquet")
    data = ["--data", str(tmp_path / "data")]
    assert command_line.run(["import", "faiss", f"{path}-other", "docs", *data]) == 1
    assert f"file {path}-other does not exist" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert command_line.run(["import", "faiss", str(path), "docs", *data]) == 0
    said = capsys.readouterr().out
    assert "created collection docs, from IndexIDMap2(IndexHNSWFlat)" in said
    assert "4 rows in" in said and "graph: taken over" in said
    with vecdb.open(tmp_path / "data") as database:
        found = database.collection("docs").get(["a", "d"])
        assert (found.missing, found.metadata) == ([], [{"n": 1}, {}])
    plain = ["import", "faiss", str(path), "plain", "--no-meta", "--json", *data]
    assert command_line.run(plain) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 4
    monkeypatch.setenv("HOME", str(tmp_path))
    other = ["--data", str(tmp_path / "other")]
    assert command_line.run(["import", "faiss", f"~/{path.name}", "docs", *other]) == 0
    path.write_bytes(path.read_bytes()[:-1])
    assert command_line.run(["import", "faiss", str(path), "docs", *data]) == 1
    assert "byte" in capsys.readouterr().err


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


def test_memory_is_bounded_when_most_rows_are_skipped(tmp_path: Path) -> None:
    count, dim, kept = 60_000, 64, np.arange(0, 60_000, 400)
    path = tmp_path / "rows"
    path.write_bytes(np.zeros((count, dim), np.float32).tobytes())
    with UntrustedFile(path) as file:
        rows = Rows(file, 0, 4 * dim, dim, len(kept), kept)
        tracemalloc.start()
        read = rows.read(0, len(kept))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not read.any() and peak < 10e6 < path.stat().st_size


def test_table_without_a_column_is_refused(database: Any, tmp_path: Path) -> None:
    from pyarrow import parquet, table

    path = saved(tmp_path / "index", faiss_index("hnsw-ids", vectors(4, 3)))
    columns = {"faiss_id": [100, 103, 106, 109], "id": list("abcd")}
    parquet.write_table(table(columns), tmp_path / "index.meta.parquet")
    with pytest.raises(InvalidArgumentError, match="no column metadata") as refused:
        database.import_faiss(path, "docs")
    assert refused.value.reason == "BAD_META" and not database.list_collections()
