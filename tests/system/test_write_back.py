"""Large files are written to the disk piece by piece, and what the disk could not write is told."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from vecdb.engine.system.files import write_array
from vecdb.engine.system.write_back import PIECE_BYTES, WriteBack

START, FINISH = 2, 7


class Disk:
    """Records what it is asked for; may fail with an errno."""

    def __init__(self, fails_with: int = 0) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.fails_with = fails_with

    def __call__(self, descriptor: int, offset: int, count: int, flags: int) -> int:
        self.asked.append((offset, offset + count, flags))
        ctypes.set_errno(self.fails_with)
        return -1 if self.fails_with else 0


def test_each_piece_is_started_at_once_and_the_one_before_is_waited_for() -> None:
    disk = Disk()
    write_back = WriteBack(9, disk)
    for end in (10, 20, 25):
        write_back.written_to(end)
    assert disk.asked == [
        (0, 10, START),
        *[(10, 20, START), (0, 10, FINISH)],
        *[(20, 25, START), (10, 20, FINISH)],
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_the_disk_could_not_write_is_raised(number: int) -> None:
    with pytest.raises(OSError) as failure:
        WriteBack(9, Disk(number)).written_to(10)
    assert failure.value.errno == number


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.ESPIPE])
def test_a_file_system_without_it_is_asked_once(number: int) -> None:
    disk = Disk(number)
    write_back = WriteBack(9, disk)
    write_back.written_to(10)
    write_back.written_to(20)
    assert disk.asked == [(0, 10, START)]


def test_a_system_without_it_is_not_asked() -> None:
    WriteBack(9, None).written_to(10)


@pytest.mark.parametrize("count", [0, 1, PIECE_BYTES // 4 - 32, PIECE_BYTES // 4, 3_000_000])
def test_arrays_of_any_size_are_written_as_numpy_reads_them(tmp_path: Path, count: int) -> None:
    array = np.random.default_rng(count).normal(size=count).astype(np.float32)
    record = write_array(tmp_path / "array.npy", array)
    assert np.array_equal(np.load(tmp_path / "array.npy"), array)
    assert record["bytes"] == os.stat(tmp_path / "array.npy").st_size
