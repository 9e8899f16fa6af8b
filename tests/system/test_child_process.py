"""Child processes run at a lower priority than searches and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_CHILD = """
import json, os, pathlib
from vecdb.engine.system.child_process import lower_priority

def weights():
    group = pathlib.Path("/proc/self/autogroup")
    fields = group.read_text().split() if group.exists() else []
    return os.nice(0), fields[-1] if fields else None

before = weights()
lower_priority()
print(json.dumps([before, weights()]))
"""


@pytest.mark.parametrize("own_session", [True, False])
def test_child_lowers_its_priority_by_process_and_by_own_session(own_session: bool) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _CHILD],
        stdout=subprocess.PIPE,
        check=True,
        start_new_session=own_session,
        cwd=Path(__file__).resolve().parents[2],
    )
    (nice_before, group_before), (nice, group) = json.loads(child.stdout)
    assert nice == min(19, nice_before + 10)
    # Not readable: a kernel without autogroups, or a process of init's session.
    if group_before is not None:
        assert int(group) == (10 if own_session else int(group_before))
