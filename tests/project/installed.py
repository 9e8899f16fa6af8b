"""Running what is installed in another environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.waiting import HANG_S


def environment() -> dict[str, str]:
    """Variables for a program that is to find only what is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program away from the source tree."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        cwd="/",
        env=environment(),
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done
