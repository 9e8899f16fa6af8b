"""Locks by name, created on demand: threads exclude each other only for the same name."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["NamedLocks"]


class NamedLocks:
    """Locks by name. A lock exists only while a thread holds or awaits it. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Hold the lock of this name."""
        with self._guard:
            lock, users = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks[name]
                if users > 1:
                    self._locks[name] = lock, users - 1
                else:
                    del self._locks[name]
