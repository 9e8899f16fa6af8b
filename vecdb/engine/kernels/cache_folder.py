"""The folder in which the kernels are cached, and whether it holds all of them.

    <where numba caches>/vecdb-<sources>/
        walk.walk_graph-….nbi, .nbc   numba's files, an index and machine code for each kernel
        complete-<machine>            all kernels are here, for this machine

``<sources>`` is a hash of what the modules of this package contain. numba notices only a change of
the module in which a kernel is defined; the code that is compiled into it comes from other modules
too. ``<machine>`` is a hash of all else that the machine code depends on. It lets users who cannot
write to the folder read from it (``cache_locator.py``).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

__all__ = [
    "PACKAGE",
    "folder_name",
    "is_complete",
    "is_ours",
    "machine",
    "mark_complete",
    "remove_older",
    "sources",
]

PACKAGE: Final = Path(__file__).parent
"""The folder of the sources."""

_NAME: Final = re.compile("vecdb-[0-9a-f]{16}")


def folder_name() -> str:
    """Return the name of the folder for the sources as they are now.

    Raises:
        OSError: the sources cannot be read, as in an archive.
    """
    return f"vecdb-{sources()[:16]}"


def sources() -> str:
    """Return a hash of names and contents of all modules of this package.

    Raises:
        OSError: the sources cannot be read.
    """
    files = sorted(PACKAGE.glob("*.py"))
    if not files:
        raise FileNotFoundError(f"no Python source in {PACKAGE}")
    whole = hashlib.sha256()
    for file in files:
        whole.update(repr((file.name, file.read_bytes())).encode())
    return whole.hexdigest()


def machine() -> str:
    """Return a hash of what the machine code depends on beside the sources."""
    settings = (os.environ.get(name) for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"))
    parts = (sys.version, _versions(), _processor(), *settings)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def is_complete(folder: Path) -> bool:
    """Return whether the folder holds all kernels for this machine, and can be read."""
    try:
        names = _mark(folder).read_text().splitlines()
        return bool(names) and all(os.access(folder / name, os.R_OK) for name in names)
    except (OSError, ValueError):
        return False


def is_ours(folder: Path) -> bool:
    """Return whether the folder is named as in ``folder_name``, for these or other sources."""
    return _NAME.fullmatch(folder.name) is not None


def mark_complete(folder: Path, names: list[str]) -> None:
    """Record that the folder holds all kernels, in these files, if the folder can be written."""
    if not is_complete(folder):
        draft = folder / f"draft.{os.getpid()}"
        with contextlib.suppress(OSError):
            draft.write_text("\n".join(names))
            draft.replace(_mark(folder))


def remove_older(folder: Path) -> None:
    """Remove the folders for other sources beside this one."""
    with contextlib.suppress(OSError):
        for other in folder.parent.iterdir():
            if other.name != folder.name and is_ours(other):
                shutil.rmtree(other, ignore_errors=True)


def _mark(folder: Path) -> Path:
    return folder / f"complete-{machine()[:16]}"


@functools.cache
def _versions() -> tuple[str, ...]:
    return tuple(importlib.metadata.version(name) for name in ("numba", "llvmlite"))


@functools.cache
def _processor() -> list[str]:
    """Return model and features of the first processor; [] if the system does not list them."""
    with contextlib.suppress(OSError):
        block = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return [line for line in block if line.startswith(("model", "flags", "Features", "CPU "))]
    return []
