"""The first use on a machine compiles kernels; an embedding program is notified once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import HANG_S

OPEN = """
import logging, sys, warnings
import vecdb
from tests.places import override_for_good
{before}
with vecdb.open(sys.argv[1], indexer=False) as database:
    for name in ("A", "B"):
        database.create_collection(name, dim=3).upsert(["a"], [[1, 2, 3]])
        database.collection(name).search([1, 2, 3])
"""
ANY_TIME_IS_LONG = 'override_for_good("slow_compilation_s", 0)'
NONE_IS = 'override_for_good("slow_compilation_s", 1e9)'


def said_by(data: Path, *before: str, cache: Path | None = None) -> str:
    """Return what is printed on stderr, with a cold cache if one is given."""
    cold = {"NUMBA_CACHE_DIR": str(cache), "XDG_CACHE_HOME": str(cache)}
    code = OPEN.format(before="; ".join(before))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(data)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env={**os.environ, **(cold if cache else {})},
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr


@pytest.mark.slow
def test_first_embedded_use_logs_compilation_once(tmp_path: Path) -> None:
    (line,) = said_by(tmp_path / "a", ANY_TIME_IS_LONG, cache=tmp_path / "cache").splitlines()
    assert line.startswith("vecdb: compiling the search kernels")
    assert said_by(tmp_path / "b", ANY_TIME_IS_LONG, cache=tmp_path / "cache") == ""
    # No notice either if only our note of numba's cache is missing.
    (tmp_path / "cache" / "vecdb" / "kernels.json").unlink()
    assert said_by(tmp_path / "c", ANY_TIME_IS_LONG, cache=tmp_path / "cache") == ""


@pytest.mark.parametrize(
    "before",
    [
        (NONE_IS,),
        (ANY_TIME_IS_LONG, 'logging.getLogger("vecdb.kernels").setLevel("ERROR")'),
        (ANY_TIME_IS_LONG, 'logging.getLogger("vecdb").addHandler(logging.NullHandler())'),
    ],
    ids=["quick", "logger", "handler"],
)
def test_compilation_notice_is_omitted_if_quick_or_disabled(
    tmp_path: Path, before: tuple[str, ...]
) -> None:
    assert said_by(tmp_path / "data", *before) == ""


def test_child_processes_do_not_print_the_compilation_notice(tmp_path: Path) -> None:
    code = (
        "from tests.places import override_for_good; override_for_good('slow_compilation_s', 0); "
        "from vecdb.engine.kernels import loading; loading.load_kernels()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
