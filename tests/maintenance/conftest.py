"""A folder to plant faults into, and backups that are stopped on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checking import checked, fill
from tests.maintenance.backups import PausedBackup


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


@pytest.fixture
def paused(tmp_path: Path) -> Iterator[Any]:
    """Create a PausedBackup of tmp_path / "data", and end it after the test."""
    made: list[PausedBackup] = []

    def make(function: str, call: int = 1, *options: str) -> PausedBackup:
        data, target = tmp_path / "data", tmp_path / "backup"
        made.append(PausedBackup(data, target, function, call, *options))
        return made[-1]

    yield make
    for each in made:
        each.end()
