"""A sidecar restores what the index file does not store: metric, normalisation, M, ef_construction,
index_fields, target_recall.

Settings that no source has are assumed and reported; contradicting ones are refused.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import vecdb
from tests.index_files import faiss_index, vectors
from vecdb.sidecar_header import KEY
from vecdb_cli.command_line import run

DIM, N = 8, 60
M, EF = 6, 50
NO_SIDECAR = "ids are the file's numbers, without metadata: no sidecar"


@pytest.fixture(params=["parquet", "jsonl"])
def suffix(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of sidecar that exports write."""
    if request.param == "jsonl":
        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name)
        )
    return str(request.param)


def filled(surface: Any, metric: str, n: int = N) -> Any:
    options = {"index_fields": ["n", "a.b"], "target_recall": 0.9}
    docs = surface.create_collection(metric, DIM, metric, M=M, ef_construction=EF, **options)
    if n:
        metadata = [{"n": i} if i % 2 else None for i in range(n)]
        docs.upsert([f"row {i}" for i in range(n)], vectors(n, DIM), metadata)
    return docs


def header_of(side: Path) -> Any:
    if side.suffix == ".parquet":
        return json.loads(pyarrow.parquet.read_schema(side).metadata[KEY.encode()])
    first, *others = (json.loads(line) for line in side.read_text().splitlines())
    assert all(list(each) == ["faiss_id", "id", "metadata"] for each in others)
    return first[KEY]


def refusal(surface: Any, path: Path, name: str = "new", **options: Any) -> Any:
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        surface.import_faiss(path, name, **options)
    assert name != "new" or "new" not in [each.name for each in surface.list_collections()]
    return caught.value


@pytest.mark.slow
def test_imported_collection_has_its_settings(surface: Any, suffix: str, tmp_path: Path) -> None:
    for metric in ("cosine", "dot", "euclidean"):
        docs = filled(surface, metric)
        for flat in (True, False):
            sent = docs.export_faiss(tmp_path / f"{metric}-{flat}", flat=flat)
            assert sent.side_path == f"{sent.path}.meta.{suffix}"
            assert header_of(Path(sent.side_path)) == {
                "metric": metric,
                "normalized": metric == "cosine",
                "dim": DIM,
                "M": M,
                "ef_construction": EF,
                "index_fields": ["a.b", "n"],
                "target_recall": 0.9,
            }
            report = surface.import_faiss(sent.path, f"{metric}-{flat}")
            assert (report.rows, report.assumed) == (N, ())
            back = surface.collection(f"{metric}-{flat}")
            assert back.config == docs.config
            query = vectors(1, DIM, seed=9)[0]
            assert back.search(query, exact=True).ids == docs.search(query, exact=True).ids
            assert back.get(["row 1", "row 2"]).metadata == [{"n": 1}, {}]
        sent = docs.export_hnswlib(tmp_path / f"{metric}.hnsw")
        report = surface.import_hnswlib(sent.path, f"{metric}-hnsw", dim=DIM, metric=metric)
        assert (report.rows, report.assumed) == (N, ())
        assert surface.collection(f"{metric}-hnsw").config == docs.config
        other = "dot" if metric == "cosine" else "cosine"
        with pytest.raises(vecdb.InvalidArgumentError) as caught:
            surface.import_hnswlib(sent.path, "new", dim=DIM, metric=other)
        assert caught.value.reason == "METRIC_MISMATCH"
        assert f"the caller gave metric {other}" in caught.value.message
        assert f"{sent.side_path} has metric {metric}" in caught.value.message


def test_imported_empty_collection_has_its_settings(
    database: Any, suffix: str, tmp_path: Path
) -> None:
    docs = filled(database, "cosine", 0)
    for flat in (False, True):
        sent = docs.export_faiss(tmp_path / f"{flat}", flat=flat)
        assert header_of(Path(sent.side_path))["metric"] == "cosine"
        report = database.import_faiss(sent.path, f"back-{flat}")
        assert (report.rows, report.assumed) == (0, ())
        assert database.collection(f"back-{flat}").config == docs.config


def test_sidecar_is_a_table_with_one_row_per_vector(
    database: Any, suffix: str, tmp_path: Path
) -> None:
    sent = filled(database, "dot").export_faiss(tmp_path / "x", flat=True)
    if suffix == "parquet":
        table = pyarrow.parquet.read_table(sent.side_path)
        assert table.column_names == ["faiss_id", "id", "metadata"]
        rows = table.to_pylist()
    else:
        rows = [json.loads(line) for line in Path(sent.side_path).read_text().splitlines()]
    assert [(row["faiss_id"], row["id"]) for row in rows] == [(i, f"row {i}") for i in range(N)]


def without_header(side: Path) -> None:
    """Remove the header, as in sidecars of earlier versions."""
    if side.suffix == ".parquet":
        table = pyarrow.parquet.read_table(side).replace_schema_metadata(None)
        pyarrow.parquet.write_table(table, side)
        return
    rows = [json.loads(line) for line in side.read_text().splitlines()]
    lines = [json.dumps({k: v for k, v in row.items() if k != KEY}) for row in rows]
    side.write_text("".join(f"{line}\n" for line in lines))


