"""A folder with all kinds of content whose bytes tests damage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tests.model import Model, flush_now, index_now
from vecdb.engine.kv.environment import Environment

DIM = 8
SEED = int(os.environ.get("VECDB_TEST_SEED", "7"))
EVERYTHING = bool(os.environ.get("VECDB_TEST_EVERYTHING"))
"""All places of all files and both damages of all values, for some minutes; else a sample that
the seed chooses."""


def rows(count: int, seed: int = 3, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


QUERIES = rows(4, 11)
WRITES = {"graph": (0, 40, 1), "flat": (36, 10, 2), "flat again": (36, 10, 2), "fresh": (44, 6, 4)}
"""First row, number of rows and seed of the vectors, by request id."""


def batch(tag: str) -> tuple[list[str], np.ndarray, list[dict[str, Any]]]:
    first, count, seed = WRITES[tag]
    return names(count, first), rows(count, seed), [{"tag": tag, "n": i} for i in range(count)]


def fill(docs: Any) -> Model:
    """Write a graph, a flat segment and memtable rows; updates, deletions and metadata versions."""
    model = Model(DIM, "cosine")

    def write(tag: str) -> None:
        docs.upsert(*batch(tag), request_id=tag)
        model.upsert(*batch(tag))

    write("graph")
    flush_now(docs)
    index_now(docs)
    write("flat")
    write("flat again")  # The same vectors: new versions of their records.
    flush_now(docs)
    write("fresh")
    docs.delete(names(2) + names(1, 41) + names(1, 47))
    model.delete(names(2) + names(1, 41) + names(1, 47))
    return model


def values_of(folder: Path, databases: tuple[bytes, ...]) -> list[tuple[bytes, bytes, bytes]]:
    """Return (database, key, value) of all values in an LMDB folder that is closed."""
    environment = Environment(folder, databases, create=False, map_bytes=1 << 28)
    found = []
    with environment.read() as transaction:
        for name in databases:
            with transaction.cursor(environment.database(name)) as cursor:
                found += [(name, bytes(k), bytes(v)) for k, v in cursor]
    environment.close()
    return found


def change_value(
    folder: Path, databases: tuple[bytes, ...], name: bytes, key: bytes, value: bytes
) -> None:
    """Set a value in an LMDB folder that is closed."""
    environment = Environment(folder, databases, create=False, map_bytes=1 << 28)
    environment.transact(
        lambda transaction: transaction.put(key, value, db=environment.database(name))
    )
    environment.close()
