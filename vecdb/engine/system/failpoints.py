"""Failpoints: named places where a test can kill the process or make an operation fail.

    VECDB_FAILPOINTS="flush.published=crash"         the process kills itself there with SIGKILL
    VECDB_FAILPOINTS="commit.begin=EIO:3"           the third pass raises OSError(EIO), once
    several, separated by commas

Without the variable a failpoint calls a function that does nothing. All names are listed here, so
that a test can iterate over them.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["FAILPOINTS", "VARIABLE", "arm", "failpoint"]

VARIABLE: Final = "VECDB_FAILPOINTS"

FAILPOINTS: Final = (
    "commit.begin",
    "commit.end",
    "create.entered",
    "create.folder",
    "create.ready",
    "drop.entered",
    "drop.marked",
    "drop.moved",
    "drop.removed",
    "segment.folder",
    "segment.arrays",
    "segment.manifest",
    "segment.synced",
    "flush.reserved",
    "flush.published",
    "graph.reserved",
    "graph.built",
    "graph.published",
    "parts.reserved",
    "import.reserved",
    "import.written",
    "import.published",
    "collect.unlinked",
)


class _Armed:
    """The active failpoints, and how often each has been passed."""

    def __init__(self, text: str) -> None:
        self._lock = threading.Lock()
        self._passed: dict[str, int] = {}
        self._actions: dict[str, tuple[str, int]] = {}
        for part in filter(None, text.split(",")):
            name, _, action = part.partition("=")
            if name not in FAILPOINTS:
                raise ValueError(f"unknown failpoint {name!r}")
            what, _, at = action.partition(":")
            if what != "crash" and not hasattr(errno, what):
                raise ValueError(f"action must be crash or a name of errno, got {what!r}")
            self._actions[name] = (what, int(at or 1))

    def __call__(self, name: str) -> None:
        assert name in FAILPOINTS, name
        if name not in self._actions:
            return
        what, at = self._actions[name]
        with self._lock:
            self._passed[name] = passed = self._passed.get(name, 0) + 1
        if passed != at:
            return
        if what == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, what)
        raise OSError(number, os.strerror(number), name)


def _nothing(name: str) -> None:
    pass


_do: Callable[[str], None] = _nothing


def failpoint(name: str) -> None:
    """Pass the failpoint of this name; it may raise OSError or kill the process."""
    _do(name)


def arm(text: str) -> None:
    """Set the actions of failpoints in this process; an empty text disables all."""
    global _do
    _do = _Armed(text) if text else _nothing


arm(os.environ.get(VARIABLE, ""))