def test_sidecar_without_a_header_is_read_and_assumptions_are_reported(
    surface: Any, suffix: str, tmp_path: Path
) -> None:
    sent = filled(surface, "cosine").export_faiss(tmp_path / "x", flat=True)
    without_header(Path(sent.side_path))
    report = surface.import_faiss(sent.path, "back")
    assert report.assumed == (
        "metric dot: the file has inner product, but all vectors have length 1, so it may have "
        "been cosine",
        "M 16: the file has no graph",
        "ef_construction 128: the file has no graph",
    )
    back = surface.collection("back")
    assert (back.metric, back.get(["row 1"]).metadata) == ("dot", [{"n": 1}])
    given = surface.import_faiss(sent.path, "given", metric="cosine")
    assert given.assumed == report.assumed[1:]


def test_import_without_a_sidecar_reports_its_assumptions(surface: Any, tmp_path: Path) -> None:
    inner = faiss.METRIC_INNER_PRODUCT
    graph = faiss_index("hnsw-ids", vectors(9, DIM), inner, M=5)
    faiss.write_index(graph, str(tmp_path / "graph"))
    faiss.write_index(faiss_index("flat", vectors(9, DIM)), str(tmp_path / "l2"))
    report = surface.import_faiss(tmp_path / "graph", "graph")
    assert report.assumed == (NO_SIDECAR, "metric dot: the file has inner product")
    assert surface.collection("graph").config == vecdb.CollectionConfig(
        DIM, vecdb.Metric.DOT, 5, 40
    )
    # A FAISS index with metric L2 can only be Euclidean.
    assert surface.import_faiss(tmp_path / "l2", "l2").assumed == (
        NO_SIDECAR,
        "M 16: the file has no graph",
        "ef_construction 128: the file has no graph",
    )
    surface.create_collection("there", DIM, "dot", M=7, ef_construction=77)
    report = surface.import_faiss(tmp_path / "graph", "there")
    assert report.graph == "to be built: the collection has M 7, the file M 5"
    assert report.assumed == (
        NO_SIDECAR,
        "M 7 of the collection, not the file's 5",
        "ef_construction 77 of the collection, not the file's 40",
    )
    index = hnswlib.Index("l2", DIM)
    index.init_index(9, M=5, ef_construction=5_000)
    index.add_items(vectors(9, DIM))
    index.save_index(str(tmp_path / "hnsw"))
    report = surface.import_hnswlib(tmp_path / "hnsw", "hnsw", dim=DIM, metric="euclidean")
    assert report.assumed == (
        NO_SIDECAR,
        "ef_construction 4096: the file's 5000 is out of range",
    )


CONFLICTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, tuple[str, ...]]] = {
    # Header, options of the import, reason, parts of the message for both sources.
    "metric of the caller": (
        {"metric": "cosine"},
        {"metric": "dot"},
        "METRIC_MISMATCH",
        ("the caller gave metric dot", "has metric cosine"),
    ),
    "metric of the file": (
        {"metric": "euclidean"},
        {},
        "METRIC_MISMATCH",
        ("inner product: expected metric dot, got euclidean in ", "meta.jsonl"),
    ),
    "metric of the collection": (
        {"metric": "cosine"},
        {"name": "dots"},
        "METRIC_MISMATCH",
        ("collection dots has metric dot", "has metric cosine"),
    ),
    "lengths": (
        {"metric": "dot", "normalized": True},
        {},
        "METRIC_MISMATCH",
        ("needs vectors of length 1", "has length "),
    ),
    "lengths under cosine": ({"metric": "cosine"}, {}, "METRIC_MISMATCH", ("has length ",)),
    "dim": ({"dim": 9}, {}, "DIM_MISMATCH", ("has 9 dimensions", "has 8")),
    "M": ({"M": 6}, {}, "CONFIG_MISMATCH", ("has M 6", "has M 5")),
    "ef_construction": (
        {"ef_construction": 41},
        {},
        "CONFIG_MISMATCH",
        ("has ef_construction 41", "has ef_construction 40"),
    ),
    "no header": ([1], {}, "BAD_META", ("line 1: vecdb.collection must be a JSON object",)),  # type: ignore[dict-item]
    "no metric": ({"metric": "l2"}, {}, "BAD_META", ("vecdb.collection, metric must be", "l2")),
    "no M": ({"M": 1}, {}, "BAD_META", ("vecdb.collection, M must be 2 to 256, got 1",)),
    "no number": ({"dim": "8"}, {}, "BAD_META", ("dim must be an integer, got",)),
    "no field": (
        {"index_fields": ["a", 1]},
        {},
        "BAD_META",
        ("vecdb.collection, index_fields[1]: expected a str",),
    ),
    "no recall": (
        {"target_recall": 2},
        {},
        "BAD_META",
        ("vecdb.collection, target_recall: expected a number above 0, up to 1, got 2",),
    ),
    "no answer": ({"normalized": 1}, {}, "BAD_META", ("normalized must be true or false",)),
}


