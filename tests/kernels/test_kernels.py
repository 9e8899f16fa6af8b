"""The kernels compared with numpy and hnswlib, and with arrays of random bytes as input."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.waiting import HANG_S
from vecdb.engine.hnsw.builder import Builder, Graph
from vecdb.engine.kernels import compiled as kernels

NOTHING_DELETED = np.zeros(0, np.uint8)
ROOT = str(Path(kernels.__file__).resolve().parents[3])
METRICS = {"ip": kernels.INNER, "l2": kernels.EUCLIDEAN}


def random_rows(n: int, dim: int, seed: int, clusters: int = 0) -> Any:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, dim), dtype=np.float32)
    if clusters:
        rows = 0.5 * rows + random.standard_normal((clusters, dim))[random.integers(0, clusters, n)]
    return padded(rows.astype(np.float32))


def padded(raw: Any, normalise: bool = False) -> Any:
    out = np.full((len(raw), -(-raw.shape[1] // 16) * 16), 7, np.float32)
    kernels.prepare_rows(raw, out, normalise)
    return out


def walked(
    rows: Any, graph: Any, queries: Any, metric: int, k: int, ef: int, dead: Any = NOTHING_DELETED,
    scratch: Any = None,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    q = len(queries)
    out = (
        np.full((q, k), -1, np.int64), np.full((q, k), np.nan, np.float32),
        np.zeros(q, np.int64), np.zeros(q, np.int64),
    )  # fmt: skip
    scratch = scratch or kernels.Scratch()
    kernels.walk(scratch, rows, graph, dead, queries, 0, q, metric, k, ef, *out)
    assert not scratch.visited.any(), "the marks are left clear"
    return out


def scanned(
    rows: Any, queries: Any, metric: int, k: int, dead: Any = NOTHING_DELETED, step: int = 1 << 30
) -> tuple[Any, Any, Any]:
    q = len(queries)
    scores, nodes = np.full((q, k), np.nan, np.float32), np.full((q, k), -1, np.int64)
    counts = np.zeros(q, np.int64)
    for start in range(0, len(rows), step):
        stop = min(len(rows), start + step)
        kernels.scan_rows(rows, dead, start, stop, queries, 0, q, metric, k, scores, nodes, counts)
    kernels.sort_heaps(scores, nodes, counts, 0, q)
    return nodes, scores, counts


def true_scores(rows: Any, queries: Any, metric: int) -> Any:
    wide, wide_queries = rows.astype(np.float64), queries.astype(np.float64)
    products = wide_queries @ wide.T
    if metric == kernels.INNER:
        return -products
    return (wide**2).sum(1) + (wide_queries**2).sum(1)[:, None] - 2 * products


def bitmap(dead: Any) -> Any:
    return np.packbits(dead, bitorder="little")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Graph]:
    rows = random_rows(2_000, 20, seed=1, clusters=20)
    builder = Builder("l2", rows.shape[1], 8, 60, len(rows))
    builder.add(rows)
    return rows, builder.graph(tmp_path_factory.mktemp("small"))


# -- the walk -----------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["ip", "l2"])
@pytest.mark.parametrize("clusters", [0, 50])
def test_walk_finds_what_hnswlib_finds(space: str, clusters: int, tmp_path: Path) -> None:
    rows = random_rows(10_300, 24, seed=2, clusters=clusters)
    if space == "ip":
        rows = padded(rows, normalise=True)
    rows, queries = rows[:10_000].copy(), rows[10_000:].copy()
    builder = Builder(space, rows.shape[1], 12, 80, len(rows))  # type: ignore[arg-type]
    builder.add(rows)
    graph = builder.graph(tmp_path)
    index: hnswlib.Index = builder.index
    for ef in (10, 30, 100, 700):
        index.set_ef(ef)
        theirs = index.knn_query(queries, 10, num_threads=1)[0]
        ours = walked(rows, graph, queries, METRICS[space], 10, ef)[0]
        assert np.mean(ours == theirs) >= 0.999


@pytest.mark.parametrize("width", [16, 32, 48, 64, 80, 160, 1024])
@pytest.mark.parametrize("metric", METRICS.values())
def test_walk_and_scan_give_identical_scores(width: int, metric: int) -> None:
    """The graph is complete, so that the walk visits every row."""
    rows = random_rows(40, width, seed=width)
    links = np.array([[j for j in range(40) if j != i] for i in range(40)], np.int32)
    graph = Graph(links, np.zeros(41, np.int32), np.empty((0, 20), np.int32), 3, 0)
    nodes, scores, counts, visited = walked(rows, graph, rows, metric, 40, 40)
    expected_nodes, expected_scores, _ = scanned(rows, rows, metric, 40)
    assert np.all(counts == 40) and np.all(visited == 40)
    np.testing.assert_array_equal(nodes, expected_nodes)
    np.testing.assert_array_equal(scores.view(np.int32), expected_scores.view(np.int32))
    assert not np.any(np.signbit(scores) & (scores == 0))
    np.testing.assert_allclose(
        np.sort(true_scores(rows, rows, metric)), scores, rtol=1e-4, atol=1e-4 * width
    )


def test_deleted_nodes_are_traversed_and_never_returned(small: tuple[Any, Graph]) -> None:
    rows, graph = small
    random = np.random.default_rng(3)
    queries = rows[:100] + np.float32(0.01)
    for share in (0.0, 0.2, 0.5, 0.9):
        dead = random.random(len(rows)) < share
        nodes, scores, counts, _ = walked(
            rows, graph, queries, kernels.EUCLIDEAN, 10, 64, bitmap(dead)
        )
        full = counts == 10  # The others stopped early, as a scan costs less.
        assert full.all() or (share >= 0.5 and not counts[~full].any())
        if share == 0.9:
            continue
        nodes, scores = nodes[full], scores[full]
        assert not dead[nodes].any() and np.all(np.diff(scores, axis=1) >= 0)
        truth = scanned(rows, queries[full], kernels.EUCLIDEAN, 10, bitmap(dead))[0]
        same = np.mean([len(np.intersect1d(a, b)) for a, b in zip(nodes, truth, strict=True)]) / 10
        assert same >= 0.95
    everything = bitmap(np.ones(len(rows), bool))
    assert np.all(walked(rows, graph, queries, kernels.EUCLIDEAN, 10, 64, everything)[2] == 0)


def test_empty_bitmap_equals_no_deleted_nodes(small: tuple[Any, Graph]) -> None:
    rows, graph = small
    none = walked(rows, graph, rows[:50], kernels.EUCLIDEAN, 10, 40)
    empty = walked(
        rows, graph, rows[:50], kernels.EUCLIDEAN, 10, 40, bitmap(np.zeros(len(rows), bool))
    )
    for a, b in zip(none, empty, strict=True):
        np.testing.assert_array_equal(a, b)


def test_equal_scores_are_ordered_by_node() -> None:
    rows = np.ones((30, 16), np.float32)
    links = np.array([[j for j in range(30) if j != i][::-1] for i in range(30)], np.int32)
    graph = Graph(links, np.zeros(31, np.int32), np.empty((0, 15), np.int32), 7, 0)
    for found in (
        walked(rows, graph, rows[:1], kernels.INNER, 12, 12)[0],
        scanned(rows, rows[:1], kernels.INNER, 12)[0],
    ):
        np.testing.assert_array_equal(found[0], np.arange(12))


def test_one_scratch_serves_graphs_of_any_size(small: tuple[Any, Graph]) -> None:
    rows, graph = small
    tiny = Graph(
        np.array([[1], [0]], np.int32), np.zeros(3, np.int32), np.empty((0, 1), np.int32), 0, 0
    )
    scratch = kernels.Scratch()
    expected = walked(rows, graph, rows[:20], kernels.EUCLIDEAN, 5, 30)[0]
    for _ in range(3):
        assert walked(rows[:2], tiny, rows[:1], 0, 2, 2, scratch=scratch)[2][0] == 2
        found = walked(rows, graph, rows[:20], kernels.EUCLIDEAN, 5, 30, scratch=scratch)[0]
        np.testing.assert_array_equal(found, expected)


def test_k_above_ef_and_above_n_returns_all(small: tuple[Any, Graph]) -> None:
    rows, graph = small
    nodes, _, counts, _ = walked(rows, graph, rows[:3], kernels.EUCLIDEAN, 2_500, 10)
    assert np.all(counts >= 1_990) and np.all(nodes[0, : counts[0]] >= 0)
    assert len(np.unique(nodes[0, : counts[0]])) == counts[0]


def test_arrays_of_wrong_shapes_are_refused(small: tuple[Any, Graph]) -> None:
    rows, graph = small
    with pytest.raises(ValueError, match="belong together"):
        walked(rows, graph, rows[:3, :16].copy(), kernels.EUCLIDEAN, 5, 10)
    with pytest.raises(ValueError, match="belong together"):
        walked(rows[:-1], graph, rows[:3], kernels.EUCLIDEAN, 5, 10)
    with pytest.raises(ValueError, match="belong together"):
        walked(rows, graph, rows[:3], kernels.EUCLIDEAN, 5, 10, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="past the end"):
        scanned(rows, rows[:3], kernels.EUCLIDEAN, 0)


anything = st.integers(-(2**31), 2**31 - 1)
near = st.one_of(st.integers(-2, 45), anything)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    links=arrays.arrays(np.int32, (40, 8), elements=near),
    offsets=arrays.arrays(np.int32, 41, elements=near),
    upper=arrays.arrays(np.int32, (12, 4), elements=near),
    entry=st.one_of(st.integers(-2, 45), st.integers(-(2**63), 2**63 - 1)),
    top_level=st.one_of(st.integers(-2, 5), st.integers(-(2**63), 2**63 - 1)),
    dead=st.one_of(st.just(NOTHING_DELETED), arrays.arrays(np.uint8, 5)),
    strange=st.booleans(),
)
def test_invalid_graph_neither_crashes_nor_hangs(
    links: Any, offsets: Any, upper: Any, entry: int, top_level: int, dead: Any, strange: bool
) -> None:
    rows = random_rows(40, 16, seed=4)
    if strange:
        rows[::3], rows[1::3, 0], rows[2::3, 1] = np.nan, np.inf, -np.inf
    graph = Graph(links, offsets, upper, entry, top_level)
    for metric in METRICS.values():
        nodes, _, counts, visited = walked(rows, graph, rows[:4], metric, 5, 20, dead)
        for i in range(4):
            found = nodes[i, : counts[i]]
            assert np.all((found >= 0) & (found < 40)) and len(np.unique(found)) == counts[i]
            assert counts[i] <= visited[i] <= 40


def test_walk_with_deleted_rows_finds_all_reachable_live_rows(
    small: tuple[Any, Graph],
) -> None:
    rows, graph = small
    n, query = len(rows), rows[:1]
    order = scanned(rows, query, kernels.EUCLIDEAN, n)[0][0]
    reached, _, found, _ = walked(rows, graph, query, kernels.EUCLIDEAN, n, n)
    reached = np.sort(reached[0, : found[0]])
    random = np.random.default_rng(5)
    for count in (1, n // 10, n // 4):
        for gone in (order[:count], order[-count:], random.choice(n, count, replace=False)):
            dead = np.zeros(n, bool)
            dead[gone] = True
            nodes, _, counts, visited = walked(
                rows, graph, query, kernels.EUCLIDEAN, n, n, bitmap(dead)
            )
            np.testing.assert_array_equal(np.sort(nodes[0, : counts[0]]), reached[~dead[reached]])
            assert visited[0] == len(reached)


# -- the scan -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 300),
    q=st.integers(0, 9),
    k=st.integers(1, 320),
    width=st.sampled_from([16, 32, 80]),
    step=st.sampled_from([1, 7, 64, 1000]),
    metric=st.sampled_from([kernels.INNER, kernels.EUCLIDEAN]),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_scan_is_exact(
    n: int, q: int, k: int, width: int, step: int, metric: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    # Small integers: scores are exact and many are equal.
    rows = random.integers(-2, 3, (n, width)).astype(np.float32)
    queries = random.integers(-2, 3, (q, width)).astype(np.float32)
    dead = random.random(n) < share
    nodes, scores, counts = scanned(
        rows, queries, metric, k, bitmap(dead) if share else NOTHING_DELETED, step
    )
    for i in range(q):
        expected = true_scores(rows, queries[i : i + 1], metric)[0]
        live = np.flatnonzero(~dead)
        order = live[np.lexsort((live, expected[live]))][:k]
        assert counts[i] == len(order)
        np.testing.assert_array_equal(nodes[i, : counts[i]], order)
        np.testing.assert_array_equal(scores[i, : counts[i]], expected[order])


# -- preparing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1.0, 1e25, 1e37])
def test_rows_are_padded_and_normalised(scale: float) -> None:
    raw = (np.random.default_rng(5).standard_normal((50, 21)) * scale).astype(np.float32)
    plain, unit = padded(raw), padded(raw, normalise=True)
    np.testing.assert_array_equal(plain[:, :21], raw)
    assert not plain[:, 21:].any() and not unit[:, 21:].any()
    wide = raw.astype(np.float64)
    expected = wide / np.sqrt((wide**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(unit[:, :21], expected, rtol=1e-6)


def test_row_of_zeros_stays_zero() -> None:
    assert not padded(np.zeros((2, 3), np.float32), normalise=True).any()


def test_level_positions_are_found_or_refused() -> None:
    words = np.array([0, 24, 1, 2, 3, 4, 5, 6, 0, 12, 7, 8, 9], np.uint32)
    starts, levels = np.empty(4, np.int64), np.empty(4, np.int32)
    assert kernels.find_levels(words, 3, starts, levels)
    assert starts.tolist() == [1, 2, 9, 10] and levels.tolist() == [0, 2, 0, 1]
    for wrong in (words[:-1], words[:5], words[:0], np.append(words, np.uint32(0))):
        assert not kernels.find_levels(wrong, 3, starts, levels)


# -- compiling ----------------------------------------------------------------------------------


def test_one_signature_serves_writable_read_only_and_mapped_arrays(
    small: tuple[Any, Graph], tmp_path: Path
) -> None:
    rows, graph = small
    np.save(tmp_path / "rows.npy", rows)
    frozen = rows.copy()
    frozen.flags.writeable = False
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    expected = walked(rows, graph, rows[:5], kernels.EUCLIDEAN, 5, 20)[0]
    for kind in (frozen, mapped, mapped.view(np.ndarray)):
        for found in (
            walked(kind, graph, kind[:5], kernels.EUCLIDEAN, 5, 20)[0],
            scanned(kind, kind[:5], kernels.EUCLIDEAN, 5)[0],
        ):
            np.testing.assert_array_equal(found, expected)
        padded(kind)
    for kernel in kernels.KERNELS:
        assert len(kernel.signatures) == 1, kernel


PROGRAM = """
import sys, warnings
warnings.simplefilter("error" if sys.argv[1] == "strict" else "always")
import numpy as np
from vecdb.engine.kernels import compiled as kernels
rows = np.eye(16, dtype=np.float32)[:5]
scores, nodes = np.zeros((5, 2), np.float32), np.zeros((5, 2), np.int64)
counts = np.zeros(5, np.int64)
kernels.scan_rows(rows, np.zeros(0, np.uint8), 0, 5, rows, 0, 5, 1, 2, scores, nodes, counts)
kernels.sort_heaps(scores, nodes, counts, 0, 5)
links = np.array([[1, 2, 3, 4]] * 5, np.int32)
class graph:
    links, upper_offsets, upper_links = links, np.zeros(6, np.int32), np.zeros((0, 2), np.int32)
    entry, top_level = 0, 0
