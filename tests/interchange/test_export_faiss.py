"""Exports as FAISS files, checked by FAISS: it reads, searches, extends and rewrites them."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pyarrow.parquet
import pytest

import vecdb
from tests.hnsw.test_repair import two_clouds as torn
from tests.waiting import HANG_S
from vecdb.engine.interchange.faiss.write import hnsw_index
from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.testing import opened_of

METRICS = ("cosine", "euclidean", "dot")
EF = 128
SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A database that builds graphs, shared by all tests of this module."""
    with vecdb.open(tmp_path_factory.mktemp("indexed") / "data") as opened:
        yield opened


def clustered(n: int, dim: int, seed: int) -> Any:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((50, dim))
    rows = centres[random.integers(0, 50, n)] + 0.6 * random.standard_normal((n, dim))
    return rows.astype(np.float32)


def filled(database: Any, metric: str, n: int, **how: Any) -> Any:
    docs = database.create_collection(f"docs-{uuid.uuid4().hex}", 12, metric, **how)
    if n:
        docs.upsert_many(map(str, range(n)), clustered(n, 12, seed=1), batch_rows=10_000)
    return docs


def view_of(docs: Any) -> Snapshot:
    snapshot: Snapshot = opened_of(docs).snapshots.snapshot()
    return snapshot


def unit(queries: Any, metric: str) -> Any:
    if metric != "cosine":
        return queries
    return (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)


def distances_of(scores: Any, metric: str) -> Any:
    """Convert FAISS's scores to our distances."""
    if metric == "euclidean":
        return np.sqrt(np.maximum(scores, 0))
    return 1 - scores if metric == "cosine" else -scores


def top(docs: Any, queries: Any, k: int = 10, **how: Any) -> tuple[Any, Any]:
    answers = docs.search(queries, k, **how)
    ids = np.array([[int(each) for each in hits.ids] for hits in answers])
    return ids, np.array([hits.distances for hits in answers])


def same_bytes(index: Any, path: Path, tmp_path: Path) -> bool:
    again = tmp_path / "again.faiss"
    faiss.write_index(index, str(again))
    return again.read_bytes() == path.read_bytes()


def lists_of(hnsw: Any, node: int, level: int) -> list[int]:
    neighbors = faiss.vector_to_array(hnsw.neighbors)
    cum = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)
    start = int(faiss.vector_to_array(hnsw.offsets)[node])
    found = neighbors[start + cum[level] : start + cum[level + 1]]
    return [each for each in found.tolist() if each >= 0]


