"""A folder that is removed, moved, replaced or truncated while a process has it open.

An acknowledged write is in the folder that was opened, at its original path.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now
from tests.places import override, value_of
from tests.serving import running_server
from vecdb.engine.kv.environment import Environment
from vecdb.engine.testing import opened_of
from vecdb.errors import DataLossError, OutcomeUnknownError, UnavailableError

DIM = 8


def rows(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replace_by_a_copy(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"))
    move(folder)
    folder.with_name("copy").rename(folder)


def replace_by_an_empty_one(folder: Path) -> None:
    move(folder)
    vecdb.open(folder.with_name("empty"), indexer=False).close()
    folder.with_name("empty").rename(folder)


WAYS = (remove, move, replace_by_a_copy, replace_by_an_empty_one)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(["first"], rows(1), request_id="r-1")
        database.create_collection("other", DIM)
        yield database


def refused(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with pytest.raises(UnavailableError) as caught:
        function(*arguments, **options)
    assert caught.value.reason == "FOLDER_GONE", caught.value
    assert "nothing was written" in caught.value.message


@pytest.mark.parametrize("way", WAYS)
def test_write_to_a_moved_folder_is_refused(opened: Any, way: Any) -> None:
    docs, other = opened.collection("docs"), opened.collection("other")
    docs.upsert([str(i) for i in range(50)], rows(50))
    way(opened.path)
    for _ in range(2):
        refused(docs.upsert, ["second"], rows(1))
        refused(other.upsert_many, ["second"], rows(1))
        refused(docs.delete, ["first"])
        refused(docs.upsert, ["first"], rows(1), request_id="r-1")
        refused(docs.scroll_page, batch=10)
    for call in (
        lambda: opened.create_collection("more", DIM),
        lambda: opened.drop_collection("docs"),
        lambda: flush_now(docs),
    ):
        with pytest.raises((vecdb.VecdbError, OSError)):
            call()
    assert docs.get(["first", "second"]).ids == ["first"]
    assert docs.search(rows(50)[7], k=1).ids == ["7"] and docs.count() == 51


@pytest.mark.parametrize("way", [replace_by_a_copy, replace_by_an_empty_one])
def test_folder_that_replaces_an_open_one_is_not_changed(
    opened: Any, way: Any, tmp_path: Path
) -> None:
    opened_of(opened.collection("docs")).evict()
    way(opened.path)
    refused(opened.collection("docs").upsert, ["second"], rows(1))
    for call in (opened.create_collection, opened.collection):
        with pytest.raises(vecdb.VecdbError):
            call("more", DIM) if call == opened.create_collection else call("docs").count()
    opened.close()
    names = ["docs", "other"] if way is replace_by_a_copy else []
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        assert [each.name for each in database.list_collections()] == names
        if names:
            assert database.collection("docs").get(["first", "second"]).ids == ["first"]


def test_folder_that_is_moved_back_is_writable_again(opened: Any, tmp_path: Path) -> None:
    docs = opened.collection("docs")
    move(opened.path)
    refused(docs.upsert, ["second"], rows(1))
    (tmp_path / "elsewhere").rename(opened.path)
    assert docs.upsert(["third"], rows(1)).seq == 2
    opened.close()
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        assert database.collection("docs").get(["second", "third"]).ids == ["third"]


@pytest.mark.parametrize("way", WAYS)
def test_write_during_which_the_folder_is_moved_is_not_acknowledged(
    opened: Any, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is moved between the begin of the transaction and its acknowledgement."""
    docs = opened.collection("docs")
    commit = value_of("commit_transaction")

    def going(self: Environment, transaction: Any) -> None:
        commit(self, transaction)
        way(opened.path)

    override(monkeypatch, "commit_transaction", going)
    with pytest.raises(OutcomeUnknownError) as caught:
        docs.upsert(["second"], rows(1))
    assert caught.value.reason == "FOLDER_GONE"
    override(monkeypatch, "commit_transaction", commit)
    refused(docs.upsert, ["third"], rows(1))


