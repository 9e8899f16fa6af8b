"""Nodes whose code is in a range, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vecdb.engine.kernels import compiled as kernels


def codes_of(count: int, dtype: Any, most: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.integers(-1, most, count).astype(dtype)  # -1: no value.


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 4_095, 4_096, 4_097, 20_001])
@pytest.mark.parametrize(("dtype", "most"), [(np.int8, 127), (np.int16, 300), (np.int32, 70_000)])
def test_marks_and_counts_are_those_of_numpy(count: int, dtype: Any, most: int) -> None:
    codes = codes_of(count, dtype, most)
    raw, shift = codes.view(np.uint8), np.dtype(dtype).itemsize.bit_length() - 1
    nodes = np.arange(-3, count + 3)
    for low, high in ((0, most), (0, 1), (most // 3, most // 2), (most - 1, most), (5, 5)):
        inside = (codes >= low) & (codes < high)
        bits = np.full((count + 7) // 8, 0xFF, np.uint8)
        kernels.mark_range(raw, shift, count, low, high - low, bits)
        np.testing.assert_array_equal(bits, np.packbits(inside, bitorder="little"))
        found = kernels.count_in_range(raw, shift, count, nodes, low, high - low)
        assert found == np.count_nonzero(inside)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    raw, bits = codes_of(100, np.int16, 50).view(np.uint8), np.zeros(13, np.uint8)
    for size, low, span in ((99, 0, 5), (100, -1, 5), (100, 0, -1), (100, 32_000, 1_000)):
        with pytest.raises(ValueError, match="code_ranges"):
            kernels.mark_range(raw, 1, size, low, span, bits)
    with pytest.raises(ValueError, match="code_ranges"):
        kernels.count_in_range(raw, 3, 100, np.zeros(1, np.int64), 0, 5)
    with pytest.raises(ValueError, match="another size"):
        kernels.mark_range(raw, 1, 100, 0, 5, bits[:12])
