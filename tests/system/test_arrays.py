"""Arrays as files: what is written is what NumPy reads, whatever their size."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from vecdb.engine.system.files import write_array
from vecdb.engine.system.mapped_pages import read_at_random, use_large_pages

_HEADER, _PIECE = 128, 2 * 1024**2
_FIRST = _PIECE - _HEADER


@pytest.mark.parametrize(
    "size", [0, 1, _FIRST - 1, _FIRST, _FIRST + 1, _FIRST + _PIECE, _FIRST + _PIECE + 1]
)
def test_written_array_is_read_back_and_its_entry_describes_the_file(
    tmp_path: Path, size: int
) -> None:
    array = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    entry = write_array(tmp_path / "array.npy", array)
    found = np.load(tmp_path / "array.npy")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert entry == {
        "dtype": "|u1",
        "shape": [size],
        "bytes": (tmp_path / "array.npy").stat().st_size,
        "crc32": zlib.crc32(array.tobytes()),
    }


def test_advice_changes_no_array_and_passes_over_those_that_are_not_mapped(tmp_path: Path) -> None:
    array = np.arange(_PIECE, dtype=np.int32).reshape(-1, 64)
    write_array(tmp_path / "array.npy", array)
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r").view(np.ndarray)
    for each in (mapped, array, np.zeros(0)):
        use_large_pages(each)
        read_at_random(each)
    np.testing.assert_array_equal(mapped, array)
