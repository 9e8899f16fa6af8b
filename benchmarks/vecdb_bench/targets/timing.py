"""Loops that make calls and write down how long each took. numpy and the standard library only.

``closed_loop``: the next call begins when the last one ended, as a patient caller does it. Its
percentiles leave out the calls that were not made while a slow one was waited for.

``open_loop``: calls are due at fixed times, whatever the target does, and a call's latency counts
from when it was due, not from when it was made. A call that waits behind a slow one is late by that
wait: this is what many independent callers would see (no coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

__all__ = ["closed_loop", "open_loop", "queries_per_second"]

Clock = Callable[[], float]
_PATIENCE = 4
MAX_CALLS = 5_000_000
"""Bounds memory and time of a loop, whatever it is asked for."""


def closed_loop(
    call: Callable[[int], Any],
    seconds: float,
    *,
    begin_at: float | None = None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> np.ndarray:
    """Call again and again for so long; latencies in seconds, float64 (calls,).

    Args:
        call: given the number of the call, 0 upwards.
        begin_at: by ``clock``; now if None.
    """
    _wait_until(begin_at, clock, sleep)
    took: list[float] = []
    before = clock()
    ends = before + seconds
    while before < ends and len(took) < MAX_CALLS:
        call(len(took))
        after = clock()
        took.append(after - before)
        before = after
    return np.array(took)


def open_loop(
    call: Callable[[int], Any],
    rate: float,
    seconds: float,
    *,
    offset: float = 0.0,
    begin_at: float | None = None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> np.ndarray:
    """Calls due at ``rate`` a second for so long; latencies from when each was due, in seconds.

    Each due call is made, however late. If that takes over twice as long as planned the rate can't
    be had, and the calls left out count as late as the last one is by then.

    Args:
        offset: share of the interval, 0 to 1, by which all calls are shifted, so that several
            clients take turns.
    """
    _wait_until(begin_at, clock, sleep)
    count = min(max(1, int(rate * seconds)), MAX_CALLS)
    began = clock()
    took = np.empty(count)
    for number in range(count):
        due = began + (number + offset) / rate
        wait = due - clock()
        if wait > 0:
            sleep(wait)
        call(number)
        now = clock()
        took[number] = now - due
        if now - began > 2 * seconds:
            left = began + (np.arange(number + 1, count) + offset) / rate
            took[number + 1 :] = np.maximum(now - left, took[number])
            break
    return took


def queries_per_second(
    search: Callable[[np.ndarray], Any],
    queries: np.ndarray,
    batch: int,
    callers: int,
    seconds: float,
) -> float:
    """Queries a second, in calls of ``batch``, by so many threads in a closed loop each.

    Each goes through the queries from another place on, through a tenth of them at least, unless
    that takes several times as long.
    """
    least = max(1, len(queries) // (10 * batch))

    def run(caller: int) -> tuple[int, float]:
        first = caller * len(queries) // callers
        done = 0
        before = time.perf_counter()
        ends, late = before + seconds, before + _PATIENCE * seconds
        while (now := time.perf_counter()) < ends or (done < least and now < late) or not done:
            at = (first + done * batch) % len(queries)
            part = queries[at : at + batch]
            search(part if len(part) == batch else queries[:batch])
            done += 1
        return done * batch, time.perf_counter() - before

    if callers == 1:
        count, took = run(0)
        return count / took
    with ThreadPoolExecutor(callers) as pool:
        return float(sum(count / took for count, took in pool.map(run, range(callers))))


def _wait_until(moment: float | None, clock: Clock, sleep: Callable[[float], None]) -> None:
    if moment is not None:
        wait = moment - clock()
        if wait > 0:
            sleep(wait)
