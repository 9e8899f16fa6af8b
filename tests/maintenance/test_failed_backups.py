"""Backups that are killed, cancelled or fail leave nothing that could be taken for one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.maintenance.backups import (
    check_same,
    filled,
    flip,
    partials,
    vectors_of,
    wait_for,
)
from vecdb.engine.maintenance.backup.process import back_up
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import opened_of, reader_table, runtime_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "how"),
    [
        ("_copy_collection", "killed"),
        ("settle", "killed"),
        ("write_manifest", "killed"),
        ("_copy_segments", "orphaned"),
    ],
)
def test_killed_backup_leaves_no_backup(tmp_path: Path, paused: Any, moment: str, how: str) -> None:
    database, model = filled(tmp_path / "data", 60)
    with database:
        backup = paused(moment)
        if how == "killed":
            backup.kill()
        else:
            assert backup.end() == 1
        (partial,) = partials(tmp_path)
        assert not (tmp_path / "backup").exists()
        with pytest.raises(vecdb.NotFoundError, match=r"no file backup\.json"):
            vecdb.restore(partial, tmp_path / "restored")
        with pytest.raises(vecdb.FailedPreconditionError):
            vecdb.open(partial)
        docs = database.collection("docs")
        docs.upsert(["new"], vectors_of(3, 1))
        model.upsert(["new"], vectors_of(3, 1), None)
        check_same(docs, model)
        # A folder with such a name that is not ours.
        (tmp_path / "backup.partial-mine").mkdir()
        database.backup(tmp_path / "backup")
        assert partials(tmp_path) == [tmp_path / "backup.partial-mine"]
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        check_same(database.collection("docs"), model)


@pytest.mark.slow
def test_second_backup_to_the_same_path_is_refused(tmp_path: Path, paused: Any) -> None:
    database, model = filled(tmp_path / "data", 60)
    with database:
        slow = paused("settle")
        database.backup(tmp_path / "backup")
        assert len(partials(tmp_path)) == 1  # The one of the slow backup, which is left alone.
        answer = slow.finish()
        assert (answer["error"], answer["reason"]) == ("AlreadyExistsError", "PATH_TAKEN")
    assert partials(tmp_path) == []
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        check_same(database.collection("docs"), model)


READER = """
import pathlib, sys, time
from vecdb.engine.store import layout
from vecdb.engine.kv.environment import Environment

folder = pathlib.Path(sys.argv[1])
environment = Environment(folder, layout.DATABASES, create=False, map_bytes=1 << 24)
with environment.read():
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(60)
"""


def test_cancelled_backup_leaves_nothing(tmp_path: Path) -> None:
    database, _ = filled(tmp_path / "data")
    with database:
        store = opened_of(database.collection("docs")).store
        # A reader that was killed, like a backup while it copies a store.
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, store.environment.folder, tmp_path / "reads"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        wait_for(tmp_path / "reads")
        reader.kill()
        reader.wait()
        assert f" {reader.pid} " in reader_table(store.environment)
        asked: list[int] = []

        def is_cancelled() -> bool:
            asked.append(len(partials(tmp_path)))
            return asked[-1] > 0

        deadline = Deadline(None, is_cancelled)
        held = file_lock(tmp_path / "data" / "catalog.lock", wait=True)
        with held, pytest.raises(vecdb.CancelledError):
            back_up(runtime_of(database), tmp_path / "backup", deadline, include_segments=True)
        assert asked[-1] == 1
        assert f" {reader.pid} " not in reader_table(store.environment)
        (tmp_path / "reads").unlink()
        assert sorted(tmp_path.iterdir()) == [tmp_path / "data"]


@pytest.mark.parametrize("pages", [4, 16, 40])
def test_full_disk_during_a_backup_is_reported_and_leaves_nothing(
    tmp_path: Path, pages: int
) -> None:
    database, model = filled(tmp_path / "data", 3_000)
    with database:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 * pages, hard))
        try:
            with pytest.raises(vecdb.ResourceExhaustedError) as caught:
                database.backup(tmp_path / "backup")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.reason == "DISK_FULL"
        assert str(tmp_path / "backup") in caught.value.message
        assert sorted(tmp_path.iterdir()) == [tmp_path / "data"]
        check_same(database.collection("docs"), model)


def test_damaged_store_is_not_backed_up(tmp_path: Path) -> None:
    database, _ = filled(tmp_path / "data", 60)
    with database:
        folder = opened_of(database.collection("docs")).folder
    vector = vectors_of(2, 20)[7].tobytes()
    store = folder / "store" / "data.mdb"
    flip(store, store.read_bytes().index(vector) + 5)
    database = vecdb.open(tmp_path / "data", indexer=False)
    with database, pytest.raises(vecdb.DataLossError, match="checksum of blocks"):
        database.backup(tmp_path / "backup")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "data"]
