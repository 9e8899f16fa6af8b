"""When operations that failed are retried."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from vecdb.engine.system import back_off as module
from vecdb.engine.system.back_off import BackOff, Failure

FIRST_S, MAX_S = 0.5, 8.0


class _Clock:
    """A clock that only the test advances."""

    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def _pause_s(clock: _Clock, back_off: BackOff[str], key: str) -> float:
    """Advance the clock to the end of a pause in steps of a quarter of the first; return it."""
    began_s = clock.now_s
    while back_off.is_early(key):
        assert key not in back_off.due()
        clock.now_s += FIRST_S / 4
    assert key in back_off.due()
    return clock.now_s - began_s


def test_pause_doubles_with_each_failure_up_to_the_longest(clock: _Clock) -> None:
    back_off: BackOff[str] = BackOff(FIRST_S, MAX_S)
    assert not back_off and not back_off.due() and not back_off.is_early("a")
    pauses = []
    for number in range(1, 10):
        back_off.failed("a", f"failure {number}")
        assert back_off.failure("a") == Failure(number, f"failure {number}")
        pauses.append(_pause_s(clock, back_off, "a"))
    assert pauses[0] == FIRST_S and pauses[-1] == MAX_S
    assert all(later == min(MAX_S, 2 * before) for before, later in pairwise(pauses))
    back_off.succeeded("a")
    assert not back_off and back_off.failure("a") is None and not back_off.due()
    back_off.failed("a", "again")
    assert _pause_s(clock, back_off, "a") == FIRST_S


def test_pause_after_days_of_failures_is_the_longest(clock: _Clock) -> None:
    back_off: BackOff[str] = BackOff(FIRST_S, MAX_S)
    for _ in range(5_000):
        back_off.failed("a", "full")
    assert _pause_s(clock, back_off, "a") == MAX_S


def test_operations_do_not_delay_each_other(clock: _Clock) -> None:
    back_off: BackOff[str] = BackOff(FIRST_S, MAX_S)
    for _ in range(4):
        back_off.failed("a", "damaged")
    back_off.failed("b", "full")
    assert not back_off.is_early("c") and back_off.failure("c") is None
    assert _pause_s(clock, back_off, "b") == FIRST_S
    assert back_off.due() == ["b"] and back_off.is_early("a")
    back_off.succeeded("b")
    assert back_off and back_off.failure("a") == Failure(4, "damaged")


def test_postponed_operation_is_no_failure(clock: _Clock) -> None:
    back_off: BackOff[str] = BackOff(FIRST_S, MAX_S)
    back_off.postpone("a", 2 * FIRST_S)
    assert back_off and back_off.failure("a") is None
    assert _pause_s(clock, back_off, "a") == 2 * FIRST_S
    back_off.failed("a", "full")
    back_off.postpone("a", math.inf)
    assert back_off.failure("a") == Failure(1, "full")
    clock.now_s += 1e9
    assert back_off.is_early("a") and not back_off.due()
    back_off.failed("a", "full")
    assert _pause_s(clock, back_off, "a") == 2 * FIRST_S
