"""Background work starts at a low priority, which rises while it starves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vecdb.engine.system.priority import LOOK_S, STARVED_CORES, RisingPriority

OWN = os.getpriority(os.PRIO_PROCESS, 0)
LOW, MIDDLE = (min(19, OWN + more) for more in (10, 5))

_CHILD = """
import json, os, pathlib, threading
from vecdb.engine.system.priority import set_niceness

waiting, end = threading.Event(), threading.Event()
def wait():
    waiting.set()
    end.wait()
threading.Thread(target=wait).start()
waiting.wait()
own = os.getpriority(os.PRIO_PROCESS, 0)
permitted = set_niceness(own + 3)
tasks = pathlib.Path("/proc/self/task")
found = [os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks.iterdir()]
print(json.dumps([permitted, [each - own for each in found]]))
end.set()
"""


class Machine:
    """Clocks that only the test advances, and the niceness that was set."""

    def __init__(self, permitted: bool = True) -> None:
        self.now_s, self.cpu_s, self.permitted = 100.0, 7.0, permitted
        self.niceness: list[int] = []

    def apply(self, niceness: int) -> bool:
        if not self.permitted and self.niceness and niceness < self.niceness[-1]:
            return False
        self.niceness.append(niceness)
        return True

    def priority(self) -> RisingPriority:
        return RisingPriority(self.apply, clock=lambda: self.now_s, cpu_clock=lambda: self.cpu_s)

    def run(self, cores: float) -> None:
        self.now_s += LOOK_S
        self.cpu_s += cores * LOOK_S


def test_starving_work_rises_step_by_step_to_the_priority_of_its_process() -> None:
    machine = Machine()
    priority = machine.priority()
    with priority.of_work():
        for _ in range(4):
            machine.run(STARVED_CORES / 4)
            priority.look()
    assert machine.niceness == [LOW, MIDDLE, OWN]


def test_work_that_has_its_share_stays_at_the_low_priority() -> None:
    machine = Machine()
    priority = machine.priority()
    with priority.of_work():
        for _ in range(4):
            machine.run(STARVED_CORES * 1.1)
            priority.look()
    assert machine.niceness == [LOW] and priority.is_lowest


def test_next_work_starts_at_the_low_priority_and_with_a_new_measurement() -> None:
    machine = Machine()
    priority = machine.priority()
    with priority.of_work():
        machine.run(0.0)
        priority.look()
    machine.run(0.0)  # Idle between two works: that is not starving.
    with priority.of_work():
        machine.run(1.0)
        priority.look()
    assert machine.niceness == [LOW, MIDDLE, LOW]


def test_without_permission_the_priority_stays_low() -> None:
    machine = Machine(permitted=False)
    priority = machine.priority()
    with priority.of_work():
        machine.run(0.0)
        priority.look()
    assert machine.niceness == [LOW] and priority.is_lowest


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are not listed here")
def test_niceness_is_set_for_all_threads() -> None:
    child = subprocess.run(
        [sys.executable, "-c", _CHILD],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    permitted, niceness = json.loads(child.stdout)
    assert permitted and len(niceness) >= 2 and set(niceness) == {3}
