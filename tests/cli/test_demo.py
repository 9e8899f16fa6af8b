"""The demo, small: a run that loads, and one that finds everything there."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest


def start_demo(data: Path, rows: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vecdb_server", "demo", "--data", str(data), "--rows", str(rows)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_demo(data: Path, rows: int) -> str:
    with start_demo(data, rows) as process:
        said, _ = process.communicate(timeout=110)
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
def test_the_demo_loads_measures_and_goes_on_later(tmp_path: Path) -> None:
    first = run_demo(tmp_path / "data", 3_000)
    assert "2,700 words loaded and on disk" in first
    assert "the next search found 300 of them; now 3,000 words" in first
    assert re.search(r"monday .* tuesday 0\.", first)
    recall = re.search(r"recall@10[^│]*│ (\d\.\d+)", first)
    assert recall is not None and float(recall[1]) >= 0.99, first
    assert "server stopped, exit status 0" in first
    again = run_demo(tmp_path / "data", 3_000)
    assert "all 3,000 words are there already" in again
    assert "rows/s" not in again and "recall@10" in again


@pytest.mark.slow
def test_an_interrupted_demo_leaves_no_server(tmp_path: Path) -> None:
    with start_demo(tmp_path / "data", 400_000) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"server ready at \S+:(\d+)", line):
                break
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped; what was loaded is on disk" in said
    assert found is not None
    # The port is free again, so the server has gone.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(found[1])))
