"""Scans of some nodes give what a scan of all rows gives beside a delete bitmap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vecdb.engine.kernels import compiled as kernels

METRICS = pytest.mark.parametrize("metric", [kernels.EUCLIDEAN, kernels.INNER])


def rows_of(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


def empty(queries: int, k: int) -> tuple[Any, Any, Any]:
    return (
        np.full((queries, k), np.inf, np.float32),
        np.full((queries, k), -1, np.int64),
        np.zeros(queries, np.int64),
    )


@METRICS
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_scan_of_nodes_is_a_scan_of_what_is_left(metric: int, share: float) -> None:
    rows, queries = rows_of(700, 32, 1), rows_of(9, 32, 2)
    rows[600:] = rows[:100]  # Ties are in the order of nodes.
    chosen = np.random.default_rng(3).random(700) < share
    nodes = np.flatnonzero(chosen).astype(np.int32)
    heaps, expected = empty(9, 12), empty(9, 12)
    for start in range(0, len(nodes), 100):
        stop = min(len(nodes), start + 100)
        kernels.scan_nodes(rows, nodes, start, stop, queries, 0, 9, metric, 12, *heaps)
    mask = np.packbits(~chosen, bitorder="little")
    kernels.scan_rows(rows, mask, 0, 700, queries, 0, 9, metric, 12, *expected)
    for each in (heaps, expected):
        kernels.sort_heaps(*each, 0, 9)
    for ours, theirs in zip(heaps, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert heaps[2].tolist() == [min(12, len(nodes))] * 9


def test_nodes_outside_the_rows_are_left_out() -> None:
    rows = rows_of(20, 16, 1)
    nodes = np.array([-5, 3, 25, 7, 2**31 - 1], np.int32)
    scores, found, counts = empty(1, 4)
    kernels.scan_nodes(rows, nodes, 0, 5, rows[:1], 0, 1, kernels.INNER, 4, scores, found, counts)
    assert counts.tolist() == [2]
    assert set(found[0, :2].tolist()) == {3, 7}
    with pytest.raises(ValueError, match="past the end"):
        kernels.scan_nodes(
            rows, nodes, 0, 6, rows[:1], 0, 1, kernels.INNER, 4, scores, found, counts
        )


@pytest.mark.parametrize("n", [1, 7, 8, 9, 200, 1_003])
@pytest.mark.parametrize("has_deleted", [False, True])
def test_bitmaps(n: int, has_deleted: bool) -> None:
    random = np.random.default_rng(n)
    matching, dead = random.random(n) < 0.4, random.random(n) < 0.3
    bits = np.packbits(matching, bitorder="little")
    deleted = np.packbits(dead, bitorder="little") if has_deleted else np.zeros(0, np.uint8)
    mask = np.zeros((n + 7) // 8, np.uint8)
    count = kernels.mask_others(bits, deleted, n, mask)
    left = matching & ~dead if has_deleted else matching
    assert count == left.sum()
    np.testing.assert_array_equal(np.unpackbits(mask, count=n, bitorder="little"), ~left)
    assert np.unpackbits(mask, bitorder="little")[n:].all()
    nodes = np.full(n, -1, np.int32)
    assert kernels.list_live(mask, n, nodes) == count
    np.testing.assert_array_equal(nodes[:count], np.flatnonzero(left))
    short = np.zeros(max(0, count - 1), np.int32)
    assert kernels.list_live(mask, n, short) == len(short)
    with pytest.raises(ValueError, match="belong together"):
        kernels.mask_others(bits, deleted, n + 8, mask)
    with pytest.raises(ValueError, match="too short"):
        kernels.list_live(mask, 8 * len(mask) + 1, nodes)
