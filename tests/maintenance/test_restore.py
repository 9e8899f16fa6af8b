"""Restoring: damaged, foreign and newer backups are refused, and nothing is overwritten."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import vecdb
from tests.maintenance.backups import check_same, entries_of, filled, flip, flipped, partials
from vecdb.engine.maintenance.backup.manifest import read_manifest, write_manifest


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_flipped_byte_in_a_backup_is_refused(tmp_path: Path, everything: bool) -> None:
    """everything: at the ends of each file, too, and with bytes missing and added."""
    database, _ = filled(tmp_path / "data", 60)
    with database:
        database.backup(tmp_path / "backup")
    files = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
    # Store, catalogue and manifest, a flat segment and a graph with columns.
    assert len(files) == 2 + 1 + (5 + 9)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    random.seed(seed)
    for path in files:
        whole = path.read_bytes()
        damaged: list[bytes | None] = [flipped(whole, random.randrange(len(whole)))]
        if everything:
            ends = (flipped(whole, at) for at in (0, len(whole) - 1))
            damaged += [*ends, whole[:-1], whole + b"\n", None]
        for content in damaged:
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(vecdb.VecdbError, match=path.name):
                vecdb.restore(tmp_path / "backup", tmp_path / "restored")
        path.write_bytes(whole)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["backup", "data"]
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")


def test_changed_byte_of_the_manifest_is_refused(tmp_path: Path) -> None:
    database, _ = filled(tmp_path / "data", 60)
    with database:
        database.backup(tmp_path / "backup", include_segments=False)
    manifest = tmp_path / "backup" / "backup.json"
    whole = manifest.read_bytes()
    for at in range(len(whole)):
        manifest.write_bytes(flipped(whole, at))
        with pytest.raises(vecdb.VecdbError, match=r"backup\.json"):
            read_manifest(tmp_path / "backup")
    manifest.write_bytes(whole)
    read_manifest(tmp_path / "backup")


def test_backup_with_damaged_segments_is_restored_without_them(tmp_path: Path) -> None:
    database, model = filled(tmp_path / "data")
    with database:
        database.backup(tmp_path / "backup")
    for path in (tmp_path / "backup").rglob("vectors.npy"):
        flip(path, 500)
    with pytest.raises(vecdb.DataLossError, match="restoring without segments"):
        vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    vecdb.restore(tmp_path / "backup", tmp_path / "restored", include_segments=False)
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        docs = database.collection("docs")
        assert {e.state for e in entries_of(docs).values()} == {"lost"}
        check_same(docs, model)


def test_backup_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    database, _ = filled(tmp_path / "data", 60)
    with database:
        database.backup(tmp_path / "backup")
    manifest = tmp_path / "backup" / "backup.json"
    content = json.loads(manifest.read_text())
    for key in ("format", "data_format"):
        manifest.write_text(json.dumps({**content, key: 2}))
        with pytest.raises(vecdb.FailedPreconditionError, match=f"{key} 2.*up to 1") as caught:
            vecdb.restore(tmp_path / "backup", tmp_path / "restored")
        assert caught.value.reason == "NEWER_FORMAT"


@pytest.mark.parametrize("name", ["../outside", "/outside", "catalog/../../outside"])
def test_manifest_with_paths_outside_of_the_backup_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    (tmp_path / "backup").mkdir()
    content = {"files": {name: {"bytes": 1, "crc32": 0x8CDC1683}}, "collections": []}
    write_manifest(tmp_path / "backup", content)
    with pytest.raises(vecdb.DataLossError, match="outside of its folder"):
        vecdb.restore(tmp_path / "backup", tmp_path / "restored")


@pytest.mark.slow
def test_restore_overwrites_nothing(tmp_path: Path) -> None:
    database, model = filled(tmp_path / "data", 60)
    with database:
        database.backup(tmp_path / "backup")
        with pytest.raises(vecdb.AlreadyExistsError):
            database.backup(tmp_path / "backup")
        with pytest.raises(vecdb.AlreadyExistsError):
            vecdb.restore(tmp_path / "backup", tmp_path / "data")
        check_same(database.collection("docs"), model)
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "full", "link", "backup"):
        with pytest.raises((vecdb.AlreadyExistsError, vecdb.InvalidArgumentError)):
            vecdb.restore(tmp_path / "backup", tmp_path / name)
        database = vecdb.open(tmp_path / "data", indexer=False)
        with database, pytest.raises(vecdb.AlreadyExistsError):
            database.backup(tmp_path / name)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "full" / "file").read_bytes() == b"mine"
    (tmp_path / "empty").mkdir()
    database = vecdb.open(tmp_path / "data", indexer=False)
    with database, pytest.raises(vecdb.AlreadyExistsError):
        database.backup(tmp_path / "empty")
    vecdb.restore(tmp_path / "backup", tmp_path / "empty")
    with vecdb.open(tmp_path / "empty", indexer=False) as database:
        check_same(database.collection("docs"), model)
    with pytest.raises(vecdb.FailedPreconditionError, match="vecdb restore") as caught:
        vecdb.open(tmp_path / "backup")
    assert caught.value.reason == "IS_BACKUP"
    assert partials(tmp_path) == []
