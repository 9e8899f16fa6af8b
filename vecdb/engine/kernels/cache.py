"""Whether the kernels are in numba's cache, and the lock for compiling them.

Loading from a warm cache needs no lock: numba only reads the cache, and replaces its files
atomically. After each load the state of the cache is recorded in a file,

    kernels.json    key of sources, numba, Python and processor; paths of numba's index files

which is compared before the next load. If the record is wrong, the only cost is time: several
processes may then compile at once.

If the cache is cold, one process compiles and others wait. They do not wait for a process that is
stopped, nor longer than ``PATIENCE_S``; then they compile as well. The lock file contains the pid
of its holder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from vecdb.engine.kernels.cache_folder import (
    PACKAGE,
    is_ours,
    machine,
    mark_complete,
    remove_older,
    sources,
)
from vecdb.engine.system.files import file_lock
from vecdb.engine.system.modes import creating, make_root

__all__ = ["compiling", "is_warm", "note_warm"]

PATIENCE_S = 180.0
"""Three times the duration of compiling on a slow machine."""

_POLL_S: Final = 0.2


def is_warm() -> bool:
    """Return whether an earlier load recorded the current kernels as cached, and the files of the
    cache exist."""
    try:
        note = json.loads((_folder() / "kernels.json").read_bytes())
        return note["key"] == _key() and all(os.path.exists(each) for each in note["files"])
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        return False


def note_warm(module: ModuleType) -> None:
    """Record the files of numba's cache for a module that was just loaded, and remove those for
    earlier sources. Do nothing if this cannot be written."""
    found = [_index_files(kernel) for kernel in module.KERNELS]
    files = sorted({file for each in found for file in each})
    folders = {file.parent for file in files}
    if all(found) and len(folders) == 1 and is_ours(folder := folders.pop()):
        mark_complete(folder, [file.name for file in files])
        remove_older(folder)
    with contextlib.suppress(OSError, RuntimeError):
        text = json.dumps({"key": _key(), "files": [os.fspath(file) for file in files]})
        make_root(_folder(), group=False)
        draft = _folder() / f"kernels.json.{os.getpid()}"
        with open(draft, "w", opener=creating) as file:
            file.write(text)
        draft.replace(_folder() / "kernels.json")


def _index_files(kernel: Any) -> list[Path]:
    """Return numba's index files of a kernel; [] if it is not cached."""
    # With NUMBA_DISABLE_JIT a kernel is a Python function, without stats.
    folder = getattr(getattr(kernel, "stats", None), "cache_path", None)
    if folder is None:
        return []
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return list(Path(folder).glob(f"*.{kernel.__name__}-*.{python}*.nbi"))


@contextlib.contextmanager
def compiling(on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock for compiling, if possible. Without a writable folder for the lock, or if its
    holder is stopped, several processes may compile at once, which is slow but correct.

    Args:
        on_wait: called once if another process holds the lock.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home folder.
            make_root(_folder(), group=False)
            _take(_folder() / "kernels.lock", stack, on_wait)
        yield


def _take(lock: Path, stack: contextlib.ExitStack, on_wait: Callable[[], None]) -> None:
    """Take the lock. Return without it if the cache is warm by now, if the holder is stopped, or
    after ``PATIENCE_S``."""
    ends, waits = time.monotonic() + PATIENCE_S, False
    while True:
        with contextlib.ExitStack() as attempt:
            if attempt.enter_context(file_lock(lock, wait=False)):
                lock.write_text(str(os.getpid()))
                stack.push(attempt.pop_all())
                return
        if is_warm() or _is_stopped(lock) or time.monotonic() > ends:
            return
        if not waits:
            waits = True
            on_wait()
        time.sleep(_POLL_S)


def _is_stopped(lock: Path) -> bool:
    """Return whether the holder of the lock is stopped, by a signal or a debugger."""
    with contextlib.suppress(OSError, ValueError):
        status = Path(f"/proc/{int(lock.read_text())}/stat").read_text()
        return status.rpartition(")")[2].split()[0] in ("T", "t")
    return False


def _folder() -> Path:
    """Return the folder of the lock and the record.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vecdb"


def _key() -> str:
    """Return a hash of all that numba's cache and its place depend on, without importing numba.

    Raises:
        OSError: the sources cannot be read.
    """
    settings = sorted((k, v) for k, v in os.environ.items() if k.startswith("NUMBA_"))
    parts = (os.fspath(PACKAGE), sources(), machine(), *settings)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
