"""Filters find the same rows by columns as by records: whatever was written, changed, deleted,
flushed, merged and purged since, in every process, with columns lost or damaged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checking import checked
from tests.metadata_world import SEED, World
from tests.model import flush_now, index_now, indexer_of
from tests.places import override
from tests.second_process import SecondProcess
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.testing import opened_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "data", random.Random(SEED))
    yield world
    world.database.close()


def test_random_operations(world: World) -> None:
    draw = world.draw
    for _ in range(3):
        world.write(60)
        flush_now(world.docs)
    index_now(world.docs)
    seen = 0
    for _ in range(25):
        step = draw.choice(
            [
                lambda: world.write(draw.randrange(30)),
                lambda: world.change(draw.randrange(20)),
                lambda: world.change(3),
                lambda: world.delete(draw.randrange(10)),
                lambda: flush_now(world.docs),
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
    world.index()
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
    world.index()
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
    index_now(world.docs)
    world.check(10)


def test_columns_are_made_again_once_many_rows_have_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "changed_rows_min", 30)
    world.index()
    before = opened_of(world.docs).snapshots.snapshot().segments[0].segment
    assert before is not None
    inode = (before.folder / "vectors.npy").stat().st_ino
    world.change(10)
    indexer_of(world.docs).run("pausing")
    assert opened_of(world.docs).snapshots.snapshot().segments[0].number == before.number
    world.change(60)
    world.check(5)
    indexer_of(world.docs).run("pausing")
    after = opened_of(world.docs).snapshots.snapshot().segments[0].segment
    assert after is not None and after.number > before.number
    columns = after.parts.get(COLUMNS)
    assert columns is not None and columns.seq == world.docs.stats().seq
    # All other files are the same ones, under a second name.
    assert (after.folder / "vectors.npy").stat().st_ino == inode
    assert not before.folder.exists()
    world.check(10)
    world.change(5)
    world.reopen()
    world.check(5)
    world.database.close()
    assert checked(world.folder)[0] == []
    world.reopen()
