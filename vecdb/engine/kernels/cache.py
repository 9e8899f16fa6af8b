"""Whether the kernels are in numba's cache, and who may compile them now.

Loading from a warm cache takes no lock: numba only reads it, and replaces its files whole. What
makes the cache warm is noted in a file after each load,

    kernels.json    key of source, numba, Python and processor; paths of numba's index files

and compared before the next. A note that is wrong costs time, nothing else: several processes may
compile at once then.

With a cold cache one process compiles while others wait, but not for one that was stopped, and not
longer than ``PATIENCE_S``; then they compile for themselves. The lock file says who has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

from vecdb.engine.system.files import file_lock
from vecdb.engine.system.modes import creating, make_root

__all__ = ["compiling", "is_warm", "note_warm"]

PATIENCE_S = 180.0
"""Three times what compiling takes on a slow machine."""

_POLL_S: Final = 0.2
_SOURCE: Final = Path(__file__).with_name("compiled.py")


def is_warm() -> bool:
    """The kernels as they are now were in the cache after an earlier load, and its files are
    there."""
    try:
        note = json.loads((_folder() / "kernels.json").read_bytes())
        return note["key"] == _key() and all(os.path.exists(each) for each in note["files"])
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        return False


def note_warm(module: ModuleType) -> None:
    """Note what numba's cache holds for a module that was just loaded, if that can be written."""
    files = set()
    for name, kernel in vars(module).items():
        folder = getattr(getattr(kernel, "stats", None), "cache_path", None)
        if folder is not None:
            found = Path(folder).glob(f"{_SOURCE.stem}.{name}-*.nbi")
            files |= {os.fspath(each) for each in found}
    text = json.dumps({"key": _key(), "files": sorted(files)})
    with contextlib.suppress(OSError, RuntimeError):
        make_root(_folder(), group=False)
        draft = _folder() / f"kernels.json.{os.getpid()}"
        with open(draft, "w", opener=creating) as file:
            file.write(text)
        draft.replace(_folder() / "kernels.json")


@contextlib.contextmanager
def compiling(on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Alone with a cold cache, as far as that can be had: without a place to lock, or behind one
    that was stopped, several processes may compile at once; that is slow, not wrong.

    Args:
        on_wait: called if there is another process to wait for.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home.
            make_root(_folder(), group=False)
            _take(_folder() / "kernels.lock", stack, on_wait)
        yield


def _take(lock: Path, stack: contextlib.ExitStack, on_wait: Callable[[], None]) -> None:
    """Take the lock, unless it is not needed any more or not worth waiting for."""
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
    """The process that has the lock was stopped, by a signal or a debugger."""
    with contextlib.suppress(OSError, ValueError):
        said = Path(f"/proc/{int(lock.read_text())}/stat").read_text()
        return said.rpartition(")")[2].split()[0] in ("T", "t")
    return False


def _folder() -> Path:
    """Where lock and note are.

    Raises:
        RuntimeError: the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vecdb"


def _key() -> str:
    """What numba's cache depends on, as far as it is known without importing it."""
    source = _SOURCE.stat()
    settings = sorted((k, v) for k, v in os.environ.items() if k.startswith("NUMBA_"))
    words = (
        *(os.fspath(_SOURCE), source.st_mtime_ns, source.st_size, sys.version, _processor()),
        *(importlib.metadata.version(name) for name in ("numba", "llvmlite")),
        *settings,
    )
    return hashlib.sha256(repr(words).encode()).hexdigest()


def _processor() -> list[str]:
    """Model and features of the first processor; nothing where the system does not say so."""
    with contextlib.suppress(OSError):
        block = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return [line for line in block if line.startswith(("model", "flags", "Features", "CPU "))]
    return []
