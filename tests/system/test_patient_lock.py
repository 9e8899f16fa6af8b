"""Waiting for a lock between processes: what ends it, and which files it holds open."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

import vecdb
from tests.waiting import NEVER_S
from vecdb.engine.system.files import file_lock, patient_lock

ATTEMPTS = 5


def open_count(path: Path) -> int:
    """Return how many descriptors of this process are of the file; other threads open and close
    files of their own."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{name}") == os.fspath(path.resolve())
    return count


def test_lock_is_held_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with patient_lock(path, NEVER_S), file_lock(path, wait=False) as held:
        assert not held
    with file_lock(path, wait=False) as held:
        assert held


def test_check_ends_the_wait_and_no_attempt_keeps_a_file_open(tmp_path: Path) -> None:
    path, counts = tmp_path / "lock", []

    def check() -> None:
        counts.append(open_count(path))
        if len(counts) == ATTEMPTS:
            raise vecdb.CancelledError("enough")

    with file_lock(path, wait=True):
        assert open_count(path) == 1
        with pytest.raises(vecdb.CancelledError), patient_lock(path, NEVER_S, check):
            pass
    assert counts == [1] * ATTEMPTS


def test_lock_held_too_long_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        file_lock(path, wait=True),
        pytest.raises(vecdb.UnavailableError, match="continue or end") as caught,
        patient_lock(path, 0),
    ):
        pass
    assert caught.value.reason == "LOCKED"
