"""Failpoints: the list of names is that of the calls in the engine."""

from __future__ import annotations

import re
from pathlib import Path

import vecdb
from vecdb.engine.system.failpoints import FAILPOINTS

CALL = re.compile(r'\bfailpoint\("([^"]+)"\)')


def test_list_names_every_failpoint_that_the_engine_passes() -> None:
    engine = Path(vecdb.__file__).parent / "engine"
    passed = [name for path in engine.rglob("*.py") for name in CALL.findall(path.read_text())]
    assert sorted(passed) == sorted(FAILPOINTS)
