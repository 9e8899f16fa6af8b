"""The demo, small: a run that loads, one that finds everything loaded, terminals, Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.cli.screen import Screen
from tests.places import value_of
from tests.waiting import HANG_S
from vecdb.types import SearchInfo


def start_demo(data: Path, rows: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vecdb_server", "demo", "--data", str(data), "--rows", str(rows)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_demo(data: Path, rows: int) -> str:
    with start_demo(data, rows) as process:
        said, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, said
    return said


def run_demo_on_terminal(data: Path, width: int, **environment: str) -> str:
    """Return all that a run with 2,000 words writes to its terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    dropped = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    process = subprocess.Popen(
        [sys.executable, "-m", "vecdb_server", "demo", "--data", str(data), "--rows", "2000"],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**kept, **environment},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    with open(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while some := terminal.read(65_536):  # EIO when the last writer has closed it.
            written += some
    assert process.wait(timeout=HANG_S) == 0, written.decode()
    return written.decode()


@pytest.mark.slow
def test_demo_shows_neighbours_before_it_indexes_and_continues_later(tmp_path: Path) -> None:
    first = run_demo(tmp_path / "data", 3_000)
    assert "2,700 words loaded over gRPC and on disk" in first
    assert "the next search found 300 of them; now 3,000 words" in first
    assert re.search(r"monday .* tuesday 0\.", first)
    assert "exact: each was compared with all 2,700 words (no row is in a graph yet)" in first
    order = ["monday", "exact:", "indexing glove: 0 of 2,700 rows in graphs", "recall@10"]
    places = [first.index(text) for text in order]
    assert places == sorted(places), first
    recall = re.search(r"recall@10 +(\d\.\d+)", first)
    assert recall is not None and float(recall[1]) >= 0.95, first  # What a search promises.
    assert "server stopped, exit status 0" in first
    assert "\x1b" not in first
    again = run_demo(tmp_path / "data", 3_000)
    assert "all 3,000 words are loaded already" in again
    assert "approximate: plan graph" in again
    assert "rows/s" not in again and "recall@10" in again


@pytest.mark.slow
def test_demo_fits_a_terminal_of_40_columns_without_colours(tmp_path: Path) -> None:
    written = run_demo_on_terminal(tmp_path / "data", 40, TERM="xterm-256color", NO_COLOR="1")
    screen = Screen(40)
    screen.feed(written)
    assert "loading: " in written and "indexing glove: " in written
    # All lines of progress are erased, and nothing that was drawn is wider than the terminal.
    assert not any(line.startswith(("loading: ", "indexing ")) for line in screen.lines)
    assert not screen.cursor_hidden
    # What may wrap: the server's address and folder, and the commands to copy.
    tables = [line for line in screen.lines if re.search(r"^monday|^recall@10|p99", line)]
    assert len(tables) == 3 and not any(line in screen.wrapped for line in tables)
    assert screen.styles <= {"", "0", "1", "2"}, "colours despite NO_COLOR"


@pytest.mark.slow
def test_demo_on_a_dumb_terminal_writes_plain_lines(tmp_path: Path) -> None:
    written = run_demo_on_terminal(tmp_path / "data", 80, TERM="dumb")
    assert "\x1b" not in written
    assert written.count("indexing glove: ") <= 5
    assert re.search(r"^recall@10 +\d\.\d+\r$", written, re.MULTILINE), written


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (
            SearchInfo("scan", True, 0, 50, 50, 1, True, 50),
            "exact: each was compared with all 50 words (no row is in a graph yet)",
        ),
        (
            SearchInfo("scan", True, 0, 50, 50, 1, True, 20),
            "exact: each was compared with all 50 words (plan scan)",
        ),
        (
            SearchInfo("graph+scan", False, 128, 30, 50, 1, True, 20),
            "approximate: plan graph+scan, each was compared with 30 of 50 words on average, "
            "20 words are in no graph yet",
        ),
    ],
)
def test_demo_reports_the_plan_of_its_searches(info: SearchInfo, expected: str) -> None:
    class Answer:
        def __init__(self) -> None:
            self.info = info

    answers = [Answer(), Answer()]
    said = value_of("demo_how_found")(answers, 3.2)
    assert said == f"2 queries in one call, 3 ms; {expected}"


@pytest.mark.slow
@pytest.mark.parametrize(("step", "rows"), [("loading", 400_000), ("indexing", 50_000)])
def test_interrupted_demo_leaves_no_server(step: str, rows: int, tmp_path: Path) -> None:
    port = None
    with start_demo(tmp_path / "data", rows) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"server ready at \S+:(\d+)", line):
                port = int(found[1])
            if line.startswith(step):
                break
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 130, said
    assert "stopped; what was loaded is on disk" in said
    assert port is not None
    # The port is free again, so the server has ended.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
