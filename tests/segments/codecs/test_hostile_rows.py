"""Whatever the rows, a walk over sketches gives true answers, about as good as one in float32."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.segments.codecs.hostile import CASES, composed
from tests.segments.codecs.test_sketch import derived, prepared, scan, walk, walk_in_float
from vecdb.engine.kernels import compiled as kernels
from vecdb.engine.segments.codecs import basis
from vecdb.engine.segments.codecs import sketch as codec
from vecdb.engine.segments.part_kind import LeftOut

SEED = int(os.environ.get("VECDB_TEST_SEED", "7"))
WITH_SKETCHES = {
    "low_rank", "constant_component", "denormal_components", "tiny", "huge",
    "each_ten_times", "outliers",
}  # fmt: skip
"""Cases whose rows get sketches under Euclidean distance; else these tests would test nothing."""


def check_answers(rows: Any, queries: Any, code: int, found: Any, k: int, dead: Any = None) -> None:
    """Hits are live, distinct, ascending, and their scores are those of a scan, bit for bit."""
    nodes, scores, counts, _ = found
    for i in range(0, len(queries), 5):
        every = scan(rows, queries[i : i + 1], code, len(rows))
        by_node = np.empty(len(rows), np.float32)
        by_node[every[1][0]] = every[0][0]
        hits = nodes[i, : counts[i]]
        assert len(set(hits.tolist())) == len(hits)
        assert dead is None or not dead[hits].any()
        np.testing.assert_array_equal(scores[i, : counts[i]], by_node[hits])
        pairs = list(zip(scores[i, : counts[i]].tolist(), hits.tolist(), strict=True))
        assert pairs == sorted(pairs)


def check_walks(raw: Any, metric: str, folder: Path, seed: int) -> int:
    """Return how many lines the sketches have; 0 if there are none."""
    rows, graph, sketch = derived(raw, metric, folder)
    if isinstance(sketch, LeftOut):
        assert sketch.reason
        return 0
    n, code = len(rows), kernels.EUCLIDEAN if metric == "euclidean" else kernels.INNER
    assert len(codec.differing(rows, sketch)) == 0
    chance = np.random.default_rng(seed)
    own = chance.choice(n, 200, replace=False)
    between = ((raw[own[:100]].astype(np.float64) + raw[own[100:]]) / 2).astype(np.float32)
    queries = np.ascontiguousarray(np.concatenate([rows[own], prepared(between, metric)]))
    for k, ef in ((1, 10), (10, 64), (100, 100)):
        found = walk(rows, graph, sketch, queries, code, k, ef=ef)
        check_answers(rows, queries, code, found, k)
        assert (found[2] == k).all()
        true = scan(rows, queries, code, k)[0][:, k - 1 :]
        in_float = walk_in_float(rows, graph, queries, code, k, ef)
        assert (found[1] <= true).mean() >= (in_float <= true).mean() - 0.02, (k, ef)
        first = scan(rows, queries[:200], code, 1)[0]
        of_own, of_float = ((scores[:200, :1] <= first).mean() for scores in (found[1], in_float))
        assert of_own >= of_float - 0.02, "self-recall"
    everything = walk(rows, graph, sketch, queries[:3], code, n, ef=2 * n)
    check_answers(rows, queries[:3], code, everything, n)
    assert (everything[2] >= 0.99 * n).all()
    for share in (0.1, 0.9, 1.0):
        gone = chance.random(n) < share
        bits = np.packbits(gone, bitorder="little")
        found = walk(rows, graph, sketch, queries[:20], code, 10, ef=64, dead=bits)
        check_answers(rows, queries[:20], code, found, 10, gone)
    return sketch.lines


@pytest.mark.parametrize("case", CASES)
def test_hostile_rows_get_true_answers(tmp_path: Path, case: str) -> None:
    raw = CASES[case](np.random.default_rng(SEED), 1_001, 50)
    assert check_walks(raw, "euclidean", tmp_path, SEED) or case not in WITH_SKETCHES


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize("case", CASES)
def test_hostile_rows_get_true_answers_in_each_metric(
    tmp_path: Path, case: str, metric: str
) -> None:
    dim = random.Random(f"{SEED} {case} {metric}").choice([33, 65, 100, 129, 513, 777])
    check_walks(CASES[case](np.random.default_rng(SEED), 1_000, dim), metric, tmp_path, SEED)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
def test_mixed_hostile_rows_get_true_answers(tmp_path: Path, seed: int, metric: str) -> None:
    chance = np.random.default_rng(seed)
    dim, count = int(chance.integers(33, 400)), int(chance.integers(1_000, 3_000))
    print("seed", seed, "dim", dim, "count", count)
    check_walks(composed(chance, count, dim), metric, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2_048, 2_500])
def test_wide_rows_get_sketches(tmp_path: Path, dim: int) -> None:
    """With a full decomposition of their scatter matrix, and without."""
    raw = CASES["low_rank"](np.random.default_rng(SEED), 1_000, dim)
    assert check_walks(raw, "euclidean", tmp_path, SEED)


@pytest.mark.slow
@pytest.mark.parametrize("lines", range(1, 9))
def test_sketches_of_each_number_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """Of all lines that the rows' directions fill."""
    monkeypatch.setattr(basis, "EXPLAINED_MIN", 0.99999)
    dim, metric = basis.heads_in(lines) - 12, ("euclidean", "cosine", "dot")[lines % 3]
    chance = np.random.default_rng(SEED)
    around = chance.standard_normal((8, dim))[chance.integers(0, 8, 1_100)]
    raw = (around + chance.standard_normal((1_100, dim))).astype(np.float32)
    assert check_walks(raw, metric, tmp_path, SEED) == lines
