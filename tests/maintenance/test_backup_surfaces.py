"""Backups embedded, remote, and on the command line; the folder for backups of a server."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.maintenance.backups import DIM, check_same, filled, partials, vectors_of, wait_for
from tests.model import Model
from tests.serving import running_server
from tests.waiting import HANG_S, eventually
from vecdb.engine.system.files import file_lock
from vecdb_cli import command_line
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.process import Server


@pytest.mark.slow
def test_backup_works_embedded_and_remote(surface: Any, tmp_path: Path) -> None:
    docs = surface.create_collection("docs", DIM)
    model = Model(DIM, "cosine")
    batch = ([str(i) for i in range(300)], vectors_of(0, 300), [{"n": i} for i in range(300)])
    docs.upsert(*batch)
    model.upsert(*batch)
    docs.optimize(timeout_s=HANG_S)
    report = surface.backup(tmp_path / "backup")
    lean = surface.backup(str(tmp_path / "lean"), include_segments=False)
    assert (report.path, report.collections, report.rows) == (str(tmp_path / "backup"), 1, 300)
    assert report.bytes > lean.bytes > 0 and report.elapsed_s > 0
    assert not list((tmp_path / "lean").rglob("*.npy"))
    for path, reason in (
        (tmp_path / "backup", "PATH_TAKEN"),
        (tmp_path / "nowhere" / "backup", "NO_FOLDER"),
        (tmp_path / "data" / "backup", "BAD_PATH"),
        ("", "BAD_PATH"),
        ("/tmp/\0", "BAD_PATH"),
        ("/tmp/\udc80", "BAD_PATH"),
        (5, "BAD_PATH"),
    ):
        with pytest.raises(vecdb.VecdbError) as caught:
            surface.backup(path)
        assert caught.value.reason == reason, path
    if isinstance(surface, vecdb.engine.api.database.Database):
        return
    with pytest.raises(vecdb.AlreadyExistsError):
        surface.backup("backup")  # Relative to the server's folder.
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        check_same(database.collection("docs"), model)
        assert database.collection("docs").search(vectors_of(1, 1)[0]).info.plan == "graph"


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A folder, and a client of a server with the backup folder "backups", in which the link "out"
    leads out of it and "in" back into it.
    """
    folder = tmp_path_factory.mktemp("wire")
    (folder / "backups" / "weekly").mkdir(parents=True)
    (folder / "backups" / "out").symlink_to("/etc")
    (folder / "backups" / "nothing").symlink_to("/etc/nothing")
    (folder / "backups" / "in").symlink_to(folder / "backups" / "weekly")
    (folder / "other").mkdir()
    database, _ = filled(folder / "data", 60)
    database.close()
    (folder / "backups" / "data").symlink_to(folder / "data")
    with (
        running_server(folder / "data", indexer=False, backup_dir=folder / "backups") as address,
        vecdb.connect(address) as client,
    ):
        yield folder, client


@pytest.mark.parametrize(
    "name",
    [
        *("monday", "in/tuesday", "abs"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("./x", "weekly/monday", "~", "…")
        ),
    ],
)
def test_remote_backup_is_written_into_the_backup_folder(
    backed_up: tuple[Path, Any], name: str
) -> None:
    folder, client = backed_up
    asked = str(folder / "backups" / "absolute") if name == "abs" else name
    report = client.backup(asked)
    made = Path(report.path)
    assert made.is_relative_to(folder / "backups") and (made / "backup.json").exists()
    with pytest.raises(vecdb.AlreadyExistsError):
        client.backup(asked)


@pytest.mark.parametrize(
    "asked",
    ["", ".", "..", "../other/x", "weekly/../../other/x", "weekly/../x", "/etc/passwd",
     "/etc/nothing", "/var/x", "/nowhere/at/all", "out/x", "out/passwd", "out/no/x", "data/x",
     "data", "{folder}/other/x", "{folder}/data/x", "{folder}/backups", "{folder}/backups/../x",
     "//etc/x", "{folder}/backups2/x", "out", "nothing"],
)  # fmt: skip
def test_remote_backup_outside_of_the_backup_folder_is_refused(
    backed_up: tuple[Path, Any], asked: str
) -> None:
    folder, client = backed_up
    asked = asked.format(folder=folder)
    request = wire.BackupRequest(path=asked)
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        calls_of(client).wait("Backup", request, None)
    assert caught.value.reason == "BAD_PATH"
    message = caught.value.message.replace(repr(asked), "PATH")
    assert message in (
        "invalid path PATH",
        "expected a path relative to the server's folder for backups, got PATH",
    )
    assert sorted(each.name for each in folder.iterdir()) == ["backups", "data", "other"]
    assert not list((folder / "other").iterdir())


