"""The first use of a machine compiles kernels: a program that embeds vecdb is told so, once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OPEN = """
import logging, sys, warnings
import vecdb
from vecdb.engine import compiled
{before}
with vecdb.open(sys.argv[1], indexer=False) as database:
    for name in ("A", "B"):
        database.create_collection(name, dim=3).upsert(["a"], [[1, 2, 3]])
        database.collection(name).search([1, 2, 3])
"""
ANY_TIME_IS_LONG = "compiled._SLOW_S = 0"
NONE_IS = "compiled._SLOW_S = 1e9"


def said_by(data: Path, *before: str) -> str:
    code = OPEN.format(before="; ".join(before))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(data)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr


def test_an_embedded_first_use_says_once_that_it_compiles(tmp_path: Path) -> None:
    lines = said_by(tmp_path / "data", ANY_TIME_IS_LONG).splitlines()
    (line,) = lines
    assert line.startswith(("vecdb: compiling the search kernels", "vecdb: waiting for another"))


@pytest.mark.parametrize(
    "before",
    [
        (NONE_IS,),
        (ANY_TIME_IS_LONG, 'logging.getLogger("vecdb.kernels").setLevel("ERROR")'),
        (ANY_TIME_IS_LONG, 'logging.getLogger("vecdb").addHandler(logging.NullHandler())'),
    ],
    ids=["quick", "logger", "handler"],
)
def test_nothing_is_said_where_it_is_quick_or_turned_off(
    tmp_path: Path, before: tuple[str, ...]
) -> None:
    assert said_by(tmp_path / "data", *before) == ""


def test_processes_that_talk_over_their_output_say_nothing_of_it(tmp_path: Path) -> None:
    code = "import vecdb.engine.compiled as compiled; compiled._SLOW_S = 0; compiled.load_kernels()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
