"""Imports of FAISS and hnswlib files: rows, ids, metadata, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pytest

import vecdb
from tests.index_files import faiss_index, vectors
from vecdb.engine.interchange.importing import import_file
from vecdb.engine.interchange.importing.foreign_index import Rows
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.errors import InvalidArgumentError, NotFoundError
from vecdb_cli import command_line


def saved(path: Path, index: Any) -> Path:
    faiss.write_index(index, str(path))
    return path


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
