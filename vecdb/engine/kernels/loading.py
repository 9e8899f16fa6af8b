"""Loading the kernels: compiled once per machine, then read from numba's cache on disk.

Compiling takes tens of seconds. So one process compiles and others wait for its result; with a warm
cache no process waits (``cache.py``). The cache is where numba puts it (``NUMBA_CACHE_DIR``, beside
the source, or the user's cache folder). It is never in a data folder, since numba's cache contains
pickles, which execute code when they are loaded.

A program that opens a folder would appear to hang while kernels compile. So the logger
``vecdb.kernels`` emits a warning, which Python prints on stderr unless logging is configured.
``logging.getLogger("vecdb.kernels").setLevel("ERROR")`` disables it; ``vecdb warm`` compiles in
advance.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType

from vecdb.engine.kernels.cache import compiling, is_warm, note_warm

__all__ = ["load_kernels", "warn_when_compiling"]

_MODULE = "vecdb.engine.kernels.compiled"
_lock = threading.Lock()
_loaded: ModuleType | None = None
_SLOW_S = 1.0
_log = logging.getLogger("vecdb.kernels")
_warns = False


def warn_when_compiling() -> None:
    """Make ``load_kernels`` log a warning when it compiles; for programs that embed vecdb."""
    global _warns
    _warns = True


def load_kernels(on_compile: Callable[[str], None] | None = None) -> ModuleType:
    """Return the module ``vecdb.engine.kernels.compiled``, compiled.

    Args:
        on_compile: called with a sentence if compiling takes longer than a second, and again when
            it has finished; not called if the cache is warm. None: log a warning instead, if
            ``warn_when_compiling`` was called.
    """
    global _loaded
    if _loaded is not None:
        return _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load(on_compile or (_warning() if _warns else None))
    return _loaded


def _warning() -> Callable[[str], None]:
    """Return a callback that logs the first sentence as a warning, later ones as information."""
    levels = iter((logging.WARNING,))
    return lambda sentence: _log.log(next(levels, logging.INFO), "vecdb: %s", sentence)


_COMPILING = (
    "compiling the search kernels for this processor, once; up to a minute "
    "(vecdb warm does it beforehand)"
)
_WAITING = "waiting for another process that is compiling the search kernels"


def _load(on_compile: Callable[[str], None] | None) -> ModuleType:
    began = time.monotonic()
    done, noted = threading.Event(), threading.Event()
    notes: list[str] = []
    reported: list[str] = []

    def note(what: str) -> None:
        notes.append(what)
        noted.set()

    def report() -> None:
        if on_compile is None or done.wait(_SLOW_S):
            return
        # Reading a warm cache may also take a second on a busy machine: that is not reported.
        noted.wait()
        if not done.is_set():
            reported.append(notes[-1])
            on_compile(reported[0])

    reporter = threading.Thread(target=report, name="vecdb-compile-notice", daemon=True)
    reporter.start()
    try:
        with (
            contextlib.nullcontext() if is_warm() else compiling(lambda: note(_WAITING)),
            _noticed(lambda: note(_COMPILING)),
        ):
            module = importlib.import_module(_MODULE)
        if not is_warm():
            note_warm(module)
    finally:
        done.set()
        noted.set()
        reporter.join()
    if reported and on_compile is not None:
        on_compile(f"kernels ready after {time.monotonic() - began:.1f} s")
    return module


@contextlib.contextmanager
def _noticed(on_compile: Callable[[], None]) -> Iterator[None]:
    """Call a function when numba compiles something that is not in its cache."""
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event: object) -> None:
            on_compile()

        def on_end(self, event: object) -> None:
            pass

    listener = Listener()
    event.register("numba:compile", listener)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)  # type: ignore[no-untyped-call]
