"""Kernels that read sketches, given bytes of which only the shapes of the arrays are right."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numba import types

from vecdb.engine.kernels import compiled as kernels
from vecdb.engine.kernels.candidates import pack
from vecdb.engine.kernels.compiling import FLOAT, INT, kernel, read, written
from vecdb.engine.kernels.sketches import estimate, estimate_all
from vecdb.engine.segments.codecs.sketch import Sketch

SEED = int(os.environ.get("VECDB_TEST_SEED", "7"))
NUMBERS = np.array(
    [np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 1e-45, 1e-38, 3e38, -3e38, 1, -1, 1e19], np.float32
)
NODES = np.array([-1, -(2**31), 2**31 - 1, 2**30, 0, 1], np.int32)


@dataclass
class Shape:
    n: int
    width: int
    lines: int
    heads: int
    hubs: int
    degree: int

    @classmethod
    def random(cls, chance: np.random.Generator) -> Shape:
        lines = int(chance.integers(1, 9))
        return cls(
            n=int(chance.integers(1, 300)),
            width=16 * int(chance.integers(1, 20)),
            lines=lines,
            heads=int(chance.integers(0, 128 * lines - 15)),
            hubs=int(chance.integers(0, 40)),
            degree=int(chance.integers(1, 40)),
        )


def floats(chance: np.random.Generator, *shape: int) -> Any:
    """Any bits, and often the worst numbers."""
    raw = chance.integers(0, 2**32, shape, np.uint32).view(np.float32)
    return np.where(chance.random(shape) < 0.3, chance.choice(NUMBERS, shape), raw)


def nodes(chance: np.random.Generator, n: int, *shape: int) -> Any:
    """Mostly nodes, and some numbers that are none."""
    wild = np.where(
        chance.random(shape) < 0.5,
        chance.choice(NODES, shape),
        chance.integers(-(2**31), 2**31, shape),
    )
    right = chance.integers(0, n, shape)
    return np.where(chance.random(shape) < 0.1, wild, right).astype(np.int32)


def damaged(chance: np.random.Generator, shape: Shape) -> Sketch:
    def some_bytes(count: int, width: int) -> Any:
        return chance.integers(0, 256, (count, width), np.uint8)

    return Sketch(
        codes=some_bytes(shape.n, 64 * shape.lines),
        hubs=nodes(chance, shape.n, shape.hubs),
        hub_codes=some_bytes(shape.hubs, 64 * shape.lines),
        mean=floats(chance, shape.width),
        basis=some_bytes(shape.heads, -(-shape.width // 64) * 64),
        basis_steps=floats(chance, shape.heads),
        slack=0.01,
        slope=float(floats(chance)),
        explained=1.0,
        rescored=tuple(chance.integers(-5, 1_000, 3).tolist()),
        centred=bool(chance.integers(0, 2)),
    )


def check_case(seed: int) -> int:
    """Walk once; return how many rows were found."""
    chance = np.random.default_rng(seed)
    shape = Shape.random(chance)
    sketch = damaged(chance, shape)
    rows = chance.standard_normal((shape.n, shape.width)).astype(np.float32)
    queries = chance.standard_normal((3, shape.width)).astype(np.float32)
    links = nodes(chance, shape.n, shape.n, shape.degree)
    k, ef = int(chance.integers(1, shape.n + 1)), int(chance.integers(1, 2 * shape.n + 10))
    gone = chance.random(shape.n) < chance.choice([0.0, 0.3, 1.0])
    dead = np.packbits(gone, bitorder="little") if chance.integers(0, 2) else np.zeros(0, np.uint8)
    metric = int(chance.choice([kernels.EUCLIDEAN, kernels.INNER]))
    gamma = float(chance.choice([kernels.NO_GAMMA, 1.0, 1.3, 0.0, -1.0]))
    found = np.full((3, k), -1, np.int64), np.full((3, k), np.nan, np.float32)
    counts = tuple(np.zeros(3, np.int64) for _ in range(3))
    scratch = kernels.Scratch()
    kernels.walk_by_sketches(
        scratch, rows, links, sketch, dead, queries, 0, 3, metric, k, ef, gamma, *found, *counts
    )
    assert not scratch.visited.any()
    scores, order = np.empty((3, shape.n), np.float32), np.empty((3, shape.n), np.int64)
    scanned = np.zeros(3, np.int64)
    kernels.scan_rows(
        rows, dead[:0], 0, shape.n, queries, 0, 3, metric, shape.n, scores, order, scanned
    )
    by_node = np.empty_like(scores)
    np.put_along_axis(by_node, order, scores, axis=1)
    for i, count in enumerate(counts[0].tolist()):
        hits, hit_scores = found[0][i, :count], found[1][i, :count]
        assert len(set(hits.tolist())) == count and (not len(dead) or not gone[hits].any())
        np.testing.assert_array_equal(hit_scores, by_node[i, hits])
        pairs = list(zip(hit_scores.tolist(), hits.tolist(), strict=True))
        assert pairs == sorted(pairs)
    ranks = np.empty((3, 2), np.int64)
    kernels.rank_by_sketch(
        sketch.codes, sketch.query_mean, sketch.basis, sketch.basis_steps, sketch.slope, queries,
        chance.integers(-1, shape.n, 3), chance.integers(0, shape.n, (3, 2)), ranks,
    )  # fmt: skip
    assert ((ranks >= 0) & (ranks <= shape.n)).all()
    return int(counts[0].sum())


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_random_bytes_give_true_scores_or_nothing(first: int) -> None:
    found = [check_case(SEED + seed) for seed in range(first, first + 100)]
    assert sum(count > 0 for count in found) > 50  # Else this test would see no answers.


@pytest.mark.slow
def test_random_bytes_at_length() -> None:
    for seed in range(20_000):
        check_case(10_000 * SEED + seed)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, codes=s.codes[:-1]),
        lambda s: replace(s, codes=np.zeros((len(s.codes), 0), np.uint8)),
        lambda s: replace(s, codes=np.zeros((len(s.codes), 72), np.uint8)),
        lambda s: replace(s, hub_codes=s.hub_codes[:-1]),
        lambda s: replace(s, mean=s.mean[:-1], centred=True),
        lambda s: replace(s, basis=s.basis[:, :32].copy()),
        lambda s: replace(s, basis_steps=s.basis_steps[:-1]),
        lambda s: replace(s, basis=np.zeros((129, 64), np.uint8), basis_steps=np.ones(129, "f4")),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: Any) -> None:
    chance = np.random.default_rng(SEED)
    sketch = change(damaged(chance, Shape(n=50, width=48, lines=1, heads=48, hubs=5, degree=4)))
    rows = np.zeros((50, 48), np.float32)
    results = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32)
    counts = (np.zeros(1, np.int64) for _ in range(3))
    with pytest.raises(ValueError, match="don't belong together"):
        kernels.walk_by_sketches(
            kernels.Scratch(), rows, nodes(chance, 50, 50, 4), sketch, np.zeros(0, np.uint8),
            rows[:1], 0, 1, kernels.EUCLIDEAN, 1, 10, kernels.NO_GAMMA, *results, *counts,
        )  # fmt: skip


def test_estimates_of_many_nodes_are_those_of_each_bit_for_bit() -> None:
    @kernel(
        types.void(
            *(read(types.uint8, 2), read(types.int8, 1), INT, FLOAT, FLOAT, read(types.int32, 1)),
            *(written(types.uint64, 1), written(types.uint64, 1)),
        )
    )
    def compare(
        sketches: Any, heads: Any, lines: int, offset: Any, weight: Any, asked: Any, keys: Any,
        single: Any,
    ) -> None:  # fmt: skip
        data = (sketches, heads, lines, offset, weight)
        estimate_all(data, asked, 1, asked.shape[0], keys, 2)
        for i in range(1, asked.shape[0]):
            node = np.int64(asked[i])
            single[i + 1] = pack(estimate(data, node), node)

    chance = np.random.default_rng(SEED)
    for count in range(1, 14):
        lines = int(chance.integers(1, 9))
        sketches = chance.integers(0, 256, (50, 64 * lines), np.uint8)
        sketches[:, -8:] = np.tile(np.array([0.5, 3], np.float32).view(np.uint8), (50, 1))
        sketches[:, -4:] = chance.random((50, 1), np.float32).view(np.uint8)
        heads = chance.integers(-127, 128, 128 * lines).astype(np.int8)
        asked = chance.integers(0, 50, count).astype(np.int32)
        keys, single = np.zeros((2, count + 3), np.uint64)
        compare(sketches, heads, lines, 7.5, 0.01, asked, keys, single)
        assert keys.tolist() == single.tolist()
        assert count == 1 or keys[2] != 0