def test_removed_collection_folder_refuses_only_writes_to_it(opened: Any) -> None:
    docs = opened.collection("docs")
    shutil.rmtree(opened.path / "collections" / opened_of(docs).id)
    refused(docs.upsert, ["second"], rows(1))
    assert opened.collection("other").upsert(["second"], rows(1)).seq == 1
    opened.drop_collection("docs")
    with pytest.raises(vecdb.NotFoundError):
        docs.upsert(["second"], rows(1))


def test_server_whose_folder_is_removed_acknowledges_nothing(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as address, vecdb.connect(address) as client:
        docs = client.create_collection("docs", DIM)
        assert docs.upsert(["first"], rows(1)).seq == 1
        shutil.rmtree(tmp_path / "data")
        refused(docs.upsert, ["second"], rows(1))
        with pytest.raises(vecdb.VecdbError):
            client.create_collection("more", DIM)
        assert docs.get(["first", "second"]).ids == ["first"]


def test_store_truncated_while_open_is_not_changed_by_the_next_write(
    tmp_path: Path,
) -> None:
    """Accessing a mapped page beyond the end of the file would crash this process."""
    environment = Environment(tmp_path / "store", (b"x",), create=True, map_bytes=1 << 26)

    def write(transaction: Any) -> None:
        for number in range(500):
            transaction.put(b"%d" % number, bytes(500), db=environment.database(b"x"))

    environment.transact(write)
    environment.transact(write)
    file = tmp_path / "store" / "data.mdb"
    os.truncate(file, file.stat().st_size // 2)
    for _ in range(2):
        with pytest.raises((DataLossError, UnavailableError), match="truncated"):
            environment.transact(write)
    with (
        pytest.raises((DataLossError, UnavailableError), match="truncated"),
        environment.read(),
    ):
        pass
    environment.close()


def test_store_moved_and_truncated_while_open_is_not_read(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    environment = Environment(folder, (b"x",), create=True, map_bytes=1 << 26)
    environment.transact(lambda t: t.put(b"k", bytes(100_000), db=environment.database(b"x")))
    folder.rename(elsewhere)
    shutil.copytree(elsewhere, folder)
    os.truncate(elsewhere / "data.mdb", 3 * 4096)
    with pytest.raises(DataLossError, match="truncated"), environment.read():
        pass
    for _ in range(2):
        with pytest.raises(UnavailableError, match="not the folder"), environment.read():
            pass
    environment.close()


def _opened_files(folder: Path) -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # The listing's own.
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            found += [path] if path.startswith(f"{folder}/") else []
    return found


def test_store_that_is_not_open_holds_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    environment = Environment(folder, (b"x",), create=True, map_bytes=1 << 26)
    held = len(_opened_files(folder))
    assert held > 0
    for _ in range(2):
        assert environment.evict() and not _opened_files(folder)
        with environment.read():
            assert len(_opened_files(folder)) == held
    shutil.move(folder, tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", folder)
    assert environment.evict() and not _opened_files(tmp_path)
    with pytest.raises(UnavailableError, match="not the folder"), environment.read():
        pass
    assert not _opened_files(tmp_path)
    environment.close()
    other = Environment(folder, (b"x",), create=False, map_bytes=1 << 26)
    other.close()
    assert not _opened_files(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_server_reports_writes_to_a_moved_folder(tmp_path: Path, way: Any) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    with (
        running_server(tmp_path / "data", indexer=False, backup_dir=backups) as address,
        vecdb.connect(address) as client,
    ):
        client.create_collection("docs", DIM).upsert(["first"], rows(1))
        way(tmp_path / "data")
        refused(client.create_collection, "more", DIM)
        refused(client.rename_collection, "docs", "papers")
        refused(client.drop_collection, "docs")
        # A backup does not copy another folder than the one that is served, either.
        refused(client.backup, "monday")
        assert not list(backups.iterdir())
