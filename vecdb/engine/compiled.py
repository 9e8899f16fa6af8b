"""Loading the kernels: compiled once on a machine, then read from numba's cache on disk.

Compiling takes tens of seconds, so one process does it while others wait for its result, and none
waits where there is nothing to compile (``kernel_cache.py``). The cache lies where numba puts it
(``NUMBA_CACHE_DIR``, beside the source, or the user's cache folder), never in a data folder: it
holds pickles.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable
from typing import Any

from vecdb.engine.kernel_cache import compiling, is_warm, note_warm

__all__ = ["kernels_ready", "load_kernels"]

_MODULE = "vecdb.engine.kernels"
_lock = threading.Lock()
_loaded: Any = None
_SLOW_S = 1.0


def kernels_ready() -> bool:
    """True once ``load_kernels`` has returned in this process."""
    return _loaded is not None


def load_kernels(on_compile: Callable[[str], None] | None = None) -> Any:
    """The module ``vecdb.engine.kernels``, compiled.

    Args:
        on_compile: told in a sentence when it takes longer than a moment, and when it is done.
    """
    global _loaded
    if _loaded is not None:
        return _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load(on_compile)
    return _loaded


def _load(on_compile: Callable[[str], None] | None) -> Any:
    began = time.monotonic()
    done, ours = threading.Event(), threading.Event()

    def tell() -> None:
        if done.wait(_SLOW_S) or on_compile is None:
            return
        if ours.is_set():
            on_compile("compiling the search kernels for this processor, once; up to a minute")
        else:
            on_compile("waiting for another process that is compiling the search kernels")

    teller = threading.Thread(target=tell, name="vecdb-compile-notice", daemon=True)
    teller.start()
    try:
        with contextlib.nullcontext() if is_warm() else compiling():
            ours.set()
            module = importlib.import_module(_MODULE)
        if not is_warm():
            note_warm(module)
    finally:
        done.set()
        teller.join()
    took_s = time.monotonic() - began
    if took_s > _SLOW_S and on_compile is not None:
        on_compile(f"kernels ready after {took_s:.1f} s")
    return module
