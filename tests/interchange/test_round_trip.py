"""Collections that are exported and imported: the same rows, the same graph, the same results.

The strictest check is a second export, of the imported collection: it must have the same bytes as
the first one, graph, vectors and numbers. Under cosine the last bits of the vectors may differ, as
they are normalised once more.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.testing import opened_of
from vecdb_cli.command_line import run

METRICS = ("cosine", "euclidean", "dot")
N, DIM, EF = 1_000, 12, 64
IDS = {
    "texts": [f"näme {i}" for i in range(N)],
    "integers": [str(2**63 - 1 - 7 * i) for i in range(N)],
}
METADATA = [{"at": i, "text": "zwölf\n"} if i % 3 else None for i in range(N)]


def rows(n: int = N, seed: int = 1) -> Any:
    random = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(0).standard_normal((20, DIM))
    found = centres[random.integers(0, 20, n)] + random.standard_normal((n, DIM))
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A database with an indexer, for the collections that are exported."""
    with vecdb.open(tmp_path_factory.mktemp("sources") / "data") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a sidecar as JSON Lines, as the engine reads it."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name)
    )


def source(sources: Any, metric: str, kind: str = "texts") -> Any:
    """Return a collection in one graph; the first call creates it, and it is never changed."""
    name = f"{metric}-{kind}"
    if name not in [each.name for each in sources.list_collections()]:
        docs = sources.create_collection(name, DIM, metric, M=8, ef_construction=60)
        docs.upsert_many(IDS[kind], rows(), METADATA)
        docs.optimize()
    return sources.collection(name)


def graph_of(docs: Any) -> Graph:
    (segment,) = opened_of(docs).snapshots.snapshot().segments
    return segment.parts[GRAPH]


