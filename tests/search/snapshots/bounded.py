"""Databases whose snapshots may hold few rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb.engine.search.snapshots.memtable import Memtable
from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.testing import opened_of

DIM = 16
ROW_BYTES = Memtable.row_bytes(DIM)
MEBIBYTE = 1024**2


def rows(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"id-{i}" for i in range(first, first + count)]


def opened(path: Path, fresh_rows: int = 100, **options: Any) -> Any:
    """Open a database without background work, whose snapshots hold few memtable rows."""
    chosen = {"fresh_bytes_max": int(fresh_rows * ROW_BYTES) + 1, **options}
    return vecdb.open(path, indexer=False, seal_bytes=1 << 40, **chosen)


def snapshot_of(docs: Any) -> Snapshot:
    snapshot: Snapshot = opened_of(docs).snapshots.snapshot()
    return snapshot
