"""Figures of the benchmark suite: percentiles, slopes, sizes, and loops that leave no slow call
out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecdb.errors import InvalidArgumentError
from vecdb_bench.figures import latency_figures, percentile, slope, summary
from vecdb_bench.targets.base import folder_bytes, memory_bytes
from vecdb_bench.targets.timing import closed_loop, open_loop


class Clock:
    """Time that passes only by sleeping and by calls."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_percentiles_are_values_that_were_measured() -> None:
    values = np.random.default_rng(1).permutation(np.arange(1, 1001)).astype(float)
    assert [percentile(values, share) for share in (0, 50, 99, 99.9, 100)] == [
        1,
        500,
        990,
        999,
        1000,
    ]
    assert percentile(np.array([3.0]), 99.9) == 3.0
    with pytest.raises(InvalidArgumentError):
        percentile(np.array([]), 50)
    figures = latency_figures(values / 1000)
    assert (figures["p50_ms"], figures["p99.9_ms"], figures["max_ms"]) == (500, 999, 1000)


def test_summary_and_slope() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "values": [3, 1, 2]}
    sizes = [10, 100, 1000]
    assert slope(sizes, [7 * size**0.5 for size in sizes]) == pytest.approx(0.5)
    with pytest.raises(InvalidArgumentError):
        slope([10, 10], [1, 2])


def test_a_stall_is_in_every_latency_that_it_delayed() -> None:
    """100 calls a second of 1 ms each, but for one of a second: 99 others were due meanwhile."""
    clock = Clock()

    def call(number: int) -> None:
        clock.now += 1.0 if number == 50 else 0.001

    took = open_loop(call, 100.0, 3.0, clock=clock, sleep=clock.sleep)
    assert len(took) == 300
    assert took[:50] == pytest.approx(0.001)
    assert took[50] == pytest.approx(1.0)
    # Each one after it begins late, by 9 ms less than the one before.
    assert took[51] == pytest.approx(0.991) and took[52] == pytest.approx(0.982)
    assert (took > 0.1).sum() == 101

    clock = Clock()
    closed = closed_loop(call, 3.0, clock=clock, sleep=clock.sleep)
    assert (closed > 0.1).sum() == 1
    assert percentile(took, 75) > 0.1 > percentile(closed, 75)


def test_a_rate_that_is_too_high_ends_in_time_and_counts_what_was_not_called() -> None:
    clock = Clock()

    def call(number: int) -> None:
        clock.now += 0.1

    took = open_loop(call, 100.0, 1.0, clock=clock, sleep=clock.sleep)
    assert len(took) == 100
    assert clock.now < 102.2
    assert took[-1] >= took[20] > 1.5
    # Clients take turns within an interval.
    shifted = Clock()
    open_loop(lambda _: None, 10.0, 0.1, offset=0.5, clock=shifted, sleep=shifted.sleep)
    assert shifted.now == pytest.approx(100.05)


def test_sizes_are_told_while_files_and_folders_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(bytes(10_000))
    kept = folder_bytes(tmp_path)
    assert kept >= 10_000
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    scandir = os.scandir

    def scanned_too_late(path: str) -> Any:
        if Path(path).name == "first":
            os.rmdir(path)
        return scandir(path)

    lstat = os.lstat

    def seen_too_late(path: str) -> os.stat_result:
        if Path(path).name == "second":
            os.rmdir(path)
        return lstat(path)

    monkeypatch.setattr(os, "scandir", scanned_too_late)
    monkeypatch.setattr(os, "lstat", seen_too_late)
    assert folder_bytes(tmp_path) >= kept
    assert os.listdir(tmp_path) == ["kept"]


def test_memory_of_a_process_that_has_ended_is_none() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert memory_bytes(process.pid) == (0, 0)
    private, proportional = memory_bytes(os.getpid())
    assert private > 0 and proportional > 0
