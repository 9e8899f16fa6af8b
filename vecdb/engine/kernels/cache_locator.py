"""Tells numba where to cache the kernels, and when what it finds there is out of date.

numba asks a list of locators for a folder, and takes the first that has a writable one: the folder
in ``NUMBA_CACHE_DIR``, ``__pycache__`` beside the source, the user's cache folder. While a kernel
is declared, ours is the first of the list (setting ``CACHE_LOCATOR_CLASSES``). It tries the same
folders in the same order, with two differences:

1. It takes a folder in them that is named after the sources of all kernels (``cache_folder.py``).
2. It also takes one that cannot be written, if all kernels are there. So an installation that was
   warmed when it was built and is read-only now is warm for all users.

For functions that are not ours it returns None, so that threads which declare theirs at the same
time are not affected.
"""
# numba declares no types for its settings and locators.
# mypy: disable-error-code="attr-defined, no-untyped-call"

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from numba import config
from numba.core import caching

from vecdb.engine.kernels.cache_folder import PACKAGE, folder_name, is_complete

__all__ = ["KernelCacheLocator", "located"]

_NUMBAS: Final = (
    *("UserProvidedCacheLocator", "InTreeCacheLocator", "UserWideCacheLocator"),
    *("IPythonCacheLocator", "ZipCacheLocator"),
)
"""What numba asks if the setting is empty."""

_lock = threading.Lock()


class KernelCacheLocator(caching.InTreeCacheLocator):
    """The cache folder of one kernel, in the interface of numba's locators."""

    def __init__(self, function: Callable[..., Any], source: str, base: str) -> None:
        super().__init__(function, source)
        self._folder = Path(base) / folder_name()

    def get_cache_path(self) -> str:
        """Return the folder."""
        return os.fspath(self._folder)

    def get_source_stamp(self) -> str:
        """Return what numba's index must have been written for: the sources of all kernels."""
        return self._folder.name

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> KernelCacheLocator | None:
        """Return the locator of a kernel; None if it is none of ours, or has no folder."""
        if Path(source).parent != PACKAGE:
            return None
        with contextlib.suppress(OSError):  # The sources cannot be read: they are in an archive.
            for base in _bases(function, source):
                found = cls(function, source, base)
                if is_complete(found._folder) or found._is_writable():
                    return found
        return None

    def _is_writable(self) -> bool:
        try:
            self.ensure_cache_path()
        except OSError:
            return False
        return True


def _bases(function: Callable[..., Any], source: str) -> Iterator[str]:
    """Yield the folders that numba would try, in its order."""
    for name in config.CACHE_LOCATOR_CLASSES.split(","):
        if name.strip() in _NUMBAS[:3] and (name.strip() != _NUMBAS[0] or config.CACHE_DIR):
            yield getattr(caching, name.strip())(function, source).get_cache_path()


@contextlib.contextmanager
def located() -> Iterator[None]:
    """Make numba ask our locator first. Thread-safe."""
    with _lock:
        before = config.CACHE_LOCATOR_CLASSES
        others = before or ",".join(name for name in _NUMBAS if hasattr(caching, name))
        ours = f"{KernelCacheLocator.__module__}.{KernelCacheLocator.__name__}"
        config.CACHE_LOCATOR_CLASSES = f"{ours},{others}"
        try:
            yield
        finally:
            config.CACHE_LOCATOR_CLASSES = before
