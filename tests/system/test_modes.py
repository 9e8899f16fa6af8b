"""Modes of created files and folders: for the user alone, or for the group with group_access."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import opened_of
from vecdb.errors import FailedPreconditionError

DIM = 8


def rows(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o777


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """Return the modes of a folder, and of all files and folders in it."""
    folders, files = {mode(folder)}, set()
    for place, inner, names in os.walk(folder):
        folders |= {mode(Path(place, name)) for name in inner}
        files |= {mode(Path(place, name)) for name in names}
    return folders, files


@contextlib.contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def use_all_of(folder: Path, backup: Path, **options: Any) -> None:
    """Run everything that creates files: all kinds of segments, import, backup, compaction."""
    with vecdb.open(folder, **options) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert([str(i) for i in range(300)], rows(300))
        opened_of(docs).flush(1)
        docs.optimize()
        docs.upsert([str(i) for i in range(300, 400)], rows(100, 5))
        opened_of(docs).flush(1)
        docs.scroll_page(batch=5)
        database.create_collection("gone", DIM)
        database.rename_collection("docs", "notes")
        database.drop_collection("gone")
        database.backup(backup)
    vecdb.compact(folder)


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["user", "group"])
def test_created_files_have_the_mode_of_user_or_group(tmp_path: Path, group: bool) -> None:
    """With any umask."""
    folder, backup, restored = tmp_path / "a" / "data", tmp_path / "backup", tmp_path / "restored"
    with umask(0o077 if group else 0):
        use_all_of(folder, backup, **({"group_access": True} if group else {}))
        vecdb.restore(backup, restored)
        with vecdb.open(restored, indexer=False) as database:
            database.create_collection("more", DIM).upsert(["own"], rows(1))
    expected = ({0o770}, {0o660}) if group else ({0o700}, {0o600})
    for each in (folder, backup, restored):
        assert modes(each) == expected, each


def test_existing_folder_keeps_its_modes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o750)
    vecdb.open(folder, indexer=False).close()
    assert mode(folder) == 0o750 and mode(folder / "FORMAT") == 0o600
    (folder / "FORMAT").chmod(0o400)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        store = database.path / "collections" / opened_of(docs).id / "store" / "data.mdb"
        docs.upsert(["own"], rows(1))
    store.chmod(0o640)
    vecdb.compact(folder)
    assert mode(folder) == 0o750 and mode(folder / "FORMAT") == 0o400 and mode(store) == 0o640


def test_group_access_to_a_private_folder_is_refused(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    vecdb.open(folder, indexer=False).close()
    with pytest.raises(FailedPreconditionError, match="chmod -R"):
        vecdb.open(folder, indexer=False, group_access=True)
    assert mode(folder) == 0o700
    subprocess.run(["chmod", "-R", "g+rwX", folder], check=True)
    with vecdb.open(folder, indexer=False, group_access=True) as database:
        database.create_collection("docs", DIM)
    assert modes(folder) == ({0o770}, {0o660})
    (folder / "collections").chmod(0o2770)  # What is made in it belongs to the folder's group.
    with vecdb.open(folder, indexer=False) as database:
        made = opened_of(database.create_collection("more", DIM)).folder
    assert made.stat().st_mode & stat.S_ISGID


READER = """
import fcntl, os, sys
os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("locked")
    except PermissionError:
        print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_lock_file_readable_by_others_is_restricted(tmp_path: Path) -> None:
    """As earlier versions created it: any reader of the folder could hold the lock forever."""
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder) not in ("/", "/tmp"):
            folder.chmod(0o755)
    lock = tmp_path / "some.lock"
    lock.touch()
    lock.chmod(0o644)
    assert _as_reader(lock) == "locked"
    with file_lock(lock, wait=False) as held:
        assert held
    assert mode(lock) == 0o600 and _as_reader(lock) == "refused"
    lock.chmod(0o400)  # Restricted by hand: the mode is not widened.
    with file_lock(lock, wait=False) as held:
        assert held
    assert mode(lock) == 0o400


def _as_reader(lock: Path) -> str:
    command = [sys.executable, "-c", READER, os.fspath(lock)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
