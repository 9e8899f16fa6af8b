"""What tests of many processes share: rows, and the indexers that run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

DIM = 32


def rows(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


def indexers_of(folder: Path) -> list[int]:
    """Return the running indexers of a folder, whichever process started them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"vecdb.engine.indexing.process" in words and os.fsencode(folder) in words:
                found.append(int(entry.name))
    return found
