"""What these tests need besides Python: strace, which can attach to our processes.

Without it such tests are skipped with the reason. With VECDB_REQUIRE_TORTURE=1, as in continuous
integration, they fail instead, so that they are not skipped unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from typing import NoReturn

import pytest

__all__ = ["cannot", "needs_strace"]


@cache
def _why_not() -> str:
    """Return why strace can't be used; empty if it can."""
    if sys.platform != "linux":
        return "strace is Linux's"
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-o", os.devnull, "-e", "trace=fsync", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return "" if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


def needs_strace() -> None:
    """Skip or fail the test if strace can't be used."""
    if why := _why_not():
        cannot(why)


def cannot(why: str) -> NoReturn:
    """Skip the test, or fail it where it must not be skipped."""
    if os.environ.get("VECDB_REQUIRE_TORTURE"):
        pytest.fail(f"{why}, and VECDB_REQUIRE_TORTURE is set")
    pytest.skip(why)
