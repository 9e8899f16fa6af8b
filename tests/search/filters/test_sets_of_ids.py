"""Searches within a set of ids: their rows are looked up in the store, as of the snapshot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.model import flush_now, index_now
from vecdb.engine.search.filters.id_rows import ids_in, rows_with_ids
from vecdb.engine.search.filters.matching import matches_of
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import opened_of
from vecdb.filters import parse_filter

ROWS = 1_200


@pytest.fixture
def docs(database: Any) -> Any:
    """Rows on a line, in a graph, a flat segment and the memtable."""
    docs = database.create_collection("docs", 2, "euclidean")

    def write(first: int, end: int) -> None:
        places = np.arange(first, end)
        vectors = np.stack([places, np.zeros_like(places)], axis=1).astype(np.float32)
        docs.upsert([f"r{i}" for i in places], vectors, [{"even": int(i) % 2 == 0} for i in places])

    write(0, 1_000)
    flush_now(docs)
    index_now(docs)
    write(1_000, 1_100)
    flush_now(docs)
    write(1_100, ROWS)
    docs.delete([f"r{i}" for i in range(0, ROWS, 7)])
    return docs


def wanted_ids(step: int) -> list[str]:
    return ["unknown", *(f"r{i}" for i in range(0, ROWS, step))]


@pytest.mark.parametrize("step", [1, 3, 60])
def test_hits_are_the_nearest_of_the_set(docs: Any, step: int) -> None:
    live = [i for i in range(0, ROWS, step) if i % 7]
    query = [ROWS * 0.7, 0]
    nearest = sorted(live, key=lambda i: (abs(i - query[0]), i))
    hits = docs.search(query, 10, filter={"$id": {"$in": wanted_ids(step)}})
    assert hits.ids == [f"r{i}" for i in nearest[:10]]
    assert hits.info.matches == len(live)
    even = [i for i in nearest if i % 2 == 0]
    hits = docs.search(query, 10, filter={"$id": {"$in": wanted_ids(step)}, "even": True})
    assert hits.ids == [f"r{i}" for i in even[:10]]
    assert hits.info.matches == len(even)


def test_a_snapshot_keeps_its_rows_while_ids_are_written(docs: Any) -> None:
    opened = opened_of(docs)
    snapshot = opened.snapshots.snapshot()
    filter = parse_filter({"$id": {"$in": wanted_ids(60)}})
    wanted = ids_in(filter.root)
    assert wanted is not None
    # Written after the snapshot: one is replaced, one is deleted, one is new.
    docs.upsert(["r60", "unknown"], [[5, 5], [6, 6]])
    docs.delete(["r120"])
    found = rows_with_ids(opened.store, snapshot, wanted, Deadline())
    assert not found.is_complete
    newest = opened.snapshots.snapshot()
    expected = {i for i in range(0, ROWS, 60) if i % 7}
    for some, rows in ((snapshot, expected), (newest, expected - {60, 120} | {ROWS, ROWS + 1})):
        got: set[int] = set()
        for unit in some.units:
            marks = matches_of(opened.store, some, unit, filter, Deadline()).marks(unit.count)
            if len(unit.delete_bitmap):
                deleted = np.unpackbits(unit.delete_bitmap, count=unit.count, bitorder="little")
                marks = marks & (deleted == 0)
            got |= set(unit.rows[: unit.count][marks].tolist())
        assert got == rows
    assert rows_with_ids(opened.store, newest, wanted, Deadline()).is_complete
    # What was found for the newest state is not taken for that of an older one.
    for some, count in ((newest, len(expected)), (snapshot, len(expected))):
        counts = [
            opened.searcher.matcher.selection_of(some, unit, filter, Deadline()).count
            for unit in some.units
        ]
        assert sum(counts) == count
