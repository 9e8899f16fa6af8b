"""How the pages of mapped files are read from the disk.

The system reads ahead of a page that is missing, from 128 KiB to some MiB, as if the rest would be
needed next. A walk through a graph needs a few rows here and there: if the files do not fit in
memory, nearly all that is read ahead is read in vain, and drives out pages that are needed.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy.typing as npt

__all__ = ["read_at_random", "read_in_order"]


def read_at_random(array: npt.NDArray[Any]) -> None:
    """Let the system read only those pages of a mapped array that are missing; other arrays are
    left as they are."""
    _advise(array, mmap.MADV_RANDOM)


def read_in_order(array: npt.NDArray[Any]) -> None:
    """Let the system read ahead in a mapped array, as it does at first."""
    _advise(array, mmap.MADV_NORMAL)


def _advise(array: npt.NDArray[Any], advice: int) -> None:
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None:
        base.madvise(advice)
