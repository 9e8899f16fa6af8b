"""Processes whose memory is limited by a control group, and files that leave the page cache.

A control group charges its processes for their private memory and for the pages of files that they
are the first to read. So a file that others have read must leave the page cache first, or its pages
are free of charge.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vecdb.errors import UnsupportedError

__all__ = ["drop_from_cache", "inside", "limited_memory", "peak_bytes"]

_ROOT = Path("/sys/fs/cgroup")
_NAME = "vecdb-bench"
_ENDED_S = 10.0


@contextmanager
def limited_memory(limit_bytes: int) -> Iterator[Path]:
    """Yield the folder of a control group below this process's own; it is removed at the end.

    Raises:
        UnsupportedError: this system, or this user, can't create one.
    """
    group = _own_group() / f"{_NAME}-{os.getpid()}"
    try:
        if not (_ROOT / "memory").exists():
            (group.parent / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
    except OSError as error:
        raise _cannot(f"a control group can't be created: {error}") from None
    try:
        try:
            _first_of(group, "memory.limit_in_bytes", "memory.max").write_text(str(limit_bytes))
            if (swap := group / "memory.swap.max").exists():
                swap.write_text("0")
        except OSError as error:
            raise _cannot(f"the memory of a control group can't be limited: {error}") from None
        yield group
    finally:
        ends = time.monotonic() + _ENDED_S
        while group.exists():
            try:
                group.rmdir()
            except OSError:  # The kernel is still counting a process that has ended.
                if time.monotonic() > ends:
                    raise
                time.sleep(0.05)


def inside(group: Path, command: list[str]) -> list[str]:
    """Return the command that runs a command in a control group from its first instruction on."""
    return ["/bin/sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group), *command]


def peak_bytes(group: Path) -> int:
    """Return the most memory that a control group has used, the page cache included."""
    return int(_first_of(group, "memory.max_usage_in_bytes", "memory.peak").read_text())


def drop_from_cache(folder: Path) -> None:
    """Write the files of a folder to the disk and drop them from the page cache."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _own_group() -> Path:
    """Return the folder of the control group that limits this process's memory."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        raise _cannot("this system has no control groups") from None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _ROOT / "memory" / path.lstrip("/")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        known = _ROOT / path.lstrip("/") / "cgroup.controllers"
        if not controllers and known.exists() and "memory" in known.read_text().split():
            return known.parent
    raise _cannot("no control group of this process has a memory controller")


def _first_of(group: Path, *names: str) -> Path:
    for name in names:
        if (group / name).exists():
            return group / name
    raise _cannot(f"{group} has none of {', '.join(names)}")


def _cannot(reason: str) -> UnsupportedError:
    return UnsupportedError(f"memory can't be limited: {reason}", "NO_MEMORY_LIMIT")
