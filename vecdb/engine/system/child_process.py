"""Starting a module of vecdb as a child process: the indexer, a backup, a check.

Parent and child exchange lines over the child's standard input and output, errors included. The
child ends at the end of its input, so it also ends if the parent dies. It runs at a lower priority
than searches and writes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from vecdb import _version

__all__ = ["lower_priority", "start_child", "start_detached"]

_NICENESS: Final = 10
"""With this niceness the child still gets a tenth of a core that searches keep busy. It must not
starve: until rows are in a graph, every search scans them."""

_LOG_BYTES_MAX: Final = 1024**2


def start_child(module: str, *arguments: str, own_session: bool) -> subprocess.Popen[str]:
    """Start ``python -m module arguments`` with this vecdb, even if another one is installed.

    Args:
        own_session: True to keep signals to this process's group, such as those of Ctrl-C, from
            the child.
    """
    return subprocess.Popen(
        _command(module, arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(),
        start_new_session=own_session,
    )


def start_detached(module: str, *arguments: str, log: Path, holding: int) -> None:
    """Start a process that outlives this one and ends when its work is done. Append its output to
    a log file, which is truncated first if it exceeds 1 MiB.

    Args:
        log: the log file.
        holding: a descriptor that the child inherits, and with it the lock on that file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        flags |= os.O_TRUNC
    descriptor = os.open(log, flags, 0o600)
    try:
        child = subprocess.Popen(
            _command(module, arguments),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=_environment(),
            start_new_session=True,
            pass_fds=(holding,),
        )
    finally:
        os.close(descriptor)
    # Reap the child if it ends before this process, so that it does not remain a zombie.
    threading.Thread(target=child.wait, name="vecdb-detached", daemon=True).start()


def _command(module: str, arguments: tuple[str, ...]) -> list[str]:
    # The child must not import from the caller's current folder: what -P is for since Python 3.11.
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", module, *arguments]
    code = (
        "import runpy, sys; del sys.path[0]; "
        "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", code, module, *arguments]


def _environment() -> dict[str, str]:
    home = str(Path(_version.__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home}


def lower_priority() -> None:
    """Lower the scheduling priority of this process; the child calls it.

    Where Linux schedules by session (autogroups), niceness only ranks the processes within a
    session and has no effect for a process in its own session. Then set the niceness of the
    autogroup.
    """
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    if hasattr(os, "getsid") and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(_NICENESS))
