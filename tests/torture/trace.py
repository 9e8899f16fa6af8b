"""Rules of durability, checked against a trace of system calls (strace -f -y).

A small model of what a power loss could lose: bytes that were written to a file and not synced
since, and names created in a folder that was not synced since. Two rules are checked:

- at each acknowledgement nothing in the whole folder can be lost;
- at each commit (LMDB writes its meta page through another descriptor, opened with O_DSYNC) the
  store's data, and all files of segments with their names, are on disk before.

Lock files have no data. A draft of hnswlib's is read back and removed by its writer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["TRACED", "Disk", "calls_of"]

TRACED = (
    *("write", "writev", "pwrite64", "pwritev", "ftruncate", "fsync", "fdatasync", "sendto"),
    *("openat", "close", "mkdir", "rename", "unlink", "unlinkat", "rmdir"),
)
_LINE = re.compile(r"^(\d+) +(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+)(?:<([^>]*)>)?", re.DOTALL)
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(.*)$")
_DESCRIPTOR = re.compile(r"^(\d+|AT_FDCWD)<([^>]*)>")
_PATHS = re.compile(r'"((?:[^"\\]|\\.)*)"')
_TEMPORARY = re.compile(r"\.lock$|/lock\.mdb$|/graph-[^/]*$")
_WRITES = ("write", "writev", "pwrite64", "pwritev", "ftruncate")


@dataclass(frozen=True)
class Call:
    """A system call that succeeded."""

    name: str
    arguments: str
    result: int
    opened: str | None
    """The path of the descriptor that it returned."""

    def descriptor(self) -> tuple[int, str]:
        """The first argument and its path."""
        found = _DESCRIPTOR.match(self.arguments)
        assert found is not None, self
        return (-1 if found[1] == "AT_FDCWD" else int(found[1])), found[2]

    def paths(self) -> list[str]:
        """The arguments that are texts."""
        return _PATHS.findall(self.arguments)


def calls_of(log: list[str]) -> Iterator[Call]:
    """Return the successful calls in the order in which they ended; messages count from their
    begin.
    """
    begun: dict[str, str] = {}
    for line in log:
        thread, text = _LINE.match(line).groups()  # type: ignore[union-attr]
        if resumed := _RESUMED.match(text):
            text = begun.pop(thread) + resumed[1]
            if text.startswith("sendto"):
                continue
        elif text.endswith("<unfinished ...>"):
            text = text.removesuffix("<unfinished ...>")
            begun[thread] = text
            if not text.startswith("sendto"):
                continue
            text += ") = 0"
        found = _CALL.match(text)
        if found is not None and int(found[3]) >= 0:
            yield Call(found[1], found[2], int(found[3]), found[4])


class Disk:
    """What a power loss could lose of a folder.

    Attributes:
        seen: how often each rule was checked; a checker that checked nothing proves nothing.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._unsynced: set[str] = set()
        self._names: set[str] = set()
        self._there: set[str] = set()
        self._synchronous: set[int] = set()
        self.seen: Counter[str] = Counter()

    def follow(self, log: list[str]) -> None:
        """Apply a trace.

        Raises:
            AssertionError: a rule is broken.
        """
        for call in calls_of(log):
            handler = getattr(self, f"_{call.name}", None)
            if call.name in _WRITES:
                self._written(call)
            elif handler is not None:
                handler(call)

    def _ours(self, path: str) -> bool:
        return path.startswith(f"{self._root}/") and _TEMPORARY.search(path) is None

    def _written(self, call: Call) -> None:
        descriptor, path = call.descriptor()
        if not self._ours(path):
            return
        if descriptor not in self._synchronous:
            self._unsynced.add(path)
            return
        self.seen["commit"] += 1
        assert path not in self._unsynced, f"a meta page before the data of {path}"
        segments = sorted(p for p in self._unsynced | self._names if "/segments/" in p)
        assert not segments, f"a commit before {segments} are on disk"

    def _openat(self, call: Call) -> None:
        assert call.opened is not None
        self._synchronous.discard(call.result)
        if not self._ours(call.opened):
            return
        if "O_DSYNC" in call.arguments:
            self._synchronous.add(call.result)
        if "O_CREAT" in call.arguments and call.opened not in self._there:
            self._made(call.opened)

    def _made(self, path: str) -> None:
        self._there.add(path)
        self._names.add(path)

    def _mkdir(self, call: Call) -> None:
        if self._ours(path := call.paths()[0]):
            self._made(path)

    def _rename(self, call: Call) -> None:
        old, new = call.paths()
        for group in (self._unsynced, self._names, self._there):
            for path in [p for p in group if p == old or p.startswith(f"{old}/")]:
                group.remove(path)
                group.add(new + path[len(old) :])
        self._made(new)

    def _unlink(self, call: Call) -> None:
        self._gone(call.paths()[0])

    _rmdir = _unlink

    def _unlinkat(self, call: Call) -> None:
        _, folder = call.descriptor()
        self._gone(str(PurePosixPath(folder) / call.paths()[0]))

    def _gone(self, path: str) -> None:
        for group in (self._unsynced, self._names, self._there):
            group.discard(path)

    def _fsync(self, call: Call) -> None:
        _, path = call.descriptor()
        self._unsynced.discard(path)
        made = {name for name in self._names if str(PurePosixPath(name).parent) == path}
        self.seen["folder"] += bool(made)
        self._names -= made

    def _fdatasync(self, call: Call) -> None:
        self._unsynced.discard(call.descriptor()[1])

    def _sendto(self, call: Call) -> None:
        if r"\"acknowledged\"" in call.arguments:
            self.seen["acknowledgement"] += 1
            left = sorted(self._unsynced | self._names)
            assert not left, f"acknowledged, and not on disk: {left} ({call.arguments})"
