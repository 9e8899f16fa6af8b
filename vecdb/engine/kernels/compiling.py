"""How a function becomes a kernel, and the types of its arguments.

A **kernel** is called from Python. It has one signature, so that it is compiled once, when its
module is imported, and releases the GIL. Its machine code is cached on disk
(``cache_locator.py``). An **inlined** function is called from kernels only: it is compiled into
each kernel that calls it, from whichever module. So the cache must depend on the sources of all
modules, and these may import nothing else of vecdb.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any, Final

from numba import njit, types

from vecdb.engine.kernels.cache_locator import located

__all__ = ["BYTES", "FLOAT", "FLOATS", "INT", "INTS", "inlined", "kernel", "read", "written"]


def kernel(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile at once for one signature; use numba's cache if a folder for it is writable."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            with located():
                return njit(signature, nogil=True, cache=True)(function)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            _warn_uncached(error)
            return njit(signature, nogil=True)(function)

    return decorate


inlined: Final = njit(forceinline=True, nogil=True)
"""Decorator of functions that are compiled into the kernels that call them."""


def _warn_uncached(error: Exception) -> None:
    if not _warned:
        _warned.append(True)
        warnings.warn(
            "vecdb compiles its kernels in each process, since numba's cache is not usable "
            f"({error}); set NUMBA_CACHE_DIR to a writable folder",
            RuntimeWarning,
            stacklevel=2,
        )


_warned: list[bool] = []


def read(dtype: types.Type, ndim: int) -> types.Array:
    """Return the type of an input: a C array, which may be read-only."""
    return types.Array(dtype, ndim, "C", readonly=True)


def written(dtype: types.Type, ndim: int) -> types.Array:
    """Return the type of an output: a C array."""
    return types.Array(dtype, ndim, "C")


INT: Final = types.int64
FLOAT: Final = types.float32
FLOATS: Final = read(types.float32, 2)
INTS: Final = read(types.int32, 2)
BYTES: Final = read(types.uint8, 1)