def side_of(path: Path, *entries: dict[str, Any]) -> Path:
    side = path.with_name(f"{path.name}.meta.jsonl")
    side.write_text("".join(f"{json.dumps(each)}\n" for each in entries))
    return side


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"faiss_id": number, "id": f"r{number}", "metadata": None, **more}


def test_contradicting_settings_are_refused_with_both_values(surface: Any, tmp_path: Path) -> None:
    path = tmp_path / "x"
    index = faiss_index("hnsw-ids", vectors(9, DIM), faiss.METRIC_INNER_PRODUCT, M=5)
    faiss.write_index(index, str(path))
    surface.create_collection("dots", DIM, "dot", M=7)
    for header, options, reason, words in CONFLICTS.values():
        side_of(path, row(100, **{KEY: header}), row(103))
        error = refusal(surface, path, **options)
        assert error.reason == reason
        assert all(each in error.message for each in words), error.message
    assert surface.collection("dots").count() == 0
    # A setting of one source is no conflict, and a collection keeps its own.
    header = {"later": [1], "M": 5, "metric": "dot", "index_fields": ["n"], "target_recall": 0.9}
    side_of(path, row(100, **{KEY: header}), row(103))
    assert surface.import_faiss(path, "dots").assumed == (
        "M 7 of the collection, not the file's 5",
        "ef_construction 128 of the collection, not the file's 40",
        "index_fields None of the collection, not the sidecar's ['n']",
        "target_recall 0.95 of the collection, not the sidecar's 0.9",
    )
    there = surface.collection("dots").config
    assert (there.index_fields, there.target_recall) == (None, 0.95)


def test_header_is_read_from_any_row(database: Any, tmp_path: Path) -> None:
    path = tmp_path / "x"
    rows = vectors(9, DIM, unit=True)
    faiss.write_index(faiss_index("flat-ids", rows, faiss.METRIC_INNER_PRODUCT), str(path))
    header = {"metric": "cosine", "M": 9}
    side_of(path, row(100), row(103, **{KEY: header}), row(106, **{KEY: header}))
    report = database.import_faiss(path, "docs")
    config = database.collection("docs").config
    assert (config.metric, config.M, config.ef_construction) == ("cosine", 9, 128)
    assert report.assumed == ("ef_construction 128: the file has no graph",)
    side_of(path, row(100, **{KEY: header}), row(103, **{KEY: {**header, "M": 8}}))
    error = refusal(database, path)
    assert error.reason == "BAD_META"
    assert "line 2: expected the same vecdb.collection as before" in error.message
    side_of(path, {KEY: header}, row(100))
    wrong = "line 2: a line with only vecdb.collection must be the last one"
    assert wrong in refusal(database, path).message
    side_of(path, row(100), {KEY: header})
    assert database.import_faiss(path, "last").assumed == report.assumed


def test_table_header_that_is_not_json_is_refused(database: Any, tmp_path: Path) -> None:
    sent = filled(database, "cosine").export_faiss(tmp_path / "x", flat=True)
    table = pyarrow.parquet.read_table(sent.side_path)
    for text in ('{"M": 1e999}', "{", '{"M": 8, "M": 9}', "[" * 100_000):
        changed = table.replace_schema_metadata({KEY: text})
        pyarrow.parquet.write_table(changed, sent.side_path)
        error = refusal(database, Path(sent.path))
        assert error.reason == "BAD_META" and sent.side_path in error.message


@pytest.mark.slow
def test_command_line_restores_the_metric_and_reports_assumptions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        filled(database, "cosine")
    folder = ["--data", str(tmp_path / "data")]
    for kind, options in (("faiss", []), ("hnswlib", ["--dim", "8", "--metric", "cosine"])):
        file = str(tmp_path / kind)
        assert run(["export", kind, "cosine", file, *folder]) == 0
        capsys.readouterr()
        assert run(["import", kind, file, kind, *options, *folder]) == 0
        assert "assumed" not in capsys.readouterr().out
    Path(f"{tmp_path / 'faiss'}.meta.parquet").unlink()
    assert run(["import", "faiss", str(tmp_path / "faiss"), "bare", *folder]) == 0
    output = capsys.readouterr().out
    assert f"assumed: {NO_SIDECAR}\n" in output and "assumed: metric dot: the file has" in output
    assert run(["import", "faiss", str(tmp_path / "faiss"), "json", "--json", *folder]) == 0
    assert json.loads(capsys.readouterr().out)["assumed"][0] == NO_SIDECAR
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        kinds = {each.name: each.config for each in database.list_collections()}
    assert kinds["faiss"] == kinds["hnswlib"] == kinds["cosine"]
    assert (kinds["bare"].metric, kinds["bare"].M) == ("dot", M)
    assert np.all([each.dim == DIM for each in kinds.values()])
