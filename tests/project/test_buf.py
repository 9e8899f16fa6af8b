"""The wire contract by the rules of buf: its style, and that no change breaks its users.

``buf`` is taken from the PATH, or else installed by npm for the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import HANG_S

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
RELEASED = ROOT / "tests/data/contract"
PACKAGE = "@bufbuild/buf@^1.50"


@pytest.fixture(scope="module")
def buf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of buf."""
    if found := shutil.which("buf"):
        return found
    if shutil.which("npm") is None:
        pytest.skip("there is neither buf nor npm")
    folder = tmp_path_factory.mktemp("buf")
    command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm cannot install {PACKAGE} in time")
    installed = folder / "node_modules/.bin/buf"
    if done.returncode or not installed.exists():
        pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr[-300:]}")
    return str(installed)


def run(buf: str, home: Path, *arguments: str | Path, cwd: Path = PROTO) -> tuple[int, str]:
    """Run buf and return its exit status and findings. Its cache is in the folder ``home``."""
    done = subprocess.run(
        [buf, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        cwd=cwd,
        env={**os.environ, "HOME": str(home)},
    )
    return done.returncode, done.stdout + done.stderr


def test_the_contract_has_no_lint(buf: str, tmp_path: Path) -> None:
    assert run(buf, tmp_path, "lint") == (0, "")


def test_the_contract_breaks_nothing_of_the_released_one(buf: str, tmp_path: Path) -> None:
    assert run(buf, tmp_path, "breaking", "--against", RELEASED) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("  uint32 k = 4;", "  uint32 k = 99;", 'Previously present field "4"'),
        ("  uint32 k = 4;", "  uint64 k = 4;", 'changed type from "uint32" to "uint64"'),
        ("  uint32 k = 4;", "  uint32 count = 4;", 'changed name from "k" to "count"'),
        ("OPERATOR_IN = 7", "OPERATOR_WITHIN = 7", 'from "OPERATOR_IN" to "OPERATOR_WITHIN"'),
    ],
)
def test_a_breaking_change_is_found(
    buf: str, tmp_path: Path, old: str, new: str, finding: str
) -> None:
    changed = tmp_path / "proto/vecdb_proto/vecdb.proto"
    changed.parent.mkdir(parents=True)
    shutil.copy(PROTO / "buf.yaml", tmp_path / "proto")
    text = (PROTO / "vecdb_proto/vecdb.proto").read_text()
    assert old in text
    changed.write_text(text.replace(old, new))
    home = tmp_path / "home"
    status, found = run(buf, home, "breaking", "--against", RELEASED, cwd=tmp_path / "proto")
    assert status != 0 and finding in found


def test_lint_is_found(buf: str, tmp_path: Path) -> None:
    shutil.copytree(PROTO, tmp_path / "proto", ignore=shutil.ignore_patterns("*.py*"))
    changed = tmp_path / "proto/vecdb_proto/vecdb.proto"
    text = changed.read_text()
    changed.write_text(f"{text}\nenum Odd {{ EVEN = 0; }}\n")
    status, found = run(buf, tmp_path / "home", "lint", cwd=tmp_path / "proto")
    assert status != 0 and "ODD_" in found and "non-empty comment" in found
