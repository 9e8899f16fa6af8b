"""Separate virtual environments for peers and data tools, created on demand.

Each peer gets an environment of its own in the cache, since the pinned versions of such packages
conflict with each other and with ours. A stamp file holds the Python version and the requirements;
if they change, the environment is rebuilt. PYTHONPATH is a folder with a single link to this
package, so that a worker there can import nothing else of ours.
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
        """Return the path of its interpreter, creating the environment if missing or outdated.

        Raises:
            UnavailableError: pip failed or took too long; the message has the end of its output.
        """
        path = self.folder / "bin" / "python"
        wanted = json.dumps([sys.version, *self._requirements])
        if not (self._stamp.exists() and self._stamp.read_text() == wanted and path.exists()):
            self._make(path)
            self._stamp.write_text(wanted)
        return str(path)

    def package_path(self) -> str:
        """Return a folder that contains ``vecdb_bench`` only, for PYTHONPATH."""
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
                f"pip install {' '.join(self._requirements)} did not finish within "
                f"{_INSTALL_TIMEOUT_S:.0f} s; check the connection and retry",
                "INSTALL_FAILED",
            ) from None
        if done.returncode:
            raise UnavailableError(
                f"pip install {' '.join(self._requirements)} exited with status "
                f"{done.returncode}:\n{done.stderr[-1500:]}",
                "INSTALL_FAILED",
            )
