"""A collection of random rows with random metadata, in all states that rows can be in, and a model
of it: filters have to find what their predicate finds in the model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from tests.filter_model import IDS, random_filter, random_metadata
from tests.model import flush_now, index_now
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.store.purging import purge_all
from vecdb.engine.testing import opened_of
from vecdb.filters import parse_filter

__all__ = ["SEED", "World"]

DIM = 4
SEED = random.SystemRandom().randrange(2**32)


class World:
    """A collection, and what it should hold."""

    def __init__(
        self, folder: Path, draw: random.Random, index_fields: list[str] | None = None
    ) -> None:
        self.folder, self.draw = folder, draw
        self.database = vecdb.open(folder, indexer=False)
        self.docs: Any = self.database.create_collection(
            "docs", DIM, "euclidean", index_fields=index_fields
        )
        self.rows: dict[str, tuple[list[float], dict[str, Any]]] = {}

    def reopen(self) -> None:
        self.database.close()
        self.database = vecdb.open(self.folder, indexer=False)
        self.docs = self.database.collection("docs")

    def _metadata(self) -> dict[str, Any]:
        return random_metadata(self.draw) if self.draw.random() < 0.9 else {}

    def write(self, count: int) -> None:
        names = [f"{self.draw.choice(IDS)}{self.draw.randrange(300)}" for _ in range(count)]
        self._upsert({name: [self.draw.gauss(0, 1) for _ in range(DIM)] for name in names})

    def change(self, count: int) -> None:
        """Give rows other metadata, with the same vectors."""
        names = self.draw.sample(sorted(self.rows), min(count, len(self.rows)))
        self._upsert({name: self.rows[name][0] for name in names})

    def _upsert(self, vectors: dict[str, list[float]]) -> None:
        if vectors:
            metadata = [self._metadata() for _ in vectors]
            self.docs.upsert(list(vectors), np.array(list(vectors.values())), metadata)
            for (name, vector), entry in zip(vectors.items(), metadata, strict=True):
                self.rows[name] = vector, entry

    def delete(self, count: int) -> None:
        names = self.draw.sample(sorted(self.rows), min(count, len(self.rows)))
        if names:
            self.docs.delete(names)
        for name in names:
            del self.rows[name]

    def purge(self) -> None:
        purge_all(opened_of(self.docs).store, grace_s=0.0)

    def with_columns(self) -> int:
        """The number of segments that have columns."""
        segments = opened_of(self.docs).snapshots.snapshot().segments
        return sum(segment.parts.has(COLUMNS) for segment in segments)

    def check(self, filters: int, collection: Any = None) -> None:
        for _ in range(filters):
            condition = random_filter(self.draw)
            found = parse_filter(condition)
            expected = {id for id, (_, row) in self.rows.items() if found.matches(id, row)}
            call = self.docs.search if collection is None else collection
            hits = call(np.zeros(DIM), k=1_000, filter=condition, exact=True)
            assert set(hits.ids) == expected, (SEED, condition)
            assert len(hits.ids) == len(expected), (SEED, condition)
            if collection is None:
                assert self.docs.count(filter=condition) == len(expected), (SEED, condition)

    def index(self, rows: int = 150) -> None:
        """Write rows into a graph segment with columns."""
        self.write(rows)
        flush_now(self.docs)
        index_now(self.docs)
