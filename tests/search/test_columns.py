"""Filters find the same rows by columns as by records: whatever was written, changed, deleted,
flushed, merged and purged since, in every process, with columns lost or damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.filter_model import IDS, random_filter, random_metadata
from tests.model import index_now, seal_now
from tests.second_process import SecondProcess
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.store.purging import purge_all
from vecdb.engine.testing import opened_of
from vecdb.filters import parse_filter

DIM = 4
SEED = random.SystemRandom().randrange(2**32)


class World:
    """A collection, and what it should hold."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.database = vecdb.open(folder, indexer=False)
        self.docs: Any = self.database.create_collection("docs", DIM, "euclidean")
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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "data", random.Random(SEED))
    yield world
    world.database.close()


def test_random_operations(world: World) -> None:
    draw = world.draw
    for _ in range(3):
        world.write(60)
        seal_now(world.docs)
    index_now(world.docs)
    seen = 0
    for _ in range(25):
        step = draw.choice(
            [
                lambda: world.write(draw.randrange(30)),
                lambda: world.change(draw.randrange(20)),
                lambda: world.change(3),
                lambda: world.delete(draw.randrange(10)),
                lambda: seal_now(world.docs),
                lambda: index_now(world.docs, 200),
                world.purge,
                world.reopen,
            ]
        )
        step()
        world.check(4)
        seen += world.with_columns()
    assert seen


def test_changed_rows_are_seen_in_another_process(world: World) -> None:
    world.write(150)
    seal_now(world.docs)
    index_now(world.docs)
    with SecondProcess() as second:
        second.open(world.folder)
        second.take("docs")

        def search(*arguments: Any, **options: Any) -> Any:
            return second.call("search", *arguments, **options)

        world.check(5, search)
        for _ in range(4):
            world.change(20)
            world.check(5, search)
            world.delete(3)
            world.check(5)
            world.purge()
            world.check(5, search)
        assert world.with_columns() == 1
        second.close()


@pytest.mark.parametrize("how", ["removed", "cut", "bit"])
def test_lost_or_damaged_columns_are_done_without_and_rebuilt(world: World, how: str) -> None:
    world.write(150)
    seal_now(world.docs)
    index_now(world.docs)
    segment = opened_of(world.docs).snapshots.snapshot().segments[0].segment
    assert segment is not None and segment.parts.has(COLUMNS)
    path = segment.folder / "columns.npy"
    world.database.close()
    raw = bytearray(path.read_bytes())
    path.unlink()
    if how == "cut":
        path.write_bytes(raw[:-1])
    elif how == "bit":
        raw[-len(raw) // 3] ^= 4
        path.write_bytes(raw)
    world.reopen()
    world.check(10)
    world.docs.verify() if hasattr(world.docs, "verify") else None
    index_now(world.docs)
    world.check(10)


def test_a_segment_of_an_earlier_version_gets_columns_by_optimize(world: World) -> None:
    world.write(150)
    seal_now(world.docs)
    index_now(world.docs)
    segment = opened_of(world.docs).snapshots.snapshot().segments[0].segment
    assert segment is not None
    manifest = json.loads((segment.folder / "manifest.json").read_bytes())
    assert manifest["optional"] == {"columns": ["columns"]}