def check_same(docs: Any, back: Any) -> None:
    """Check that ids, metadata and vectors are the same, in the same order; under cosine
    directions.
    """
    ours, theirs = next(docs.scroll(batch=10_000)), next(back.scroll(batch=10_000))
    assert (theirs.ids, theirs.metadata) == (ours.ids, ours.metadata)
    assert (back.dim, back.metric) == (docs.dim, docs.metric)
    if docs.metric == "cosine":
        lengths = np.linalg.norm(ours.vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(theirs.vectors, ours.vectors / lengths, atol=2e-7)
    else:
        assert theirs.vectors.tobytes() == ours.vectors.tobytes()


def check_answers(docs: Any, back: Any, **how: Any) -> None:
    for mine, other in zip(
        docs.search(rows(200, seed=2), 10, **how),
        back.search(rows(200, seed=2), 10, **how),
        strict=True,
    ):
        assert mine.ids == other.ids
        assert mine.info.plan == other.info.plan
        np.testing.assert_allclose(mine.distances, other.distances, atol=2e-6)


def check_again(sent: Any, again: Any, metric: str) -> None:
    """Check that the second export equals the first."""
    assert (again.work, again.rows, again.bytes) == ("nothing", sent.rows, sent.bytes)
    if metric != "cosine":
        assert again.sha256 == sent.sha256
    assert Path(again.side_path).read_bytes() == Path(sent.side_path).read_bytes()


def check_graphs(before: Graph, after: Graph) -> None:
    for field in dataclasses.fields(Graph):
        one, other = getattr(before, field.name), getattr(after, field.name)
        assert np.array_equal(one, other), field.name


@pytest.mark.parametrize(
    ("metric", "kind"),
    [*((metric, "texts") for metric in METRICS), ("cosine", "integers"), ("euclidean", "integers")],
)
@pytest.mark.parametrize("library", ["faiss", "hnswlib"])
def test_exported_graph_is_imported_unchanged(
    sources: Any, database: Any, metric: str, kind: str, library: str, tmp_path: Path
) -> None:
    docs = source(sources, metric, kind)
    if library == "faiss":
        sent = docs.export_faiss(tmp_path / "x")
        report = database.import_faiss(sent.path, "back", metric=metric)
    else:
        sent = docs.export_hnswlib(tmp_path / "x")
        report = database.import_hnswlib(sent.path, "back", dim=DIM, metric=metric)
    assert sent.work == "nothing"
    assert (report.graph, report.connected, report.rows) == ("taken over", 0, N)
    back = database.collection("back")
    assert back.config == docs.config
    check_same(docs, back)
    check_graphs(graph_of(docs), graph_of(back))
    check_answers(docs, back, ef=EF)
    check_again(sent, getattr(back, f"export_{library}")(tmp_path / "again"), metric)
    entries = [json.loads(line) for line in Path(sent.side_path).read_text().splitlines()]
    numbers = [int(each) for each in IDS["integers"]] if kind == "integers" else list(range(N))
    assert [entry["faiss_id"] for entry in entries] == numbers


@pytest.mark.parametrize("flat", [False, True])
def test_file_that_normalises_queries_is_imported_as_cosine(
    sources: Any, database: Any, flat: bool, tmp_path: Path
) -> None:
    docs = source(sources, "cosine")
    sent = docs.export_faiss(tmp_path / "x", flat=flat, normalize_queries=True)
    report = database.import_faiss(sent.path, "back")
    assert (report.graph == "taken over") == (not flat)
    back = database.collection("back")
    check_same(docs, back)
    how: dict[str, Any] = {"exact": True} if flat else {"ef": EF}
    check_answers(docs, back, **how)
    again = back.export_faiss(tmp_path / "again", flat=flat, normalize_queries=True)
    check_again(sent, again, "cosine")


@pytest.mark.parametrize("metric", METRICS)
def test_flat_export_is_imported_unchanged(database: Any, metric: str, tmp_path: Path) -> None:
    docs = database.create_collection("docs", DIM, metric)
    docs.upsert_many(IDS["texts"], rows(), METADATA)
    docs.delete(IDS["texts"][::5])
    sent = docs.export_faiss(tmp_path / "x", flat=True)
    report = database.import_faiss(sent.path, "back", metric=metric)
    assert report.graph.startswith("to be built")
    back = database.collection("back")
    check_same(docs, back)
    check_answers(docs, back, exact=True)
    check_again(sent, back.export_faiss(tmp_path / "again", flat=True), metric)


@pytest.mark.parametrize(
    "metric",
    [
        "euclidean",
        pytest.param("cosine", marks=pytest.mark.slow),
        pytest.param("dot", marks=pytest.mark.slow),
    ],
)
def test_export_after_deletes_and_updates_is_imported_unchanged(
    sources: Any, database: Any, metric: str, tmp_path: Path
) -> None:
    """A graph that was repaired or merged for the export is imported unchanged."""
    texts = IDS["texts"]
    first = source(sources, metric).export_faiss(tmp_path / "first")
    database.import_faiss(first.path, "docs", metric=metric)
    docs = database.collection("docs")
    docs.delete(texts[::9])
    repaired = docs.export_faiss(tmp_path / "repaired")
    assert repaired.work.startswith("repaired")
    docs.upsert(texts[1:60:2], rows(30, seed=3), [{"new": i} for i in range(30)])
    merged = docs.export_faiss(tmp_path / "merged")
    assert "30 memtable rows" in merged.work
    for name, sent in (("repaired", repaired), ("merged", merged)):
        report = database.import_faiss(sent.path, name, metric=metric)
        assert (report.graph, report.connected) == ("taken over", 0)
        back = database.collection(name)
        check_again(sent, back.export_faiss(tmp_path / f"{name}-again"), metric)
    check_same(docs, back)
    check_answers(docs, back, exact=True)
    assert recall(back) >= recall(docs) - 0.02


def recall(docs: Any) -> float:
    queries = rows(200, seed=2)
    pairs = zip(docs.search(queries, 10, ef=EF), docs.search(queries, 10, exact=True), strict=True)
    return float(np.mean([len(set(a.ids) & set(b.ids)) / 10 for a, b in pairs]))


@pytest.mark.parametrize("M", [2, 48])
def test_duplicates_are_imported_unchanged(
    sources: Any, database: Any, M: int, tmp_path: Path
) -> None:
    docs = sources.create_collection(f"duplicates-{M}", DIM, "euclidean", M=M)
    vectors = rows()
    vectors[300:500] = vectors[300]
    docs.upsert_many(IDS["texts"], vectors)
    docs.optimize()
    sent = docs.export_faiss(tmp_path / "x")
    report = database.import_faiss(sent.path, "back")
    back = database.collection("back")
    assert report.graph == "taken over" and back.config.M == M
    check_again(sent, back.export_faiss(tmp_path / "again"), "euclidean")
    check_answers(docs, back, ef=EF)


@pytest.mark.parametrize("n", [0, 1])
def test_tiny_collections_are_imported_unchanged(database: Any, n: int, tmp_path: Path) -> None:
    docs = database.create_collection("docs", DIM, "euclidean")
    if n:
        docs.upsert(IDS["texts"][:n], rows(n), METADATA[:n])
    for flat in (False, True):
        sent = docs.export_faiss(tmp_path / f"{flat}", flat=flat)
        assert database.import_faiss(sent.path, f"back-{flat}", metric="euclidean").rows == n
        again = database.collection(f"back-{flat}").export_faiss(
            tmp_path / f"{flat}-again", flat=flat
        )
        assert again.sha256 == sent.sha256
        assert Path(again.side_path).read_bytes() == Path(sent.side_path).read_bytes()


def test_command_line_exports_and_imports(
    sources: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """With a Parquet sidecar, from one folder to another."""
    monkeypatch.undo()
    docs, file = source(sources, "cosine"), str(tmp_path / "x")
    assert run(["export", "faiss", docs.name, file, "--data", str(sources.path)]) == 0
    assert Path(f"{file}.meta.parquet").exists()
    wanted = ["--metric", "cosine", "--data", str(tmp_path / "two"), "--json"]
    capsys.readouterr()
    assert run(["import", "faiss", file, "docs", *wanted]) == 0
    assert json.loads(capsys.readouterr().out)["graph"] == "taken over"
    with vecdb.open(tmp_path / "two", indexer=False) as two:
        check_same(docs, two.collection("docs"))
        check_answers(docs, two.collection("docs"), ef=EF)
