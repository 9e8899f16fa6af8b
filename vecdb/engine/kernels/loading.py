"""Loading the kernels: compiled once on a machine, then read from numba's cache on disk.

Compiling takes tens of seconds, so one process does it while others wait for its result, and none
waits where there is nothing to compile (``cache.py``). The cache lies where numba puts it
(``NUMBA_CACHE_DIR``, beside the source, or the user's cache folder), never in a data folder: it
holds pickles.

A program that opens a folder would stand still meanwhile without a word, so it gets a warning of
the logger ``vecdb.kernels``, which Python prints on stderr unless logging is set up otherwise:
``logging.getLogger("vecdb.kernels").setLevel("ERROR")`` turns it off, ``vecdb warm`` compiles
beforehand.
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

__all__ = ["kernels_ready", "load_kernels", "warn_when_compiling"]

_MODULE = "vecdb.engine.kernels.compiled"
_lock = threading.Lock()
_loaded: ModuleType | None = None
_SLOW_S = 1.0
_log = logging.getLogger("vecdb.kernels")
_warns = False


def warn_when_compiling() -> None:
    """For a process that belongs to others: have ``load_kernels`` warn in the log, once."""
    global _warns
    _warns = True


def kernels_ready() -> bool:
    """True once ``load_kernels`` has returned in this process."""
    return _loaded is not None


def load_kernels(on_compile: Callable[[str], None] | None = None) -> ModuleType:
    """The module ``vecdb.engine.kernels.compiled``, compiled.

    Args:
        on_compile: told in a sentence when compiling takes longer than a moment, and when it is
            done, but not of a warm cache; None for a warning in the log, if there is to be any.
    """
    global _loaded
    if _loaded is not None:
        return _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load(on_compile or (_warning() if _warns else None))
    return _loaded


def _warning() -> Callable[[str], None]:
    """The first sentence is a warning; that it is done is for who wants to know all."""
    levels = iter((logging.WARNING,))
    return lambda sentence: _log.log(next(levels, logging.INFO), "vecdb: %s", sentence)


_COMPILING = (
    "compiling the search kernels for this processor, once; up to a minute "
    "(vecdb warm does it beforehand)"
)
_WAITING = "waiting for another process that is compiling the search kernels"


def _load(on_compile: Callable[[str], None] | None) -> ModuleType:
    began = time.monotonic()
    done, news = threading.Event(), threading.Event()
    happens: list[str] = []
    said: list[str] = []

    def note(what: str) -> None:
        happens.append(what)
        news.set()

    def tell() -> None:
        if on_compile is None or done.wait(_SLOW_S):
            return
        # Reading the cache may take as long on a busy machine, and is not worth a word.
        news.wait()
        if not done.is_set():
            said.append(happens[-1])
            on_compile(said[0])

    teller = threading.Thread(target=tell, name="vecdb-compile-notice", daemon=True)
    teller.start()
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
        news.set()
        teller.join()
    if said and on_compile is not None:
        on_compile(f"kernels ready after {time.monotonic() - began:.1f} s")
    return module


@contextlib.contextmanager
def _noticed(on_compile: Callable[[], None]) -> Iterator[None]:
    """Call a function when numba compiles, which it does not with what is in its cache."""
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
