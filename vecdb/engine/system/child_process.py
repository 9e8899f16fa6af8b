"""Starting a module of ours in a process of its own: the indexer, a backup, a check.

It talks in lines over its standard input and output, errors among them, and ends when its input
does, which is also how it notices that this process is gone. It gives way to searches and writes.
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

__all__ = ["give_way", "start_child", "start_detached"]

_NICENESS: Final = 10
"""It still gets a tenth of a core that searches want for themselves, so that it never stands
still: rows that wait for a graph are scanned by every search."""

_LOG_BYTES_MAX: Final = 1024**2


def start_child(module: str, *arguments: str, own_session: bool) -> subprocess.Popen[str]:
    """``python -m module arguments``, with this vecdb whatever else is installed.

    Args:
        own_session: signals to this process's group, as Ctrl-C sends them, are not for the child.
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
    """The same for a process that goes on without this one: it ends by itself, and what it says is
    added to a file, which is begun again when it has grown.

    Args:
        holding: a descriptor that it is born with, and a lock by it.
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
    # While this process lives, it is the one to collect it.
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


def give_way() -> None:
    """For the child to call: let other processes go first where there are too few cores.

    Linux weighs sessions, not processes, against each other where it groups them by session, so
    that a process's own niceness does nothing in a session of its own; then the group gets one.
    """
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    if hasattr(os, "getsid") and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(_NICENESS))
