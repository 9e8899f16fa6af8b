"""The memtable against a dict: rows added, deleted and flushed, in chunks of few rows."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.places import override
from vecdb.engine.search.snapshots.memtable import Memtable

WIDTH = 16
CHUNK_ROWS = 64


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    override(monkeypatch, "memtable_chunk_bytes", CHUNK_ROWS * 4 * WIDTH)


def vector_of(row: int) -> np.ndarray:
    return np.full(WIDTH, row, np.float32)


def added(memtable: Memtable, count: int, step: int = 1) -> Memtable:
    rows = np.arange(memtable.end_row, memtable.end_row + count * step, step)
    raw = np.repeat(rows.astype(np.float32)[:, None], WIDTH, axis=1)
    return memtable.appended(rows, raw, normalise=False)


def live_rows(memtable: Memtable) -> list[int]:
    """Return the live rows, and check that their vectors are theirs."""
    found: list[int] = []
    for chunk in memtable.chunks:
        nodes = chunk.live_nodes()
        assert len(nodes) == chunk.live_count
        rows = chunk.rows[nodes]
        assert (chunk.buffer[nodes] == rows[:, None]).all()
        found += rows.tolist()
    assert len(found) == memtable.live_count
    return found


@pytest.mark.parametrize("rows_max", [40, 100, 1000])
def test_rows_added_deleted_and_flushed_at_random_are_held(rows_max: int) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    memtable, model = Memtable.empty(5, WIDTH, rows_max), [0] * 0
    earlier: list[tuple[Memtable, list[int]]] = []
    for _ in range(300):
        action = chance.random()
        if action < 0.5:
            end = memtable.end_row
            count, step = chance.randrange(1, 90), chance.choice([1, 1, 3])
            memtable = added(memtable, count, step)
            new = [row for row in range(end, end + count * step, step) if row < memtable.end_row]
            model += new
            # Rows are left out only if there is no room, and then nothing is worth a rewrite.
            assert len(new) == count or not memtable.has_room
        elif action < 0.9 and model:
            gone = sorted(chance.sample(model, chance.randrange(1, len(model) + 1)))
            memtable = memtable.with_tombstones(np.array([*gone, 10**9], np.int64))
            model = sorted(set(model) - set(gone))
        else:
            first = chance.randrange(memtable.first_row, memtable.end_row + 5)
            memtable = memtable.from_row(first)
            model = [row for row in model if row >= first]
            assert memtable.first_row == first <= memtable.end_row
        assert live_rows(memtable) == model
        assert memtable.capacity <= rows_max
        assert all(chunk.capacity <= CHUNK_ROWS for chunk in memtable.chunks)
        earlier.append((memtable, list(model)))
        if len(earlier) > 20:  # What snapshots still use stays as it was.
            old, held = earlier.pop(0)
            assert live_rows(old) == held


def test_adding_rows_copies_no_full_chunk() -> None:
    memtable = added(Memtable.empty(0, WIDTH, 10_000), 5 * CHUNK_ROWS + 1)
    before = [chunk.buffer.ctypes.data for chunk in memtable.chunks]
    later = added(memtable, 5 * CHUNK_ROWS).from_row(2 * CHUNK_ROWS)
    assert [chunk.buffer.ctypes.data for chunk in later.chunks][:4] == before[2:]
    assert live_rows(later) == list(range(2 * CHUNK_ROWS, 10 * CHUNK_ROWS + 1))


def test_deleted_rows_are_rewritten_before_the_memtable_is_full() -> None:
    memtable = added(Memtable.empty(0, WIDTH, 200), 200)
    assert not memtable.has_room and added(memtable, 1) is memtable
    kept = np.arange(0, 200, 2)
    memtable = memtable.with_tombstones(kept + 1)
    assert memtable.has_room
    memtable = added(memtable, 100)
    assert live_rows(memtable) == [*kept.tolist(), *range(200, 300)]
    assert memtable.capacity == 200
