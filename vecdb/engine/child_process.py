"""Starting a module of ours in a process of its own: the indexer, a backup, a check.

It talks in lines over its standard input and output, errors among them, and ends when its input
does, which is also how it notices that this process is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vecdb

__all__ = ["start_child"]


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
