"""A folder to plant faults into."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.checking import checked, fill


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "data"
    fill(folder)
    assert (folder / "use.lock").is_file()  # It stays, and is no leftover.
    assert checked(folder)[0] == []
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "data"
    shutil.copytree(template, copy)
    return copy
