"""Columns in memory of rows in no graph: never stale, whatever was written since.

What matches is what a dict of the metadata says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.filter_model import holds
from tests.model import flush_now
from tests.second_process import SecondProcess
from vecdb.engine.search.filters.recent_columns import RecentColumns
from vecdb.engine.store.leases import leased
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.weighted_lru import WeightedLru
from vecdb.engine.testing import opened_of
from vecdb.filters import parse_filter

DIM = 8


class Filled:
    """A collection, and the metadata that it holds."""

    def __init__(self, docs: Any) -> None:
        self.docs, self.rows = docs, {}
        self.rng = np.random.default_rng(4)

    def add(self, first: int, count: int) -> None:
        ids = [f"r{i}" for i in range(first, first + count)]
        some = [{"n": i, "lang": ("en", "de")[i % 2], "tags": [i % 5, i % 7]} for i in range(
            first, first + count)]  # fmt: skip
        self.docs.upsert(ids, self.rng.normal(size=(count, DIM)), some)
        self.rows.update(zip(ids, some, strict=True))

    def change(self, ids: list[str], patch: dict[str, Any]) -> None:
        self.docs.set_metadata(ids, patch)
        for each in ids:
            self.rows[each] = self.rows[each] | patch

    def delete(self, ids: list[str]) -> None:
        self.docs.delete(ids)
        for each in ids:
            del self.rows[each]

    def check(self, places: tuple[int, ...] = (0, 100, 700, 1_500, 5_000)) -> None:
        query = self.rng.normal(size=DIM)
        conditions: list[dict[str, Any]] = [{"tags": {"$contains_all": [1, 2]}}]
        for place in places:
            conditions += [
                {"n": {"$gte": place, "$lt": place + 150}},
                {"n": place + 3},
                {"lang": "fr", "n": {"$gte": place}},
                {"n": {"$not": {"$gte": place}}},
            ]
        for given in conditions:
            expected = {name for name, row in self.rows.items() if holds(given, name, row)}
            for exact in (True, False):
                hits = self.docs.search(query, k=8_000, filter=given, exact=exact)
                assert set(hits.ids) == expected, given
            assert self.docs.count(filter=given) == len(expected), given
        named = {f"r{i}" for i in range(100, 200)} | {f"r{i}" for i in (1, 10)}
        by_id = self.docs.search(query, k=8_000, filter={"$id": {"$prefix": "r1"}})
        assert named & set(self.rows) <= set(by_id.ids)
        assert all(name.startswith("r1") for name in by_id.ids)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with vecdb.open(tmp_path, indexer=False) as database:
        yield Filled(database.create_collection("docs", DIM))


def test_memtable_and_flat_segments_beside_changes(filled: Filled) -> None:
    filled.add(0, 900)
    filled.check()
    flush_now(filled.docs)
    filled.check()
    filled.add(900, 700)
    filled.check()
    filled.change(["r5", "r850", "r910", "r1599"], {"lang": "fr"})
    filled.check()
    filled.change([f"r{i}" for i in range(200, 500)], {"n": 701})
    filled.check()
    filled.delete([f"r{i}" for i in range(0, 1_600, 9)])
    filled.check()
    filled.add(3_000, 30)
    filled.check()
    filled.add(100, 60)
    flush_now(filled.docs)
    filled.check()


def test_a_growing_memtable_is_in_few_blocks(filled: Filled) -> None:
    for first in range(0, 3_000, 200):
        filled.add(first, 200)
        filled.check((first - 100,))
        filled.change([f"r{first + 7}"], {"lang": "fr"})
    opened = opened_of(filled.docs)
    blocks = opened.searcher.matcher.recent.block_sizes(opened.snapshots.snapshot().units[-1])
    assert 1 <= len(blocks) <= 6
    assert sum(blocks) > 2_400


def test_another_process_sees_changes_at_once(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        filled = Filled(database.create_collection("docs", DIM))
        filled.add(0, 800)
        filled.check()
        with SecondProcess() as other:
            other.open(tmp_path)
            other.take("docs")
            assert other.call("count", filter={"lang": "fr"}) == 0
            filled.change([f"r{i}" for i in range(40)], {"lang": "fr"})
            assert other.call("count", filter={"lang": "fr"}) == 40
            other.call("set_metadata", ["r100", "r101"], {"lang": "fr"})
            for name in ("r100", "r101"):
                filled.rows[name] = filled.rows[name] | {"lang": "fr"}
            filled.check()


def test_an_earlier_state_is_not_decided_by_later_columns(filled: Filled) -> None:
    filled.add(0, 600)
    opened, deadline = opened_of(filled.docs), Deadline()
    asked = parse_filter({"lang": "fr"})
    with leased(opened.store):  # Else the records of the earlier state may be purged.
        earlier = opened.snapshots.snapshot()
        filled.change([f"r{i}" for i in range(300)], {"lang": "fr"})
        later = opened.snapshots.snapshot()
        for snapshot, expected in ((later, 300), (earlier, 0), (later, 300)):
            [unit] = snapshot.units
            found = opened.searcher.matcher.selection_of(snapshot, unit, asked, deadline)
            assert found.count == expected
        recent = RecentColumns(opened.store)
        for snapshot, counts in ((later, (300, 0)), (earlier, (0, 600))):
            decided = recent.decided(snapshot.units[0], snapshot.state.seq, asked, deadline)
            assert decided is not None
            assert (decided.certain.count, decided.undecided.count) == counts


def test_the_budget_of_snapshots_bounds_them(filled: Filled) -> None:
    filled.add(0, 600)
    opened, budget = opened_of(filled.docs), WeightedLru(10**9)
    recent = RecentColumns(opened.store, budget)
    snapshot, asked = opened.snapshots.snapshot(), parse_filter({"lang": "en"})
    [unit] = snapshot.units
    assert recent.decided(unit, snapshot.state.seq, asked, Deadline()) is not None
    assert budget.weight > 600 * 8
    assert recent.block_sizes(unit) == [600]
    assert recent.evict()
    assert budget.weight == 0
    assert recent.block_sizes(unit) == []
    found = recent.decided(unit, snapshot.state.seq, asked, Deadline())
    assert found is not None
    assert found.certain.count == 300


def test_few_rows_are_left_to_their_records(filled: Filled) -> None:
    filled.add(0, 100)
    opened = opened_of(filled.docs)
    snapshot = opened.snapshots.snapshot()
    recent = RecentColumns(opened.store)
    asked = parse_filter({"lang": "en"})
    assert recent.decided(snapshot.units[0], snapshot.state.seq, asked, Deadline()) is None
    filled.check((0, 50))
