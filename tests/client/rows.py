"""Rows of the collections that tests of the client use."""

from __future__ import annotations

import numpy as np

DIM = 8


def rows(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
