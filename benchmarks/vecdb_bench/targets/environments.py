"""Python environments of their own for peers and data tools, made when they are first needed.

Pins of such packages contradict each other and ours, so each gets a virtual environment in the
cache. A stamp holds what it was made of; other requirements make it anew. Our worker is found there
through a folder with one link to this package, so that nothing else of ours is on its path.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from vecdb.errors import UnavailableError

__all__ = ["Environment"]

_INSTALL_TIMEOUT_S = 1_200.0


class Environment:
    """A virtual environment with some requirements, under ``<cache>/environments/<name>``."""

    def __init__(self, name: str, requirements: tuple[str, ...], cache: Path) -> None:
        self.folder = cache / "environments" / name
        self._requirements = requirements
        self._stamp = self.folder / "requirements.json"

    def python(self) -> str:
        """Its interpreter; the environment is made if it is not there.

        Raises:
            UnavailableError: pip failed; the message holds its last lines.
        """
        path = self.folder / "bin" / "python"
        wanted = json.dumps([sys.version, *self._requirements])
        if not (self._stamp.exists() and self._stamp.read_text() == wanted and path.exists()):
            self._make(path)
            self._stamp.write_text(wanted)
        return str(path)

    def package_path(self) -> str:
        """A folder in which ``vecdb_bench`` lies alone, for PYTHONPATH."""
        place = self.folder / "path"
        place.mkdir(exist_ok=True)
        link, package = place / "vecdb_bench", Path(__file__).resolve().parent.parent
        if not link.is_symlink() or link.resolve() != package:
            link.unlink(missing_ok=True)
            link.symlink_to(package)
        return str(place)

    def _make(self, python: Path) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        venv.create(self.folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *self._requirements]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(
                f"pip install {' '.join(self._requirements)} took over {_INSTALL_TIMEOUT_S:.0f} s",
                "INSTALL_FAILED",
            ) from None
        if done.returncode:
            raise UnavailableError(
                f"pip install {' '.join(self._requirements)} failed:\n{done.stderr[-1500:]}",
                "INSTALL_FAILED",
            )
