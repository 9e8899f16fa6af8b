"""Which way a filtered search takes, from numbers alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from vecdb.engine.search.filter_plan import (
    Costs,
    UnitShape,
    WalkShape,
    cheapest,
    expected_blocks,
    limits_of,
    rounded_down,
)

WALK = WalkShape(visited=1_700, visited_tenth=4_100)


def shape(share: float, rows: int = 400_000, lines: int = 1, coded: bool = True) -> UnitShape:
    blocks = round(rows / 16 * (1 - (1 - share) ** 16))
    return UnitShape(rows, round(share * rows), blocks, 64, lines, coded)


def test_walks_where_many_rows_match_and_scans_where_few_do() -> None:
    ways = [
        cheapest(shape(share), WALK, sketched=True).way
        for share in (1, 0.9, 0.5, 0.2, 0.1, 0.03, 0.01, 0.001)
    ]
    assert ways == ["walk"] * 5 + ["sketches"] * 3


@pytest.mark.parametrize("share", [1, 0.5, 0.1, 0.01, 0.001])
def test_the_way_is_the_cheapest(share: float) -> None:
    for sketched in (True, False):
        for walk in (None, WALK):
            for coded in (True, False):
                chosen = cheapest(shape(share, coded=coded), walk, sketched=sketched)
                costs = chosen.costs
                if chosen.way == "walk":
                    assert costs.walk == min(costs)
                else:
                    assert chosen.way == chosen.then
                    assert costs.walk >= 0.9 * costs.scan
                assert getattr(costs, chosen.then) == costs.scan
                assert (costs.walk == math.inf) == (walk is None)
                assert (costs.sketches == math.inf) == (not sketched)


def test_exact_scans_compare_all_rows_where_most_match() -> None:
    ways = [cheapest(shape(p), None, sketched=False).way for p in (1, 0.5, 0.05, 0.001)]
    assert ways == ["rows", "rows", "matches", "matches"]


def test_matches_that_lie_together_cost_few_blocks() -> None:
    together = shape(0.3)._replace(blocks=round(0.3 * 400_000 / 16))
    assert cheapest(together, None, sketched=False).way == "rows"
    assert (
        cheapest(together, None, sketched=False).costs.rows
        < 0.5 * cheapest(shape(0.3), None, sketched=False).costs.rows
    )


def test_walks_visit_more_the_fewer_rows_match() -> None:
    visited = [WALK.at(share) for share in (1, 0.5, 0.1, 0.05, 0.01, 0.001)]
    assert visited == sorted(visited)
    assert visited[0] == pytest.approx(1_700)
    assert visited[2] == pytest.approx(4_100)


def test_a_walk_gives_up_not_far_beyond_the_cost_of_a_scan() -> None:
    for share in (0.9, 0.5, 0.1):
        costs = cheapest(shape(share), WALK, sketched=True).costs
        probe, live, end = limits_of(shape(share), costs)
        assert 0 < probe < end
        assert probe <= 0.25 * costs.scan / 40
        assert end >= WALK.at(share)
        assert end <= 2 * max(WALK.at(share), costs.scan / 32)
        assert live == pytest.approx(share / 2 / (1 - share / 2), rel=0.01)


def test_costs_in_microseconds_leave_out_what_is_not_possible() -> None:
    assert Costs(math.inf, 1_000.0, 2_000.0, math.inf).in_microseconds() == {
        "sketches": 1.0,
        "matches": 2.0,
    }


def test_matches_anywhere_are_in_blocks_as_expected() -> None:
    random = np.random.default_rng(2)
    for matching in (1, 300, 40_000, 350_000, 400_000):
        chosen = np.zeros(400_000, bool)
        chosen[random.permutation(400_000)[:matching]] = True
        blocks = np.count_nonzero(chosen.reshape(-1, 16).any(axis=1))
        assert expected_blocks(400_000, matching) == pytest.approx(blocks, rel=0.03, abs=1)


def test_numbers_of_matches_are_rounded_down_a_little() -> None:
    numbers = [*range(1, 5_000), 10**6 + 7]
    assert all(0.93 * number <= rounded_down(number) <= number for number in numbers)
    assert len({rounded_down(number) for number in range(1, 400_000)}) < 300


def _shapes() -> Iterator[tuple[UnitShape, WalkShape]]:
    shares = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 0.9, 1.0)
    widths = ((64, 1), (128, 1), (384, 2), (768, 3), (1_536, 8))
    for rows, (width, lines), share in itertools.product((10**4, 10**5, 10**6), widths, shares):
        matching = max(1, int(rows * share))
        for blocks in (-(-matching // 16), round(rows / 16 * (1 - (1 - share) ** 16))):
            for visited, growth in itertools.product((300, 800, 2_500), (2, 4)):
                unit = UnitShape(rows, matching, max(1, blocks), width, lines, True)
                yield unit, WalkShape(visited, visited * growth)


@pytest.mark.parametrize(("off", "loss_max"), [(1.25, 0.01), (1.5, 0.04), (2.0, 0.12)])
def test_the_choice_loses_little_where_unit_costs_are_off(off: float, loss_max: float) -> None:
    """On machines where each unit cost is so many times higher or lower than assumed, all ways
    taken together cost little more than the best."""
    names = ("walk", "sketches", "matches", "rows")
    losses = []
    for unit, walk in _shapes():
        found = cheapest(unit, walk, sketched=True)
        for factors in itertools.product((1 / off, 1.0, off), repeat=len(names)):
            true = [cost * factor for cost, factor in zip(found.costs, factors, strict=True)]
            losses.append(true[names.index(found.way)] / min(true) - 1)
    assert 0 < sum(losses) / len(losses) <= loss_max
