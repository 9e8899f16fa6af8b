"""Kernels that build graphs: codes, and links of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vecdb.engine.kernels import compiled as kernels


def encoded(rows: Any, mean: Any, *, inner: bool = False) -> Any:
    out = np.empty((len(rows), -(-(rows.shape[1] + 8) // 64) * 64), np.uint8)
    kernels.encode_for_build(rows, mean, inner, out)
    return out


def decoded(codes: Any, dim: int) -> Any:
    scale = codes[:, -8:-4].copy().view(np.float32)
    return (codes[:, :dim].astype(np.float32) - 128) * scale


def arrays(n: int, ef: int) -> tuple[Any, Any, Any]:
    return (
        np.zeros(n // 64 + 1, np.uint64), np.empty(n + 1, np.int32),
        np.empty(ef + 64, np.uint64),
    )  # fmt: skip


@pytest.mark.parametrize("dim", [1, 56, 57, 200])
@pytest.mark.parametrize("scale", [0.0, 1e-40, 1.0, 1e15])
def test_codes_differ_from_rows_by_at_most_half_a_step(dim: int, scale: float) -> None:
    random = np.random.default_rng(dim)
    rows = (scale * random.standard_normal((50, dim))).astype(np.float32)
    mean = rows.mean(axis=0)
    codes = encoded(rows, mean)
    centred = rows - mean
    step = np.abs(centred).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(decoded(codes, dim) - centred) <= 0.501 * step + 1e-37)
    lengths = np.square(decoded(codes, dim).astype(np.float64)).sum(axis=1)
    stored = codes[:, -4:].copy().view(np.float32)[:, 0]
    np.testing.assert_allclose(stored, lengths, rtol=1e-5, atol=1e-37)
    nothing = encoded(rows, np.zeros(dim, np.float32), inner=True)[:, -4:]
    assert not nothing.any(), "scores by inner product need no lengths"


@pytest.mark.parametrize("inner", [False, True])
def test_links_are_pruned_candidates_and_see_earlier_rows_of_the_batch(inner: bool) -> None:
    random = np.random.default_rng(3)
    n, batch, dim, slots = 40, 20, 24, 8
    rows = random.standard_normal((n + batch, dim)).astype(np.float32)
    codes = encoded(rows, np.zeros(dim, np.float32), inner=inner)
    known = decoded(codes, dim).astype(np.float64)
    links = np.full((n + batch, slots), -1, np.int32)
    for i in range(n):  # A ring: a walk that keeps all candidates sees every node.
        links[i, :2] = (i + 1) % n, (i - 1) % n
    out, nearest = np.full((batch, slots), 7, np.int32), np.empty(batch, np.int32)
    kernels.find_links(
        codes, links, n, dim, codes, n, np.zeros(batch, np.int32), 0, batch, 1, n + batch,
        kernels.NO_GAMMA, slots, *arrays(n, n + batch + slots), out, nearest,
    )  # fmt: skip

    def distance(a: int, b: int) -> float:
        product = float(known[a] @ known[b])
        return -2 * product if inner else float(np.square(known[a] - known[b]).sum())

    for i in range(batch):
        row, kept = n + i, list[int]()
        assert nearest[i] == min(range(n), key=lambda node: distance(row, node))
        for node in sorted(range(row), key=lambda node: distance(row, node)):
            if all(distance(node, each) >= distance(row, node) for each in kept):
                kept.append(node)
        expected = (kept + [-1] * slots)[:slots]
        assert out[i].tolist() == expected


def test_lists_that_get_too_long_are_pruned_and_others_appended_to() -> None:
    dim, slots = 16, 4
    rows = np.zeros((12, dim), np.float32)
    rows[1:6, 0] = np.arange(1, 6)  # On one line from row 0: only the nearest is kept.
    rows[6:, 1] = np.arange(1, 7)
    codes = encoded(rows, np.zeros(dim, np.float32))
    links = np.full((12, slots), -1, np.int32)
    links[0] = 2, 3, 4, 5
    links[1, 0] = 2
    targets = np.array([0, 1], np.int32)
    begins, sources = np.array([0, 2, 4]), np.array([1, 6, 7, 8], np.int32)
    kernels.link_back(codes, links, 12, dim, targets, begins, sources, 0, 2, arrays(12, 64)[2])
    assert links[0].tolist() == [1, 6, -1, -1]
    assert links[1].tolist() == [2, 7, 8, -1]


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    rows = np.ones((8, 16), np.float32)
    mean, codes = np.zeros(16, np.float32), encoded(rows, np.zeros(16, np.float32))
    links, out = np.full((8, 4), -1, np.int32), np.empty((4, 4), np.int32)
    starts, nearest = np.zeros(4, np.int32), np.empty(4, np.int32)
    for wrong in (codes[:4], np.empty((8, 16), np.uint8), np.empty((8, 96), np.uint8)):
        with pytest.raises(ValueError, match="encode_for_build"):
            kernels.encode_for_build(rows, mean, False, wrong)

    def find(last: int = 4, n: int = 4, room: int = 8, memory: int = 64) -> None:
        kernels.find_links(
            codes, links, n, 16, codes, 4, starts, 0, last, 1, room, kernels.NO_GAMMA, 4,
            *arrays(n, memory)[:2], np.empty(memory, np.uint64), out, nearest,
        )  # fmt: skip

    find()
    for how in ({"last": 5}, {"n": 5}, {"n": 9}, {"room": 0}, {"memory": 8}):
        with pytest.raises(ValueError, match="find_links"):
            find(**how)
    starts[0] = 4
    with pytest.raises(ValueError, match="start"):
        find()
    one, begins = np.array([8], np.int32), np.array([0, 1])
    with pytest.raises(ValueError, match="target"):
        kernels.link_back(codes, links, 8, 16, one, begins, one, 0, 1, np.empty(9, np.uint64))
