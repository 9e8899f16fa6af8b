"""How the pages of mapped files are read from the disk, and how large they are.

The system reads ahead of a page that is missing, from 128 KiB to some MiB, as if the rest would be
needed next. A walk through a graph needs a few rows here and there: if the files do not fit in
memory, nearly all that is read ahead is read in vain, and drives out pages that are needed.

A walk visits hundreds of places of a file, most of them on different pages, and the processor knows
the addresses of some hundred to some thousand pages. In pages of 2 MiB walks take half to three
quarters of the time that they take in pages of 4 KiB. A file is in large pages if the file system
has them (ext4 from Linux 6.16, xfs and btrfs earlier), and it was written accordingly
(``files.write_array``) or is read from the disk after ``use_large_pages``.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any, Final

import numpy.typing as npt

__all__ = ["read_at_random", "read_in_order", "use_large_pages"]

_HUGE_PAGES: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)


def read_at_random(array: npt.NDArray[Any]) -> None:
    """Let the system read only those pages of a mapped array that are missing; other arrays are
    left as they are."""
    _advise(array, mmap.MADV_RANDOM)


def read_in_order(array: npt.NDArray[Any]) -> None:
    """Let the system read ahead in a mapped array, as it does at first."""
    _advise(array, mmap.MADV_NORMAL)


def use_large_pages(array: npt.NDArray[Any]) -> None:
    """Let the system read a mapped array in large pages where it can; for arrays that are needed
    as a whole."""
    if _HUGE_PAGES is not None:
        with contextlib.suppress(OSError):  # A system that was built without them.
            _advise(array, _HUGE_PAGES)


def _advise(array: npt.NDArray[Any], advice: int) -> None:
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None:
        base.madvise(advice)