def test_server_without_a_backup_folder_refuses_backups(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", indexer=False) as address:
        with vecdb.connect(address) as client:
            for path in ("x", str(tmp_path / "x"), "/etc/x", str(tmp_path / "data")):
                with pytest.raises(vecdb.FailedPreconditionError) as caught:
                    client.backup(path)
                assert caught.value.reason == "NO_BACKUP_DIR"
                assert "vecdb serve --backup-dir DIR" in caught.value.message
        assert command_line.run(["backup", "x", "--url", address]) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_server_with_an_invalid_backup_folder_does_not_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data" / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "inside")
    for name in ("none", "file", "data", "data/inside", "link"):
        with pytest.raises(vecdb.InvalidArgumentError) as caught:
            Server(tmp_path / "data", "127.0.0.1:0", backup_dir=tmp_path / name)
        assert caught.value.reason == "BAD_BACKUP_DIR"
        assert str(tmp_path / name) in caught.value.message


def test_server_stops_a_backup_when_its_client_disconnects(tmp_path: Path) -> None:
    database, _ = filled(tmp_path / "data", 60)
    database.close()
    with (
        running_server(tmp_path / "data", backup_dir=tmp_path) as address,
        vecdb.connect(address) as client,
    ):
        calls = calls_of(client)
        request = wire.BackupRequest(path=str(tmp_path / "backup"))
        with file_lock(tmp_path / "data" / "catalog.lock", wait=True):
            begun = calls.start_write("Backup", request)
            wait_for(tmp_path / "backup.partial-*")
            begun.cancel()
            eventually(lambda: not partials(tmp_path))
        assert sorted(tmp_path.iterdir()) == [tmp_path / "data"]
        assert calls.wait("Backup", request, None).report.rows == 48
        assert list((tmp_path / "backup").rglob("*.npy"))  # With segments if nothing is said.


def test_closing_the_database_ends_its_backup(tmp_path: Path) -> None:
    database, _ = filled(tmp_path / "data")
    errors: list[Exception] = []

    def back_up() -> None:
        try:
            database.backup(tmp_path / "backup")
        except vecdb.VecdbError as error:
            errors.append(error)

    thread = threading.Thread(target=back_up)
    with file_lock(tmp_path / "data" / "catalog.lock", wait=True):
        thread.start()
        wait_for(tmp_path / "backup.partial-*")
        database.close()
        thread.join(HANG_S)
    assert [error.reason for error in errors] == ["CLOSED"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "data"]


@pytest.mark.parametrize("option", ["--url", pytest.param("--data", marks=pytest.mark.slow)])
def test_command_line_backs_up_and_restores(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database, model = filled(tmp_path / "data", 60)
    database.close()
    with contextlib.ExitStack() as stack:
        where = tmp_path / "data"
        if option == "--url":
            served = running_server(where, backup_dir=tmp_path)
            where = stack.enter_context(served)  # type: ignore[assignment]
        backup, restored = str(tmp_path / "backup"), str(tmp_path / "restored")
        assert command_line.run(["backup", backup, option, str(where)]) == 0
        said = capsys.readouterr().out
        assert backup in said and "48" in said and "read back" in said
        lean = str(tmp_path / "lean")
        assert command_line.run(["backup", lean, option, str(where), "--no-segments"]) == 0
        assert not list((tmp_path / "lean").rglob("*.npy"))
        assert command_line.run(["backup", backup, option, str(where)]) == 1
        assert "exists already" in capsys.readouterr().err
    assert command_line.run(["restore", backup, restored, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == len(model.rows) == 48
    assert command_line.run(["restore", backup, restored]) == 1
    assert command_line.run(["restore", backup, restored + "2", "--no-segments"]) == 0
    with vecdb.open(restored, indexer=False) as database:
        check_same(database.collection("docs"), model)
