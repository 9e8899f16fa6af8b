"""Sketches: what they hold, that kernels read them as numpy does, and that searches use them."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now, recall
from vecdb.engine.hnsw.builder import Builder
from vecdb.engine.kernels import compiled as kernels
from vecdb.engine.segments.codecs import sketch as codec
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_kind import LeftOut, Parts, PartSource
from vecdb.engine.segments.row_arrays import VECTORS
from vecdb.engine.testing import opened_of
from vecdb.types import CollectionConfig, Metric

METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
ROWS = 3_000


def prepared(raw: Any, metric: str) -> Any:
    rows = np.empty((len(raw), -(-raw.shape[1] // 16) * 16), np.float32)
    kernels.prepare_rows(np.ascontiguousarray(raw, np.float32), rows, metric == "cosine")
    return rows


def derived(raw: Any, metric: str, tmp_path: Path) -> tuple[Any, Any, Any]:
    """Return prepared rows, their graph, and the sketch that a segment of them gets."""
    rows = prepared(raw, metric)
    spaces: dict[str, Any] = {"cosine": "ip", "euclidean": "l2", "dot": "dot"}
    builder = Builder(spaces[metric], rows.shape[1], 16, 64, len(rows))
    builder.add(rows)
    graph = builder.graph(tmp_path)
    parts = Parts()
    parts.put(VECTORS, rows)
    parts.put(GRAPH, graph)
    source = PartSource(CollectionConfig(raw.shape[1], Metric(metric)), parts)
    assert SKETCH.applies_to(source)
    return rows, graph, SKETCH.derive(source)


def estimates(sketch: Any, queries: Any) -> Any:
    """Return estimated scores by their definition, in float64: (q, n)."""
    heads = len(sketch.basis)
    directions = sketch.basis_steps[:, None] * (sketch.basis.astype(np.float64) - 128)
    centred = (queries - sketch.mean if sketch.centred else queries).astype(np.float64)
    products = centred @ directions[:, : queries.shape[1]].T @ codec.decode(sketch.codes, heads).T
    if not sketch.centred:
        return -sketch.slope * products
    lengths = np.ascontiguousarray(sketch.codes[:, -4:]).view("<f4")[:, 0]
    return lengths - 2 * sketch.slope * products


@METRICS
def test_kernels_order_rows_as_the_definition_does(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    """Queries are rounded to bytes, so places differ a little: by less than 2 % of the rows."""
    *_, sketch = derived(glove[:ROWS], metric, tmp_path)
    queries = prepared(glove[60_000:60_040], metric)
    expected = estimates(sketch, queries).argsort(axis=1).argsort(axis=1)
    for node in (0, ROWS // 2, ROWS - 1):
        nodes, ranks = np.full((40, 1), node), np.empty((40, 1), np.int64)
        kernels.rank_by_sketch(
            sketch.codes, sketch.query_mean, sketch.basis, sketch.basis_steps,
            sketch.slope, queries, np.full(40, -1), nodes, ranks,
        )  # fmt: skip
        assert np.abs(ranks[:, 0] - expected[:, node]).max() < 0.02 * ROWS


@METRICS
def test_a_walk_returns_true_scores_in_order(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    """Scores are those of a scan, bit for bit, whichever rows the sketches led to."""
    rows, graph, sketch = derived(glove[:ROWS], metric, tmp_path)
    queries = prepared(glove[60_000:60_100], metric)
    code = kernels.EUCLIDEAN if metric == "euclidean" else kernels.INNER
    every, found = scan(rows, queries, code, ROWS), walk(rows, graph, sketch, queries, code, 10)
    for i in range(len(queries)):
        by_node = np.empty(ROWS, np.float32)
        by_node[every[1][i]] = every[0][i]
        assert (found[1][i] == by_node[found[0][i]]).all()
        assert list(zip(found[1][i], found[0][i], strict=True)) == sorted(
            zip(found[1][i], found[0][i], strict=True)
        )


def walk(rows: Any, graph: Any, sketch: Any, queries: Any, code: int, k: int, **how: Any) -> Any:
    q = len(queries)
    nodes, scores = np.full((q, k), -1, np.int64), np.full((q, k), np.nan, np.float32)
    counts, visited, deleted = (np.zeros(q, np.int64) for _ in range(3))
    scratch = kernels.Scratch()
    kernels.walk_by_sketches(
        scratch, rows, graph.links, sketch, how.get("dead", np.zeros(0, np.uint8)), queries, 0, q,
        code, k, how.get("ef", 64), how.get("gamma", kernels.NO_GAMMA), nodes, scores, counts,
        visited, deleted,
    )  # fmt: skip
    assert not scratch.visited.any()
    return nodes, scores, counts, visited


def walk_in_float(rows: Any, graph: Any, queries: Any, code: int, k: int, ef: int) -> Any:
    q = len(queries)
    nodes, scores = np.empty((q, k), np.int64), np.empty((q, k), np.float32)
    counts = np.zeros(q, np.int64), np.zeros(q, np.int64)
    kernels.walk(
        kernels.Scratch(), rows, graph, np.zeros(0, np.uint8), queries, 0, q, code, k, ef,
        nodes, scores, *counts,
    )  # fmt: skip
    return scores


def scan(rows: Any, queries: Any, code: int, k: int) -> Any:
    q = len(queries)
    scores, nodes = np.empty((q, k), np.float32), np.empty((q, k), np.int64)
    counts = np.zeros(q, np.int64)
    nothing = np.zeros(0, np.uint8)
    kernels.scan_rows(rows, nothing, 0, len(rows), queries, 0, q, code, k, scores, nodes, counts)
    kernels.sort_heaps(scores, nodes, counts, 0, q)
    return scores, nodes


@METRICS
def test_deleted_rows_are_walked_through_and_not_returned(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    rows, graph, sketch = derived(glove[:ROWS], metric, tmp_path)
    queries = prepared(glove[60_000:60_100], metric)
    code = kernels.EUCLIDEAN if metric == "euclidean" else kernels.INNER
    gone = np.random.default_rng(0).random(ROWS) < 0.2
    bits = np.packbits(gone, bitorder="little")
    nodes, scores, counts, _ = walk(rows, graph, sketch, queries, code, 10, dead=bits, ef=100)
    assert (counts == 10).all() and not gone[nodes].any()
    live = np.flatnonzero(~gone)
    true = scan(np.ascontiguousarray(rows[live]), queries, code, 10)[0]
    assert (scores <= true[:, 9:]).mean() >= 0.95


def test_a_larger_gamma_visits_more_and_finds_more(tmp_path: Path, glove: np.ndarray) -> None:
    rows, graph, sketch = derived(glove[:ROWS], "euclidean", tmp_path)
    queries = prepared(glove[60_000:60_200], "euclidean")
    true = scan(rows, queries, kernels.EUCLIDEAN, 10)[0][:, 9:]
    visited, found = [], []
    for gamma in (1.0, 1.1, 1.2, 1.3, 1.5):
        _, scores, _, nodes = walk(
            rows, graph, sketch, queries, kernels.EUCLIDEAN, 10, gamma=gamma, ef=1_200
        )
        visited.append(nodes.mean())
        found.append((scores <= true).mean())
    assert visited == sorted(visited) and visited[-1] > 2 * visited[0]
    assert found[-1] > 0.98 and found[-1] > found[0]


@METRICS
def test_sketches_lose_next_to_no_recall_at_the_same_ef(
    tmp_path: Path, glove: np.ndarray, metric: str
) -> None:
    rows, graph, sketch = derived(glove[:ROWS], metric, tmp_path)
    queries = prepared(glove[60_000:60_400], metric)
    code = kernels.EUCLIDEAN if metric == "euclidean" else kernels.INNER
    for k, ef in ((1, 10), (10, 40), (100, 200)):
        true = scan(rows, queries, code, k)[0][:, k - 1 :]
        in_float = walk_in_float(rows, graph, queries, code, k, ef)
        scores = walk(rows, graph, sketch, queries, code, k, ef=ef)[1]
        assert (scores <= true).mean() >= (in_float <= true).mean() - 0.01


def test_rows_too_large_for_float32_go_without(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).standard_normal((ROWS, 64)).astype(np.float32) * 1e19
    *_, sketch = derived(raw, "euclidean", tmp_path)
    assert isinstance(sketch, LeftOut) and "float32" in sketch.reason


def test_one_huge_row_does_not_blunt_the_others(tmp_path: Path, glove: np.ndarray) -> None:
    raw = glove[:ROWS].copy()
    raw[7] *= 1_000
    rows, graph, sketch = derived(raw, "euclidean", tmp_path)
    queries = prepared(glove[60_000:60_200], "euclidean")
    true = scan(rows, queries, kernels.EUCLIDEAN, 10)[0][:, 9:]
    scores = walk(rows, graph, sketch, queries, kernels.EUCLIDEAN, 10, ef=100)[1]
    in_float = walk_in_float(rows, graph, queries, kernels.EUCLIDEAN, 10, 100)
    assert (scores <= true).mean() >= (in_float <= true).mean() - 0.01


def test_candidates_to_score_again_grow_with_k() -> None:
    empty = np.zeros((0, 64), np.uint8)
    sketch = codec.Sketch(
        empty, np.zeros(0, np.int32), empty, np.zeros(0, np.float32), empty,
        np.zeros(0, np.float32), 1.0, 0.0, 1.0, (5, 20, 150), True,
    )  # fmt: skip
    wanted = [sketch.rescored_for(k) for k in range(1, 1_000)]
    assert wanted[0] == 5 and wanted[9] == 20 and wanted[99] == 150 and wanted[199] == 300
    assert wanted == sorted(wanted) and all(w >= k for k, w in enumerate(wanted, 1))


@pytest.fixture
def words(tmp_path: Path, glove: np.ndarray) -> Any:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        collection = database.create_collection("words", 50, "cosine")
        collection.upsert_many([str(i) for i in range(ROWS)], glove[:ROWS])
        flush_now(collection)
        index_now(collection)
        yield collection


def test_segments_with_a_graph_get_sketches(words: Any, glove: np.ndarray) -> None:
    segment = opened_of(words).snapshots.snapshot().segments[0].segment
    assert segment is not None
    sketch = segment.parts[SKETCH]
    assert sketch.lines == 1 and len(codec.differing(segment.content.vectors, sketch)) == 0
    queries = glove[60_000:60_100]
    assert recall(words.search(queries, ef=100), words.search(queries, exact=True)) >= 0.97


def test_planted_sketches_are_found_by_a_check(words: Any) -> None:
    segment = opened_of(words).snapshots.snapshot().segments[0].segment
    assert segment is not None
    sketch = segment.parts[SKETCH]
    codes = sketch.codes.copy()
    codes[[17, 2_018]] = codes[[2_018, 17]]
    codes[400, 3] ^= 0x0F
    lying = replace(sketch, codes=codes)
    assert codec.differing(segment.content.vectors, lying).tolist() == [17, 400, 2_018]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["znver2", "generic"])
def test_other_processors_find_the_same(tmp_path: Path, glove: np.ndarray, model: str) -> None:
    """Compiled without AVX-512, the walk takes the same steps."""
    # Built once: with several threads hnswlib links nodes in an order of chance.
    built = (*derived(glove[:ROWS], "euclidean", tmp_path), glove[60_000:60_100])
    (tmp_path / "built").write_bytes(pickle.dumps(built))
    script = tmp_path / "walk.py"
    script.write_text(
        "import pickle, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from tests.segments.codecs.test_sketch import prepared, walk\n"
        "folder = Path(sys.argv[1])\n"
        "rows, graph, sketch, raw = pickle.loads((folder / 'built').read_bytes())\n"
        "out = walk(rows, graph, sketch, prepared(raw, 'euclidean'), 0, 10)\n"
        "np.savez(folder / sys.argv[2], nodes=out[0], scores=out[1], visited=out[3])\n"
    )
    for name in ("native", model):
        environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        if name != "native":
            environment |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
        subprocess.run(
            [sys.executable, script, tmp_path, f"{name}.npz"], check=True, env=environment
        )
    native, other = (np.load(tmp_path / f"{name}.npz") for name in ("native", model))
    assert (native["nodes"] == other["nodes"]).all()
    assert (native["visited"] == other["visited"]).all()
    shutil.rmtree(tmp_path / "cache")
