"""A collection whose rows are replaced, and what its store holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.model import Model
from vecdb.engine.testing import opened_of

DIM = 16


def rows(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"id-{i}" for i in range(first, first + count)]


def entries(docs: Any, database: bytes) -> int:
    environment = opened_of(docs).store.environment
    with environment.read() as transaction:
        return int(transaction.stat(environment.database(database))["entries"])


def held(docs: Any) -> set[int]:
    """Return the rows whose vectors are in the store."""
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        every = np.arange(store.read_counters(transaction).next_row)
        return {int(r) for _, _, own in store.rows.blocks_holding(transaction, every) for r in own}


def check(docs: Any, model: Model) -> None:
    """Check that every way of reading agrees with the model."""
    assert docs.count() == len(model.rows)
    wanted = sorted(model.rows)
    for start in range(0, len(wanted), 5_000):
        part = wanted[start : start + 5_000]
        model.check_records(docs.get(part), part)
    seen = [name for page in docs.scroll() for name in page.ids]
    assert sorted(seen) == wanted
    for query in rows(3, 77):
        model.check_hits(docs.search(query, k=20, exact=True), query, 20, exact=True)
        model.check_hits(docs.search(query, k=20), query, 20, exact=False)


def batch_rows(count: int) -> int:
    return min(500, count // 10)


def replaced(docs: Any, model: Model, count: int, seed: int) -> None:
    """Replace all rows, in another order, in ten batches or more."""
    order = np.random.default_rng(seed).permutation(count)
    vectors = rows(count, seed)
    size = batch_rows(count)
    for start in range(0, count, size):
        ids = [f"id-{i}" for i in order[start : start + size]]
        part = vectors[start : start + size]
        metadata = [{"n": seed}] * len(ids)
        docs.upsert(ids, part, metadata)
        model.upsert(ids, part, metadata)
