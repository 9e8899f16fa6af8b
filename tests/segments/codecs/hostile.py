"""Rows that are hard on sketches: no variance, huge and tiny lengths, odd widths, duplicates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["CASES", "composed"]

Rows = npt.NDArray[np.float32]
Chance = np.random.Generator


def normal(chance: Chance, count: int, dim: int) -> Rows:
    return chance.standard_normal((count, dim)).astype(np.float32)


def low_rank(chance: Chance, count: int, dim: int) -> Rows:
    rank = min(12, dim)
    raw = normal(chance, count, rank) @ normal(chance, rank, dim)
    return raw + normal(chance, count, dim) * np.float32(0.05)


def all_equal(chance: Chance, count: int, dim: int) -> Rows:
    return np.repeat(normal(chance, 1, dim), count, axis=0)


def all_but_one_equal(chance: Chance, count: int, dim: int) -> Rows:
    raw = all_equal(chance, count, dim)
    raw[count // 3] = normal(chance, 1, dim)
    return raw


def zeros_but_a_few(chance: Chance, count: int, dim: int) -> Rows:
    raw = np.zeros((count, dim), np.float32)
    raw[:9] = normal(chance, 9, dim)
    return raw


def constant_component(chance: Chance, count: int, dim: int) -> Rows:
    raw = low_rank(chance, count, dim)
    raw[:, 0] = 1e6
    return raw


def denormal_components(chance: Chance, count: int, dim: int) -> Rows:
    raw = low_rank(chance, count, dim)
    raw[:, dim // 2 :] *= np.float32(1e-40)
    return raw


def tiny(chance: Chance, count: int, dim: int) -> Rows:
    return low_rank(chance, count, dim) * np.float32(1e-14)


def huge(chance: Chance, count: int, dim: int) -> Rows:
    raw = low_rank(chance, count, dim)
    return raw * np.float32(4e18 / np.linalg.norm(raw, axis=1).max())


def lengths_of_every_size(chance: Chance, count: int, dim: int) -> Rows:
    """From 1e-14 to 1e18, and 0."""
    raw = low_rank(chance, count, dim)
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    sizes = 10 ** chance.uniform(-14, 18, (count, 1))
    sizes[5] = 0
    return (raw * sizes).astype(np.float32)


def one_hot(chance: Chance, count: int, dim: int) -> Rows:
    raw = np.zeros((count, dim), np.float32)
    raw[np.arange(count), chance.integers(0, dim, count)] = 1
    return raw


def each_ten_times(chance: Chance, count: int, dim: int) -> Rows:
    return np.repeat(low_rank(chance, -(-count // 10), dim), 10, axis=0)[:count]


def clusters(chance: Chance, count: int, dim: int) -> Rows:
    centres = normal(chance, 5, dim) * np.float32(100)
    return centres[chance.integers(0, 5, count)] + normal(chance, count, dim)


def outliers(chance: Chance, count: int, dim: int) -> Rows:
    """One row in fifty lies in directions in which the others hardly vary."""
    raw = low_rank(chance, count, dim)
    raw[::50] = np.float32(3) * one_hot(chance, count, dim)[::50]
    return raw


CASES: dict[str, Callable[[Chance, int, int], Rows]] = {
    case.__name__: case
    for case in (
        normal, low_rank, all_equal, all_but_one_equal, zeros_but_a_few, constant_component,
        denormal_components, tiny, huge, lengths_of_every_size, one_hot, each_ten_times, clusters,
        outliers,
    )
}  # fmt: skip


def composed(chance: Chance, count: int, dim: int) -> Rows:
    """Return rows of two or three cases, shuffled."""
    names = chance.choice(list(CASES), chance.integers(2, 4), replace=False)
    raw = np.concatenate([CASES[name](chance, -(-count // len(names)), dim) for name in names])
    return np.ascontiguousarray(raw[chance.permutation(len(raw))[:count]])