def check_answers(docs: Any, index: Any, metric: str, queries: Any) -> None:
    """Check that FAISS's top 10 are ours, except where two distances are equal within float error.

    One of 500 queries may differ: near the bound of ef_search, that error may turn a walk aside,
    and graphs are built by several threads, so that no two are the same.
    """
    k = min(10, index.ntotal)
    ids, distances = top(docs, queries, k, ef=EF)
    scores, found = index.search(unit(queries, metric), k)
    theirs = distances_of(scores, metric)
    near = np.isclose(theirs, distances, rtol=1e-3, atol=2e-4)
    agree = ids == found
    order = np.abs(np.diff(distances, axis=1, append=np.inf)) < 1e-4
    order |= np.abs(np.diff(distances, axis=1, prepend=-np.inf)) < 1e-4
    astray = ~((agree | order) & near).all(axis=1)
    assert astray.sum() <= len(queries) // 500, np.flatnonzero(astray)
    assert agree.mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("n", "ef_construction"), [(0, 128), (1, 128), (2, 128), (1_000, 128), (50_000, 40)]
)
@pytest.mark.parametrize("M", [4, 16, 48])
def test_export_of_a_graph_without_deleted_nodes_is_unchanged(
    indexed: Any, metric: str, n: int, ef_construction: int, M: int, tmp_path: Path
) -> None:
    docs = filled(indexed, metric, n, M=M, ef_construction=ef_construction)
    docs.optimize()
    path = tmp_path / "x.faiss"
    report = docs.export_faiss(path)
    assert (report.rows, report.work, report.bytes) == (n, "nothing", path.stat().st_size)
    assert report.seq == docs.stats().seq
    outer = faiss.read_index(str(path))
    index = faiss.downcast_index(outer.index)
    assert outer.ntotal == index.ntotal == n and index.d == 12
    assert index.metric_type == (
        faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    )
    assert index.hnsw.efSearch == EF and index.hnsw.efConstruction == ef_construction
    assert same_bytes(outer, path, tmp_path)
    if n == 0:
        return
    check_answers(docs, outer, metric, clustered(500, 12, seed=1)[:, ::-1].copy())
    (segment,) = view_of(docs).segments
    graph = segment.parts[GRAPH]
    assert (index.hnsw.entry_point, index.hnsw.max_level) == (graph.entry, graph.top_level)
    levels = np.diff(graph.upper_offsets)
    for node in [*range(0, n, 50), *np.flatnonzero(levels)[:20].tolist()]:
        ours = [graph.links[node]]
        first = graph.upper_offsets[node]
        ours += [graph.upper_links[first + above] for above in range(levels[node])]
        for level, neighbours in enumerate(ours):
            expected = [each for each in neighbours.tolist() if each >= 0]
            assert lists_of(index.hnsw, node, level) == expected
    for name in (0, n // 2, n - 1):
        stored = segment.content.vectors[name, :12]
        assert outer.reconstruct(name).tobytes() == stored.tobytes()
    check_more(outer, metric, n)


def check_more(outer: Any, metric: str, n: int) -> None:
    """Check that FAISS can add rows to the file's index."""
    count = 200  # With 4 links a few rows are never found.
    more, names = unit(clustered(count, 12, seed=8), metric), np.arange(count) + 10**9
    outer.add_with_ids(more, names)
    assert outer.ntotal == n + count
    assert outer.reconstruct(int(names[-1])).tobytes() == more[-1].tobytes()
    _, found = outer.search(more, 10)
    if metric != "dot":  # Under dot another may have the greater product.
        assert (found == names[:, None]).any(axis=1).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("M", [4, 16, 48])
def test_export_after_deletes_and_updates_keeps_recall(
    indexed: Any, metric: str, M: int, tmp_path: Path
) -> None:
    check_after_deletes_and_updates(indexed, metric, 3_000, M, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "M"), [("cosine", 4), ("euclidean", 16), ("dot", 48)])
def test_export_of_many_rows_after_deletes_and_updates_keeps_recall(
    indexed: Any, metric: str, M: int, tmp_path: Path
) -> None:
    check_after_deletes_and_updates(indexed, metric, 50_000, M, tmp_path, ef_construction=40)


def check_after_deletes_and_updates(
    indexed: Any, metric: str, n: int, M: int, tmp_path: Path, ef_construction: int = 128
) -> None:
    """Deleted nodes are removed by repair; with memtable rows a graph job runs first. Recall equals
    that of a fresh build.
    """
    docs = filled(indexed, metric, n, M=M, ef_construction=ef_construction)
    docs.optimize()
    docs.delete(range(0, n, 9))
    report = docs.export_faiss(tmp_path / "repaired.faiss")
    assert report.work == f"repaired: {len(range(0, n, 9)):,} deleted nodes removed"
    assert report.work_s > 0
    check_recall(docs, metric, M, tmp_path / "repaired.faiss", tmp_path)
    docs.upsert_many(map(str, range(1, n, 20)), clustered(n // 20, 12, seed=3))
    report = docs.export_faiss(tmp_path / "merged.faiss")
    assert report.work.startswith(f"merged 1 segment and {n // 20:,} memtable rows")
    assert report.seq == docs.stats().seq
    check_recall(docs, metric, M, tmp_path / "merged.faiss", tmp_path)


def check_recall(docs: Any, metric: str, M: int, path: Path, tmp_path: Path) -> None:
    outer = faiss.read_index(str(path))
    assert outer.ntotal == docs.count()
    assert same_bytes(outer, path, tmp_path)
    queries = clustered(2_000, 12, seed=4)
    truth, _ = top(docs, queries, exact=True)
    stored = faiss.downcast_index(outer.index)
    assert stored.hnsw.efSearch == EF
    # Builds with 4 links differ among themselves by the bound at EF (standard deviation 0.05 of 10
    # for 50,000 rows), and by a third of that at four times the effort.
    stored.hnsw.efSearch = ef = 4 * EF if M == 4 else EF
    vectors = stored.storage.reconstruct_n(0, stored.ntotal)
    names = faiss.vector_to_array(outer.id_map)

    def recall(found: Any) -> float:
        return float(
            np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)])
        )

    # Built by hnswlib, as ours is: FAISS's own build with the same parameters differs.
    afresh = []
    for seed in range(3):
        fresh = hnswlib.Index("l2" if metric == "euclidean" else "ip", 12)
        fresh.init_index(len(vectors), M, stored.hnsw.efConstruction, random_seed=seed)
        fresh.add_items(vectors)
        fresh.set_ef(ef)
        afresh.append(recall(names[fresh.knn_query(unit(queries, metric), 10)[0]]))
    assert recall(outer.search(unit(queries, metric), 10)[1]) >= min(afresh) - 0.1  # Of 10.
    assert set(names.tolist()) == {int(i) for page in docs.scroll() for i in page.ids}


