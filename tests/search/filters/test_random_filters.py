"""Random filters on random metadata through the whole engine and over gRPC.

Searches, counts, lists, scrolls, deletes and facets of each filter have to agree.

The rows are in graphs, flat segments and the memtable; some are deleted, the metadata of some has
changed since. What a filter matches is what the plain evaluator of the tests says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.filter_model import PATHS, holds, random_filter, random_metadata, random_scalars
from tests.model import flush_now, index_now
from tests.serving import running_server

SEED = random.SystemRandom().randrange(2**32)
ROWS, DIM = 240, 4
OPTIONS = {"indexer": False, "indexer_outlives_parent": False}
"""Those of a server, so that it may open the folder in this process too."""


class Rows:
    """A collection, and the metadata that it holds."""

    def __init__(self, database: Any, draw: random.Random) -> None:
        self.draw, self.scalars = draw, random_scalars(draw)
        self.docs = database.create_collection("docs", DIM)
        self.vectors = np.random.default_rng(draw.randrange(2**32)).normal(size=(ROWS, DIM))
        self.metadata: dict[str, dict[str, Any]] = {}
        names = [draw.choice(["a/", "b/", "é", ""]) + str(number) for number in range(ROWS)]
        for part, rows in enumerate(np.split(np.arange(ROWS), 4)):
            self.write([(names[row], row) for row in rows])
            if part < 3:
                flush_now(self.docs)
            if part < 2:
                index_now(self.docs, ROWS)
        self.rows = dict(zip(names, range(ROWS), strict=True))
        self.change()

    def write(self, rows: list[tuple[str, int]]) -> None:
        some = [random_metadata(self.draw, self.scalars) for _ in rows]
        ids = [name for name, _ in rows]
        self.docs.upsert(ids, self.vectors[[row for _, row in rows]], some)
        self.metadata.update(zip(ids, some, strict=True))

    def change(self) -> None:
        """Delete some rows, and give some other metadata, with their vectors or new ones."""
        gone = self.draw.sample(sorted(self.metadata), 12)
        self.docs.delete(gone)
        for name in gone:
            del self.metadata[name]
        for name in self.draw.sample(sorted(self.metadata), 12):
            self.write([(name, self.rows[name])])
        for name in self.draw.sample(sorted(self.metadata), 6):
            self.write([(name, self.draw.randrange(ROWS))])

    def matching(self, condition: dict[str, Any]) -> set[str]:
        return {name for name, row in self.metadata.items() if holds(condition, name, row)}

    def check(self, docs: Any, count: int) -> None:
        for _ in range(count):
            condition = random_filter(self.draw, self.scalars)
            expected = self.matching(condition)
            note = (SEED, condition)
            query = self.vectors[self.draw.randrange(ROWS)]
            for exact in (True, False):
                hits = docs.search(query, k=ROWS, filter=condition, exact=exact)
                assert set(hits.ids) == expected, note
                assert len(hits) == len(expected) == hits.info.matches, note
            assert docs.count(filter=condition) == len(expected), note
            assert docs.delete(filter=condition, dry_run=True).count == len(expected), note
            assert docs.list_ids(filter=condition) == sorted(expected, key=str.encode), note
            pages = list(docs.scroll(batch=50, filter=condition))
            assert sorted(name for page in pages for name in page.ids) == sorted(expected), note
            path = self.draw.choice(PATHS)
            facet = docs.facet(path, filter=condition)
            assert facet.rows == len(expected), note
            for value, rows in facet.values:
                if not (isinstance(value, int) and abs(value) > 2**62):
                    both = {"$and": [condition, {path: value}]}
                    assert rows == len(self.matching(both)), (*note, path, value)
            few = docs.search(query, k=3, filter=condition)
            assert len(few) == min(3, len(expected)) and set(few.ids) <= expected, note


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    with vecdb.open(tmp_path / "data", **OPTIONS) as database:
        yield Rows(database, random.Random(SEED))


def test_random_filters_match_what_the_plain_evaluator_matches(rows: Rows, tmp_path: Path) -> None:
    rows.check(rows.docs, 20)
    rows.change()
    rows.check(rows.docs, 10)
    with (
        running_server(tmp_path / "data", indexer=False) as address,
        vecdb.connect(address) as client,
    ):
        rows.check(client.collection("docs"), 10)
