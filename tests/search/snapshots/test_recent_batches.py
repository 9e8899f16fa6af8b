"""Snapshots take the vectors of new rows from the batches that wrote them: the same rows as from
the store, in whatever order rows are written, replaced, deleted, flushed and purged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now
from tests.places import override
from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.store.purging import purge_all
from vecdb.engine.store.rows import RowReader
from vecdb.engine.testing import opened_of

DIM = 16
MANY = 1_100  # Rows of more than 64 KiB, from which a batch is kept.


def fixed(count: int, seed: int) -> np.ndarray:
    """Return vectors that cannot change, like those of a message."""
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return np.frombuffer(vectors.tobytes(), np.float32).reshape(count, DIM)


def names(first: int, count: int) -> list[str]:
    return [f"id-{i}" for i in range(first, first + count)]


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Any]:
    with vecdb.open(tmp_path / "data", indexer=False, seal_bytes=1 << 40) as database:
        yield database.create_collection("docs", DIM, "cosine")


@pytest.fixture
def blocks_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The intervals of rows that were read from the store."""
    read: list[tuple[int, int]] = []
    original = RowReader.iterate_blocks

    def noted(self: RowReader, transaction: Any, first_row: int, end_row: int) -> Any:
        read.append((first_row, end_row))
        return original(self, transaction, first_row, end_row)

    monkeypatch.setattr(RowReader, "iterate_blocks", noted)
    return read


def rows_held(snapshot: Snapshot) -> dict[int, bytes]:
    """Return row → vector of the live rows of the memtable."""
    held = {}
    for chunk in snapshot.memtable.chunks:
        for node in chunk.live_nodes().tolist():
            held[int(chunk.rows[node])] = chunk.buffer[node].tobytes()
    return held


def check_same_as_stored(docs: Any) -> Snapshot:
    """Check that the newest snapshot is the one that a process would create that wrote nothing."""
    opened = opened_of(docs)
    snapshot = opened.snapshots.snapshot()
    from_store = SnapshotManager(opened.store, opened.folder, opened.id).snapshot()
    assert snapshot.state == from_store.state
    assert rows_held(snapshot) == rows_held(from_store)
    assert snapshot.live_count == from_store.live_count == docs.count()
    return snapshot


def test_new_rows_are_taken_from_the_batches_that_wrote_them(
    docs: Any, blocks_read: list[tuple[int, int]]
) -> None:
    docs.upsert(names(0, 3), fixed(3, 0))
    docs.search(fixed(1, 1)[0], 1)
    blocks_read.clear()
    docs.upsert(names(3, MANY), fixed(MANY, 2))
    docs.upsert(["small"], fixed(1, 3))
    docs.upsert(names(3 + MANY, MANY), fixed(MANY, 4))
    docs.search(fixed(1, 1)[0], 1)
    assert blocks_read == [(3 + MANY, 4 + MANY)]
    check_same_as_stored(docs)


@pytest.mark.parametrize("seed", range(4))
def test_snapshots_are_those_of_a_process_that_wrote_nothing(docs: Any, seed: int) -> None:
    chance, given = random.Random(seed), {}
    taken = 0
    for step in range(40):
        action, first = chance.random(), chance.randrange(0, 3 * MANY)
        if action < 0.5:
            count = chance.choice([1, MANY, MANY + 7])
            vectors, ids = fixed(count, 1_000 * seed + step), names(first, count)
            if chance.random() < 0.3 and ids[0] in given:  # A row that stays as it is.
                kept = np.concatenate([given[ids[0]][None], vectors[1:]])
                vectors = np.frombuffer(kept.tobytes(), np.float32).reshape(count, DIM)
            existing = chance.choice(["replace", "replace", "skip"])
            live = set() if existing == "replace" else set(ids) - set(docs.get(ids).missing)
            docs.upsert(ids, vectors, on_existing=existing)
            given |= {name: v for name, v in zip(ids, vectors, strict=True) if name not in live}
        elif action < 0.7:
            docs.delete(names(first, chance.choice([1, 500])))
        elif action < 0.8:
            flush_now(docs)
        elif action < 0.9:
            purge_all(opened_of(docs).store, grace_s=0.0)
        else:
            taken += 1
            check_same_as_stored(docs)
    assert taken
    check_same_as_stored(docs)


def test_rows_purged_before_the_next_snapshot_are_not_in_it(docs: Any) -> None:
    docs.upsert(names(0, 2), fixed(2, 0))
    opened_of(docs).snapshots.snapshot()
    docs.upsert(names(2, MANY), fixed(MANY, 1))
    docs.delete(names(2, MANY))
    assert purge_all(opened_of(docs).store, grace_s=0.0) == MANY
    assert rows_held(check_same_as_stored(docs)).keys() == {0, 1}


def test_arrays_that_their_owner_may_change_are_not_kept(docs: Any) -> None:
    opened_of(docs).snapshots.snapshot()
    vectors = fixed(MANY, 0).copy()
    docs.upsert(names(0, MANY), vectors)
    vectors[:] = 0
    check_same_as_stored(docs)
    view = vectors[:]
    view.flags.writeable = False
    vectors[:] = 1
    docs.upsert(names(0, MANY), view)
    vectors[:] = 0
    check_same_as_stored(docs)


def test_refused_and_repeated_batches_are_not_kept(
    docs: Any, blocks_read: list[tuple[int, int]]
) -> None:
    opened_of(docs).snapshots.snapshot()
    docs.upsert(names(0, MANY), fixed(MANY, 0), request_id="first")
    check_same_as_stored(docs)
    docs.upsert(names(0, MANY), fixed(MANY, 0), request_id="first")
    with pytest.raises(vecdb.ConditionFailedError):
        docs.upsert(names(0, MANY), fixed(MANY, 1), insert_only=True)
    docs.upsert(["other"], fixed(1, 2))
    blocks_read.clear()
    opened_of(docs).snapshots.snapshot()
    assert blocks_read == [(MANY, MANY + 1)]
    check_same_as_stored(docs)


def test_batches_are_kept_within_a_bound_and_only_while_searches_take_them(
    docs: Any, blocks_read: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "recent_batches_bytes", 4 * 64 * MANY)
    docs.upsert(names(0, MANY), fixed(MANY, 0))  # No search yet.
    opened_of(docs).snapshots.snapshot()
    assert blocks_read == [(0, MANY)]
    for part in range(1, 6):  # The fifth is too much, and so nothing is kept any more.
        docs.upsert(names(part * MANY, MANY), fixed(MANY, part))
    blocks_read.clear()
    opened_of(docs).snapshots.snapshot()
    assert blocks_read == [(MANY, 6 * MANY)]
    docs.upsert(names(6 * MANY, MANY), fixed(MANY, 6))
    blocks_read.clear()
    check = opened_of(docs).snapshots.snapshot()
    assert not blocks_read and len(rows_held(check)) == 7 * MANY