@pytest.mark.parametrize("metric", METRICS)
def test_flat_export_has_the_vectors_without_a_graph(
    database: Any, metric: str, tmp_path: Path
) -> None:
    docs = filled(database, metric, 3_000)
    docs.delete(range(0, 3_000, 7))
    path = tmp_path / "flat.faiss"
    report = docs.export_faiss(path, flat=True)
    assert (report.work, report.rows) == ("nothing", docs.count())
    index = faiss.read_index(str(path))
    assert same_bytes(index, path, tmp_path)
    assert isinstance(faiss.downcast_index(index.index), faiss.IndexFlat)
    queries = clustered(100, 12, seed=5)
    ids, distances = top(docs, queries, exact=True)
    scores, found = index.search(unit(queries, metric), 10)
    np.testing.assert_allclose(distances_of(scores, metric), distances, rtol=1e-3, atol=2e-4)
    assert (ids == found).mean() > 0.99


@pytest.mark.parametrize("flat", [False, True])
def test_export_with_normalize_queries_takes_raw_queries(
    database: Any, flat: bool, tmp_path: Path
) -> None:
    docs = filled(database, "cosine", 500)
    path = tmp_path / "x.faiss"
    docs.export_faiss(path, flat=flat, normalize_queries=True)
    index = faiss.read_index(str(path))
    assert same_bytes(index, path, tmp_path)
    vectors = docs.get(range(50)).vectors
    scores, found = index.search(9 * vectors, 1)
    assert found[:, 0].tolist() == list(range(50))
    np.testing.assert_allclose(scores[:, 0], 1, rtol=1e-5)
    with pytest.raises(vecdb.InvalidArgumentError, match="dot"):
        filled(database, "dot", 10).export_faiss(tmp_path / "y.faiss", normalize_queries=True)
    assert not (tmp_path / "y.faiss").exists()


def test_exported_duplicates_are_found(indexed: Any, tmp_path: Path) -> None:
    """Identical rows are linked in a chain, which must also work in FAISS."""
    docs = indexed.create_collection("duplicates", 12, "euclidean", M=4)
    rows = clustered(2_000, 12, seed=6)
    rows[500:800] = rows[500]
    docs.upsert_many(map(str, range(2_000)), rows)
    docs.optimize()
    docs.delete([500, 501, 640])
    report = docs.export_faiss(tmp_path / "x.faiss")
    assert report.work == "repaired: 3 deleted nodes removed"
    index = faiss.read_index(str(tmp_path / "x.faiss"))
    faiss.downcast_index(index.index).hnsw.efSearch = 400
    _, found = index.search(rows[500:501], 297)
    assert set(found[0].tolist()) == {*range(500, 800)} - {500, 501, 640}


