"""What is needed to reproduce a figure: code, versions, machine, load."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import vecdb

__all__ = ["provenance"]

_PACKAGES = ("grpcio", "hnswlib", "lmdb", "numba", "numpy")


def provenance() -> dict[str, Any]:
    """Return the current commit, versions, processor, cores, memory, load average and time."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "commit": _commit(),
        "vecdb": vecdb.__version__,
        "packages": {name: _version(name) for name in _PACKAGES},
        "blas": _blas(),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _blas() -> str:
    found: Any = np.show_config(mode="dicts")
    blas = found["Build Dependencies"]["blas"]
    return f"{blas.get('name', '')} {blas.get('version', '')}".strip()


def _commit() -> str:
    """Return the commit of the running checkout, "+" appended if modified; "" outside of git."""
    folder = Path(vecdb.__file__).parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *command],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changes else "")