found = np.zeros((5, 2), np.int64), np.zeros((5, 2), np.float32), counts.copy(), counts.copy()
kernels.walk(kernels.Scratch(), rows, graph, np.zeros(0, np.uint8), rows, 0, 5, 1, 2, 5, *found)
assert np.array_equal(found[0], nodes), (found, nodes)
print(nodes[:, 0].tolist(), sum(sum(k.stats.cache_hits.values()) for k in kernels.KERNELS))
"""


def run_program(mode: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        env={**os.environ, **environment},
        cwd=environment["PYTHONPATH"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )


@pytest.mark.slow
def test_cache_is_written_and_read_back(tmp_path: Path) -> None:
    first = run_program("strict", NUMBA_CACHE_DIR=str(tmp_path), PYTHONPATH=ROOT)
    again = run_program("strict", NUMBA_CACHE_DIR=str(tmp_path), PYTHONPATH=ROOT)
    assert first.stdout.split() == ["[0,", "1,", "2,", "3,", "4]", "0"]
    assert again.stdout.split()[-1] == str(len(kernels.KERNELS))


@pytest.mark.slow
def test_missing_cache_folder_warns_once_and_works(tmp_path: Path) -> None:
    """numba can create a folder neither next to the module nor in the user's cache folder."""
    package = tmp_path / "vecdb"
    room = package / "engine" / "kernels"
    room.mkdir(parents=True)
    for folder in (package, room.parent, room):
        (folder / "__init__.py").touch()
    for module in Path(kernels.__file__).parent.glob("*.py"):
        shutil.copy(module, room)
    (room / "__pycache__").touch()  # A file where the folder should be.
    done = run_program(
        "lenient", PYTHONPATH=str(tmp_path), HOME="/dev/null", XDG_CACHE_HOME="/dev/null",
        NUMBA_CACHE_DIR="", PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    assert done.stdout.startswith("[0, 1, 2, 3, 4]")
    assert done.stderr.count("RuntimeWarning") == 1