def test_graph_that_a_repair_would_disconnect_is_rebuilt(indexed: Any, tmp_path: Path) -> None:
    """FAISS finds every row by a walk that a fresh build would find."""
    rows, graph = torn()
    n, dim = rows.shape
    pieces = hnsw_index(
        graph,
        [rows],
        [np.arange(n)],
        dim=dim,
        metric=vecdb.Metric.EUCLIDEAN,
        M=4,
        ef_construction=100,
        ef_search=64,
    )
    (tmp_path / "in.faiss").write_bytes(b"".join(map(bytes, pieces)))
    assert indexed.import_faiss(tmp_path / "in.faiss", "docs").graph == "taken over"
    docs = indexed.collection("docs")
    docs.delete([n - 2, n - 1])
    report = docs.export_faiss(tmp_path / "x.faiss")
    assert report.work == "built a graph of 1 segment without 2 deleted rows"
    _, found = faiss.read_index(str(tmp_path / "x.faiss")).search(rows[: n - 2], 1)
    # A repair would leave half of them unreachable.
    assert (found[:, 0] == np.arange(n - 2)).mean() > 0.98


ID_CASES = [
    (["0", "7", "9223372036854775807"], True),
    (["0", "7", "9223372036854775808"], False),
    (["1", "007"], False),
    (["1", "-1"], False),
    (["1", "+1"], False),
    (["1", "1.0"], False),
    (["1", "\u0661"], False),
    (["1", "99999999999999999999"], False),
    (["a"], False),
]


@pytest.mark.parametrize(
    ("ids", "numbered", "flat"),
    [(ids, numbered, True) for ids, numbered in ID_CASES]
    + [(ids, numbered, False) for ids, numbered in ID_CASES[:1]],
)
def test_only_canonical_integers_are_kept_as_numbers(
    database: Any, ids: list[str], numbered: bool, flat: bool, tmp_path: Path
) -> None:
    docs = database.create_collection("docs", 12, "euclidean")
    docs.upsert(ids, clustered(len(ids), 12, seed=7), [{"at": i} for i in range(len(ids))])
    report = docs.export_faiss(tmp_path / "x.faiss", flat=flat)
    index = faiss.read_index(str(tmp_path / "x.faiss"))  # It owns its table of ids.
    names = faiss.vector_to_array(index.id_map).tolist()
    assert names == ([int(each) for each in ids] if numbered else list(range(len(ids))))
    assert pyarrow.parquet.read_table(report.side_path).to_pydict() == {
        "faiss_id": names,
        "id": ids,
        "metadata": [f'{{"at":{i}}}' for i in range(len(ids))],
    }


def test_installed_faiss_reads_the_export(indexed: Any, tmp_path: Path) -> None:
    probe = [SYSTEM_PYTHON, "-I", "-c", "import faiss; print(faiss.__version__)"]
    try:
        known = subprocess.run(probe, capture_output=True, text=True, timeout=HANG_S)
    except OSError:
        pytest.skip(f"there is no {SYSTEM_PYTHON}")
    if known.returncode != 0:
        pytest.skip(f"{SYSTEM_PYTHON} has no faiss (Debian: python3-faiss)")
    code = (
        "import sys, faiss, numpy\n"
        "for path in sys.argv[1:]:\n"
        "    index, queries = faiss.read_index(path), numpy.load(path + '.npy')\n"
        "    print(index.ntotal, *index.search(queries, 5)[1].ravel().tolist())"
    )
    expected = {}
    for metric in METRICS:
        docs = filled(indexed, metric, 500)
        docs.optimize()
        for flat in (False, True):
            path = str(tmp_path / f"{metric}-{flat}.faiss")
            docs.export_faiss(path, flat=flat)
            queries = unit(clustered(20, 12, seed=9), metric)
            np.save(f"{path}.npy", queries)
            _, found = faiss.read_index(path).search(queries, 5)
            expected[path] = [500, *found.ravel().tolist()]
    command = [SYSTEM_PYTHON, "-I", "-c", code, *expected]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True)
    lines = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert lines == list(expected.values())
