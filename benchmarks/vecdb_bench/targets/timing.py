"""Loops that call a target and record latencies; imports numpy and the standard library only.

``closed_loop``: each call starts when the previous one has ended. Its percentiles suffer from
coordinated omission: no calls are sent, and none measured, while a slow call is in flight.

``open_loop``: calls are due at fixed times regardless of the target, and latency is measured from
the due time, not from the time of sending. The latency of a call delayed by a slow one includes the
delay, as many independent callers would see it (no coordinated omission).

``series``: as ``closed_loop``, with a number of calls that is limited, since no two are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

__all__ = ["closed_loop", "open_loop", "queries_per_second", "series"]

Clock = Callable[[], float]
_PATIENCE = 4
"""A caller that has not sent its least number of calls stops after this multiple of ``seconds``."""
_SLOW_PATIENCE = 20
"""The same for ``series``, whose calls with a condition may take 0.1 s."""
MAX_CALLS = 5_000_000
"""Maximum number of calls of a loop, which bounds its memory and time."""


def closed_loop(
    call: Callable[[int], Any],
    seconds: float,
    *,
    pause_s: float = 0.0,
    begin_at: float | None = None,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> np.ndarray:
    """Call repeatedly for ``seconds``; return latencies in seconds, float64, shape (calls,).

    Args:
        call: called with the number of the call, from 0.
        pause_s: seconds to sleep between two calls.
        begin_at: start time by ``clock``; None to start immediately.
    """
    _wait_until(begin_at, clock, sleep)
    took: list[float] = []
    before = clock()
    ends = before + seconds
    while before < ends and len(took) < MAX_CALLS:
        call(len(took))
        after = clock()
        took.append(after - before)
        if pause_s:
            sleep(pause_s)
            after = clock()
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
    """Call at ``rate`` per second for ``seconds``; return latencies from each call's due time.

    Every due call is sent, however late. If the loop takes more than twice ``seconds``, the target
    cannot sustain the rate. The remaining calls are then not sent; each counts with the time since
    it was due, and at least with the latency of the last call.

    Args:
        call: called with the number of the call, from 0.
        rate: calls per second.
        offset: fraction of the interval, 0 to 1, by which all calls are shifted, so that calls of
            several clients are spread evenly.
        begin_at: start time by ``clock``; None to start immediately.

    Returns:
        Latencies in seconds, float64, shape (calls,).
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


def series(
    call: Callable[[int], Any],
    count: int,
    seconds: float,
    *,
    clock: Clock = time.perf_counter,
) -> np.ndarray:
    """Call with 0, 1, … for ``seconds``, at most ``count`` times; return latencies in seconds.

    A slow target is called for longer, until it has made a tenth of the calls, but at most for
    ``_SLOW_PATIENCE`` times as long.
    """
    least = max(1, count // 10)
    began = before = clock()
    ends, late = began + seconds, began + _SLOW_PATIENCE * seconds
    took: list[float] = []
    for number in range(count):
        if took and before > (late if number < least else ends):
            break
        call(number)
        after = clock()
        took.append(after - before)
        before = after
    return np.array(took)


def queries_per_second(
    search: Callable[[np.ndarray], Any],
    queries: np.ndarray,
    batch: int,
    callers: int,
    seconds: float,
) -> float:
    """Measure queries per second in calls of ``batch``, by ``callers`` threads in closed loops.

    The callers start at different positions in the queries. Each runs for ``seconds``, and longer
    until it has sent a tenth of the queries, but at most ``_PATIENCE`` times as long.
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
