"""Starting a module of ours in a process of its own: the indexer, a backup, a check.

It talks in lines over its standard input and output, errors among them, and ends when its input
does, which is also how it notices that this process is gone. It gives way to searches and writes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import vecdb

__all__ = ["give_way", "start_child"]

_NICENESS: Final = 10
"""It still gets a tenth of a core that searches want for themselves, so that it never stands
still: rows that wait for a graph are scanned by every search."""


def start_child(module: str, *arguments: str, own_session: bool) -> subprocess.Popen[str]:
    """``python -m module arguments``, with this vecdb whatever else is installed.

    Args:
        own_session: signals to this process's group, as Ctrl-C sends them, are not for the child.
    """
    home = str(Path(vecdb.__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return subprocess.Popen(
        # -P: what lies in the caller's current folder is no business of the child's.
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home},
        start_new_session=own_session,
    )


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
