"""The priority of background work, which rises while the work starves.

Work begins at a low priority, so that searches and writes go first. Beside processes that keep all
cores busy it would then get a tenth of a core, and waiting work would pile up. So a thread looks
every ``LOOK_S`` at the CPU time that the process had: if it was less than ``STARVED_CORES`` cores,
the niceness falls by one step, at last to that of the process that started it. The next work begins
at the low priority again.

Lowering niceness needs permission (CAP_SYS_NICE, or the resource limit RLIMIT_NICE). Without it the
niceness stays. Where Linux schedules by session (autogroups), a process in its own session needs
none.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["LOOK_S", "STARVED_CORES", "RisingPriority", "set_niceness"]

LOW_NICENESS: Final = 10
"""Added to the niceness of the process that starts the work."""

LOOK_S: Final = 10.0
STARVED_CORES: Final = 0.5
"""Work that waits for a disk uses less of a core, too; at a higher priority it then delays others
little."""

_STEPS: Final = (LOW_NICENESS, LOW_NICENESS // 2, 0)

_NICENESS_MAX: Final = 19


def set_niceness(niceness: int) -> bool:
    """Set the niceness of all threads of this process, and of its session's autogroup if the
    process leads one; return whether that was permitted."""
    permitted = True
    # setpriority acts on single threads, although its manual says processes.
    tasks = Path("/proc/self/task")
    for thread in [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]:
        try:
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
        except ProcessLookupError:
            pass  # The thread has ended.
        except PermissionError:
            permitted = False
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(niceness))
            permitted = True
    return permitted


class RisingPriority:
    """The priority of the work of this process; for one thread at a time.

    Args:
        apply: sets the niceness and returns whether that was permitted.
        clock, cpu_clock: seconds; the CPU time of this process.
    """

    def __init__(
        self,
        apply: Callable[[int], bool] = set_niceness,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._apply, self._clock, self._cpu_clock = apply, clock, cpu_clock
        self._own = os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0
        self._step = 0
        self._since = (clock(), cpu_clock())
        self._set(0)

    @property
    def is_lowest(self) -> bool:
        """Return whether the niceness is that of the beginning."""
        return self._step == 0

    @contextlib.contextmanager
    def of_work(self) -> Iterator[None]:
        """Run work at the low priority, which rises if the work starves."""
        done = threading.Event()
        if self._step > 0:
            self._set(0)
        self._since = (self._clock(), self._cpu_clock())

        def watch() -> None:
            while not done.wait(LOOK_S):
                self.look()

        watcher = threading.Thread(target=watch, name="vecdb-priority", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def look(self) -> None:
        """Lower the niceness by a step if the work starved since this was last called."""
        now, cpu = self._clock(), self._cpu_clock()
        wall_s, cpu_s = now - self._since[0], cpu - self._since[1]
        self._since = (now, cpu)
        if cpu_s < STARVED_CORES * wall_s and self._step + 1 < len(_STEPS):
            self._set(self._step + 1)

    def _set(self, step: int) -> None:
        if hasattr(os, "setpriority") and self._apply(min(_NICENESS_MAX, self._own + _STEPS[step])):
            self._step = step
