"""The background thread that measures recall, within a budget of CPU time.

Each open collection has a recall meter (``search/recall/meter.py``). Searches leave samples with
it; this thread runs the meters that have some, in turn, one step at a time. After a step that took
c seconds of CPU time it pauses so long that c is the budget's share of the time since the step
began. During the pause the meters that have samples take a few more, spread over it, so that the
next step measures several queries with one scan.

While a step runs, the thread sleeps between slices, so that it takes a quarter of a core at most.
The thread starts with the first sample.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from vecdb.engine.search.recall.meter import RecallMeter
from vecdb.engine.search.recall.samples import SAMPLES_MAX
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import CancelledError, FailedPreconditionError, NotFoundError

__all__ = ["Metering"]

_PAUSES: Final = 3.0
"""Seconds of sleep within a step for each second of CPU time."""

_PAUSE_MIN_S: Final = 0.005
"""Shorter pauses are added up until they are as long."""

_FAILED_PAUSE_S: Final = 60.0
"""Pause after a step that failed."""

_log = logging.getLogger("vecdb.recall")


class Metering:
    """Runs the meters of an open folder. Thread-safe.

    Args:
        share: budget, as a share of one core; 0 switches measuring off.
        clock: monotonic, in seconds.
        cpu_clock: CPU time of the calling thread, in seconds.
    """

    def __init__(
        self,
        share: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._share, self._clock, self._cpu_clock = share, clock, cpu_clock
        self._changed = threading.Condition()
        self._waiting: deque[RecallMeter] = deque()
        self._failed: dict[RecallMeter, float] = {}
        """Meters whose step has failed, and the time until which they take no samples."""
        self._ready_at, self._tick_s = clock(), 0.0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, meter: RecallMeter) -> None:
        """Let a meter take samples, and measure them when there is time."""
        if self._share > 0:
            meter.on_sample(lambda: self._sampled(meter))
            meter.arm()

    def close(self) -> None:
        """End the thread; a running step ends after its slice."""
        with self._changed:
            self._closing.set()
            self._waiting.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def run_step(self, meter: RecallMeter) -> None:
        """Run one step of a meter, and determine when the next step may begin."""
        began, began_cpu = self._clock(), self._cpu_clock()
        more = failed = False
        try:
            more = meter.step(self._deadline())
        except CancelledError:
            return
        except (NotFoundError, FailedPreconditionError):
            meter.close()  # Dropped or closed.
        except Exception as error:
            # Searches report the cause. The thread must survive: it serves all collections.
            _log.warning("measuring the recall of a collection failed: %s", error)
            failed = True
        self._ready_at = began + (self._cpu_clock() - began_cpu) / self._share
        self._tick_s = self.pause_s() / SAMPLES_MAX
        if failed:
            self._failed[meter] = self._clock() + _FAILED_PAUSE_S
            return
        meter.arm()
        if more:
            self._sampled(meter)

    def pause_s(self) -> float:
        """Return the seconds until the budget allows the next step."""
        return max(0.0, self._ready_at - self._clock())

    def _sampled(self, meter: RecallMeter) -> None:
        with self._changed:
            if self._closing.is_set() or meter in self._waiting:
                return
            self._waiting.append(meter)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="vecdb-recall", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # No more threads; searches go on, and the next sample tries again.
                self._thread = thread
            self._changed.notify_all()

    def _run(self) -> None:
        while (meter := self._next()) is not None:
            self.run_step(meter)

    def _next(self) -> RecallMeter | None:
        """Return the next meter as soon as the budget allows a step; None at the end."""
        with self._changed:
            while not self._closing.is_set():
                waits = [until - self._clock() for until in self._failed.values()]
                if self._waiting:
                    if self.pause_s() == 0:
                        return self._waiting.popleft()
                    waits.append(min(self.pause_s(), self._tick_s))
                wait_s = max(_PAUSE_MIN_S, min(waits)) if waits else None
                if not self._changed.wait(wait_s):
                    self._arm_again()
        return None

    def _arm_again(self) -> None:
        """Let the meters that have samples take one more, and those whose failure is long past."""
        for meter in self._waiting:
            meter.arm()
        for meter in [m for m, until in self._failed.items() if until <= self._clock()]:
            del self._failed[meter]
            meter.arm()

    def _deadline(self) -> Deadline:
        """Return a deadline whose checks, made before each slice, also pause."""
        paused_at = self._cpu_clock()

        def pause() -> None:
            nonlocal paused_at
            pause_s = (self._cpu_clock() - paused_at) * _PAUSES
            if pause_s >= _PAUSE_MIN_S:
                self._closing.wait(pause_s)
                paused_at = self._cpu_clock()

        return Deadline(is_cancelled=self._closing.is_set).also(pause)
