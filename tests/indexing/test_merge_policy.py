"""The merge policy, a pure function of the segments, and its effect in a database."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import vecdb
from tests.waiting import eventually
from vecdb.engine.indexing.merge_policy import FLAT_SEGMENTS_MAX, GROUP_SEGMENTS_MAX, Pace, plan
from vecdb.engine.search.snapshots.snapshot import SegmentSnapshot
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.segment import RowArrays

ROWS_MAX = 1_000_000
TIER_ROWS = 4_000


def segments(*kinds: tuple[str, int] | tuple[str, int, int]) -> tuple[SegmentSnapshot, ...]:
    """Return neighbouring segments of: "graph" or "flat", rows, and deleted rows among them."""
    result: list[SegmentSnapshot] = []
    first = 0
    for number, (kind, rows, *deleted) in enumerate(kinds):
        content = RowArrays(
            np.zeros((rows, 0), np.float32),
            np.arange(first, first + rows),
            np.zeros(rows + 1, np.int64),
            np.zeros(0, np.uint8),
        )
        parts = content.parts
        if kind == "graph":
            parts.put(GRAPH, cast(Any, object()))
        bits = np.zeros(0, np.uint8)
        result.append(
            SegmentSnapshot(number, first, first + rows, content, parts, bits, sum(deleted), None)
        )
        first += rows
    return tuple(result)


def planned(*kinds: Any, pace: Pace = "writing", rows_max: int = ROWS_MAX) -> list[int] | None:
    group = plan(segments(*kinds), rows_max, pace=pace)
    return None if group is None else [segment.number for segment in group]


def test_single_clean_graph_needs_no_merge() -> None:
    assert planned() is None
    assert planned(("graph", 1000)) is None
    assert planned(("graph", 1000), pace="optimizing") is None
    assert planned(("graph", 1000, 100), pace="optimizing") is None


def test_flat_segments_without_a_graph_are_merged() -> None:
    assert planned(("flat", 1)) == [0]
    assert planned(("flat", 10), ("flat", 5000)) == [0, 1]


def test_graph_with_many_deleted_rows_is_rebuilt() -> None:
    assert planned(("graph", 1000, 300)) == [0]


def test_an_eighth_of_new_rows_extends_the_graph() -> None:
    assert planned(("graph", 80_000), ("flat", 10_000)) == [0, 1]
    assert planned(("graph", 80_000), ("graph", 5_000), ("flat", 5_000)) == [0, 1, 2]


def test_less_than_an_eighth_of_new_rows_gets_its_own_graph() -> None:
    few = TIER_ROWS - 1
    assert planned(("graph", 80_000), ("flat", few)) is None
    assert planned(("graph", 80_000), ("flat", few), pace="optimizing") == [0, 1]
    assert planned(("graph", 80_000), ("flat", few), ("flat", 1)) == [1, 2]
    assert planned(("graph", 80_000), ("graph", TIER_ROWS)) is None


def test_pause_indexes_all_rows_without_rewriting_large_graphs() -> None:
    assert planned(("graph", 80_000), ("flat", 2_500), pace="pausing") == [0, 1]
    assert planned(("graph", 80_000), ("flat", 2_499), pace="pausing") == [1]
    assert planned(("graph", 80_000), ("graph", 2_000), ("flat", 1), pace="pausing") == [2]
    assert planned(("graph", 80_000), ("graph", 2_000), ("graph", 1), pace="pausing") is None


def test_policy_applies_to_the_segments_after_a_large_graph() -> None:
    big, medium = ("graph", 8_000_000), ("graph", 400_000)
    assert planned(big, medium, ("flat", TIER_ROWS), rows_max=10**8) == [2]
    assert planned(big, medium, ("graph", 20_000), ("flat", 2_000), rows_max=10**8) is None
    assert planned(big, medium, ("graph", 20_000), ("flat", 4_000), rows_max=10**8) == [2, 3]
    assert planned(big, medium, ("flat", 50_000), rows_max=10**8) == [1, 2]
    assert planned(big, medium, ("flat", 600_000), rows_max=10**8) == [0, 1, 2]


def test_too_many_small_segments_are_merged_early() -> None:
    tiny = [("flat", 1)] * FLAT_SEGMENTS_MAX
    assert planned(("graph", 80_000), *tiny) is None
    assert planned(("graph", 80_000), *tiny, ("flat", 1)) == list(range(1, FLAT_SEGMENTS_MAX + 2))


def test_no_graph_exceeds_its_row_limit() -> None:
    assert planned(("graph", 900), ("flat", 200), rows_max=1000) == [1]
    assert planned(("graph", 900), ("graph", 200), pace="optimizing", rows_max=1000) is None


def test_one_merge_takes_a_bounded_number_of_segments() -> None:
    many = [("flat", 10)] * (GROUP_SEGMENTS_MAX + 5)
    assert planned(*many) == list(range(GROUP_SEGMENTS_MAX))


def test_empty_segments_cause_no_repeated_work() -> None:
    assert planned(("graph", 0)) is None
    assert planned(("graph", 0), ("graph", 0)) == [0, 1]
    assert planned(("graph", 80_000), ("flat", 10, 10)) is None


@pytest.mark.slow
def test_trickle_after_a_bulk_load_does_not_rewrite_the_large_graph(tmp_path: Path) -> None:
    count, few, flush_rows = 20_000, 400, 256
    vectors = np.random.default_rng(5).normal(size=(count + few, 16)).astype(np.float32)
    with vecdb.open(tmp_path / "data", seal_bytes=64 * flush_rows) as database:
        docs = database.create_collection("docs", 16, M=8, ef_construction=40)

        def graphs_alone() -> Any:
            segments = docs.stats().segments
            settled = all(s.kind == "graph" for s in segments) and docs.stats().indexer == "idle"
            return settled and segments

        docs.upsert_many(range(count), vectors[:count])
        (big,) = eventually(lambda: len(graphs_alone() or ()) == 1 and graphs_alone())
        assert count - flush_rows <= big.rows <= count
        for start in range(count, count + few, 100):
            docs.upsert(range(start, start + 100), vectors[start : start + 100])
            eventually(lambda: docs.stats().unindexed_rows < flush_rows)
        segments = eventually(graphs_alone)
        assert segments[0] == big and len(segments) > 1
        hits = docs.search(vectors[count : count + few], k=1)
        assert np.mean([int(h.ids[0]) == count + i for i, h in enumerate(hits)]) > 0.97
        docs.optimize()
        (all_of_it,) = docs.stats().segments
        assert all_of_it.rows == count + few
