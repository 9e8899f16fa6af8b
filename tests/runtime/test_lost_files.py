"""LMDB files that are missing, empty or truncated.

The collection fails with DATA_LOSS and its name, and all others are served. A folder whose
catalogue is lost is refused and can be repaired.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import vecdb
from tests.checking import kinds_of, put
from tests.serving import ServerProcess
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.lmdb_pages import check_whole, last_transaction
from vecdb.engine.store import layout
from vecdb.engine.store.stored_name import NAME_KEY
from vecdb.engine.testing import opened_of
from vecdb.errors import DataLossError, FailedPreconditionError

DIM = 8
PAGE_BYTES = 4096


def rows(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"row-{i}" for i in range(count)]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A closed folder with "docs", "notes" (formerly "draft") and "other", and their ids."""
    folder = tmp_path_factory.mktemp("pristine") / "data"
    ids = {}
    with vecdb.open(folder, indexer=False) as database:
        for name, count in (("docs", 300), ("draft", 20), ("other", 10)):
            collection = database.create_collection(name, DIM)
            collection.upsert(names(count), rows(count))
            ids[name] = opened_of(collection).id
        database.rename_collection("draft", "notes")
    ids["notes"] = ids.pop("draft")
    return folder, ids


@pytest.fixture
def folder(pristine: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine[0], tmp_path / "data"))


@pytest.fixture
def store(pristine: tuple[Path, dict[str, str]], folder: Path) -> Path:
    """The store's file of "docs"."""
    return folder / "collections" / pristine[1]["docs"] / "store" / "data.mdb"


def counts(folder: Path) -> dict[str, int]:
    with vecdb.open(folder, indexer=False) as database:
        listed = [each.name for each in database.list_collections()]
        return {name: database.collection(name).count() for name in listed}


WHOLE = {"docs": 300, "notes": 20, "other": 10}


@pytest.mark.slow
def test_server_with_a_truncated_store_names_it_and_serves_the_others(
    folder: Path, store: Path
) -> None:
    os.truncate(store, store.stat().st_size // 2)
    report = vecdb.check(folder, repair=True)
    assert [(p.collection, p.kind) for p in report.problems] == [("docs", "STORE_DAMAGED")]
    with ServerProcess(folder) as server, vecdb.connect(server.address) as client:
        assert "reason=STORE_CUT" in server.wait_for("collection=docs")
        assert client.collection("other").count() == 10
        client.collection("notes").upsert(["more"], rows(1))
        with pytest.raises(DataLossError, match="truncated") as caught:
            client.collection("docs").count()
        assert caught.value.reason == "STORE_CUT"


@pytest.mark.parametrize("pages", [0, 0.5, 1.5, 2, 3, 5, -1])
def test_store_truncated_to_any_size_is_data_loss(folder: Path, store: Path, pages: float) -> None:
    size = store.stat().st_size
    os.truncate(store, int((size / PAGE_BYTES + pages if pages < 0 else pages) * PAGE_BYTES))
    with vecdb.open(folder, indexer=False) as database:
        with pytest.raises(DataLossError):
            database.collection("docs")
        assert database.collection("other").count() == 10
        database.drop_collection("docs")
        assert [each.name for each in database.list_collections()] == ["notes", "other"]


@pytest.mark.parametrize("first", [0, 1])
def test_store_with_one_damaged_meta_page_is_data_loss(
    folder: Path, store: Path, first: int
) -> None:
    with open(store, "r+b") as file:
        file.seek(first * PAGE_BYTES)
        file.write(random.Random(7).randbytes(200))
    with vecdb.open(folder, indexer=False) as database:
        with pytest.raises(DataLossError):
            database.collection("docs")
        assert database.collection("other").count() == 10


def test_store_with_pages_past_its_end_is_data_loss(folder: Path, store: Path) -> None:
    for meta in (0, 1):
        with open(store, "r+b") as file:
            file.seek(meta * PAGE_BYTES + 136)  # The last page.
            file.write((1 << 40).to_bytes(8, "little"))
    with vecdb.open(folder, indexer=False) as database, pytest.raises(DataLossError):
        database.collection("docs")


def test_store_with_a_damaged_lock_file_is_refused_or_served(folder: Path, store: Path) -> None:
    lock = store.with_name("lock.mdb")
    for content in (b"", b"x", random.Random(7).randbytes(100)):
        lock.write_bytes(content)
        assert counts(folder) == WHOLE


def test_store_truncated_while_evicted_is_data_loss_on_its_next_use(
    folder: Path, store: Path
) -> None:
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        opened_of(docs).evict()
        whole = store.read_bytes()
        os.truncate(store, len(whole) // 2)
        with pytest.raises(DataLossError, match="truncated"):
            docs.count()
        assert database.collection("other").count() == 10


def test_store_that_lacks_only_free_pages_is_opened(tmp_path: Path) -> None:
    """A transaction that frees a page that it has just allocated never writes it."""
    file, short = tmp_path / "data.mdb", 0
    chance = random.Random(7)
    with lmdb.open(os.fspath(tmp_path), map_size=1 << 28, sync=False, lib_version=0) as handle:
        for i in range(200):
            with handle.begin(write=True) as transaction:
                keys = [b"%03d" % chance.randrange(300) for _ in range(20)]
                for key in keys:
                    transaction.put(key, bytes(chance.choice([10, 3_000, 60_000])))
                for key in keys if i % 2 else keys[:5]:
                    transaction.delete(key)
            last = handle.info()
            short += file.stat().st_size < (last["last_pgno"] + 1) * PAGE_BYTES
            assert last_transaction(file) == last["last_txnid"]
            check_whole(file)
    assert short > 0
    os.truncate(file, file.stat().st_size - 8 * PAGE_BYTES)
    with pytest.raises(DataLossError):
        check_whole(file)


def damage_catalog(folder: Path, how: str) -> None:
    file = folder / "catalog" / "data.mdb"
    if how == "folder gone":
        shutil.rmtree(folder / "catalog")
    elif how == "file gone":
        file.unlink()
    elif how == "no entries":
        catalog = Environment(
            folder / "catalog", (b"names", b"aliases"), create=False, map_bytes=1 << 26
        )

        def clear(transaction: Any) -> None:
            transaction.drop(catalog.database(b"names"), delete=False)

        catalog.transact(clear)
        catalog.close()
    else:
        os.truncate(file, {"empty": 0, "cut": 2 * PAGE_BYTES}[how])


CATALOG_DAMAGES = ("folder gone", "file gone", "no entries", "empty", "cut")


@pytest.mark.slow
@pytest.mark.parametrize("how", CATALOG_DAMAGES)
def test_lost_catalog_is_refused_and_repair_restores_the_names(folder: Path, how: str) -> None:
    damage_catalog(folder, how)
    for _ in range(2):  # The second repair finds nothing.
        with pytest.raises(DataLossError, match="vecdb check --repair") as caught:
            vecdb.open(folder)
        assert caught.value.reason == "CATALOG_LOST"
    report = vecdb.check(folder)
    expected = "COLLECTION_ORPHAN" if how == "no entries" else "CATALOG_LOST"
    assert kinds_of(list(report.problems)) == {expected}
    report = vecdb.check(folder, repair=True)
    assert report.content and all(problem.repaired for problem in report.problems)
    assert sorted(each.name for each in report.collections) == sorted(WHOLE)
    assert counts(folder) == WHOLE
    assert vecdb.check(folder).problems == ()


def test_folder_without_format_and_catalog_is_repaired_from_its_stores(folder: Path) -> None:
    shutil.rmtree(folder / "catalog")
    (folder / "FORMAT").unlink()
    with pytest.raises(FailedPreconditionError, match="vecdb check --repair"):
        vecdb.open(folder)
    assert vecdb.check(folder, repair=True).content
    assert counts(folder) == WHOLE


def test_metadata_of_a_collection_survive_copies_and_a_lost_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with vecdb.open(folder, indexer=False) as database:
        docs = database.create_collection("docs", 4, metadata={"model": "a"})
        database.create_collection("more", 4, metadata={"model": "b"})
        docs.set_collection_metadata({"model": "c"})
        database.backup(tmp_path / "backup")
    vecdb.compact(folder)
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    shutil.rmtree(folder / "catalog")
    assert vecdb.check(folder, repair=True).content
    for copy in (folder, tmp_path / "restored"):
        with vecdb.open(copy, indexer=False) as database:
            found = {each.name: each.metadata for each in database.list_collections()}
            assert found == {"docs": {"model": "c"}, "more": {"model": "b"}}


def set_name(folder: Path, collection_id: str, name: bytes | None) -> None:
    environment = Environment(
        folder / "collections" / collection_id / "store",
        layout.DATABASES,
        create=False,
        map_bytes=1 << 26,
    )

    def write(transaction: Any) -> None:
        meta = environment.database(b"meta")
        if name is None:
            transaction.delete(NAME_KEY, db=meta)
        else:
            transaction.put(NAME_KEY, layout.pack_value(NAME_KEY, name), db=meta)

    environment.transact(write)
    environment.close()


@pytest.mark.slow
def test_repair_of_stores_with_invalid_or_equal_names_gives_each_a_valid_one(
    pristine: tuple[Path, dict[str, str]], folder: Path
) -> None:
    """A store of an earlier version has no name, two have the same one, one has an invalid one."""
    ids = pristine[1]
    set_name(folder, ids["docs"], None)
    set_name(folder, ids["notes"], b"other")
    set_name(folder, ids["other"], b"other")
    # Written last: on a fast disk, both may have been written within one tick of the file times.
    file = folder / "collections" / ids["other"] / "store" / "data.mdb"
    os.utime(file, ns=(time.time_ns(), time.time_ns() + 10**9))
    shutil.rmtree(folder / "catalog")
    assert vecdb.check(folder, repair=True).content
    assert counts(folder) == {
        f"collection-{ids['docs']}": 300,
        f"other-{ids['notes']}": 20,
        "other": 10,
    }
    set_name(folder, ids["other"], b"no name/\xff")
    shutil.rmtree(folder / "catalog")
    assert vecdb.check(folder, repair=True).content
    assert counts(folder)[f"collection-{ids['other']}"] == 10


@pytest.mark.slow
def test_repair_does_not_restore_dropped_or_damaged_collections(
    pristine: tuple[Path, dict[str, str]], folder: Path, store: Path
) -> None:
    os.truncate(store, 5 * PAGE_BYTES)
    other = folder / "collections" / pristine[1]["other"]
    shutil.move(folder / "collections", folder / "aside")
    (folder / "collections").mkdir()
    shutil.move(folder / "aside" / other.name, other)
    put(folder, "meta", b"dropped", b"")
    for each in (folder / "aside").iterdir():
        shutil.move(each, folder / "collections" / each.name)
    (folder / "aside").rmdir()
    shutil.rmtree(folder / "catalog")
    report = vecdb.check(folder, repair=True)
    assert [each.name for each in report.collections] == ["notes"]
    assert store.is_file() and not other.exists()
    assert {p.kind for p in report.problems if not p.repaired} >= {"COLLECTION_ORPHAN"}
    assert counts(folder) == {"notes": 20}


def test_folder_of_a_process_killed_while_creating_it_is_opened(tmp_path: Path) -> None:
    """The folder has no collections yet, so an empty catalogue file is no data loss."""
    folder = tmp_path / "data"
    vecdb.open(folder).close()
    os.truncate(folder / "catalog" / "data.mdb", 0)
    assert vecdb.check(folder).content
    assert counts(folder) == {}
    shutil.rmtree(folder / "catalog")
    assert counts(folder) == {}


@pytest.mark.parametrize("part", [0, 0.5])
def test_store_truncated_while_served_does_not_crash_the_server(
    folder: Path, store: Path, part: float
) -> None:
    """A read would access a mapped page beyond the end of the file."""
    with ServerProcess(folder, indexer=False) as server, vecdb.connect(server.address) as client:
        docs = client.collection("docs")
        assert docs.count() == 300
        os.truncate(store, int(part * store.stat().st_size))
        for _ in range(2):  # The error stays the same if the call is repeated at once.
            for call in (
                lambda: docs.get(names(300)),
                lambda: docs.search(rows(1)[0], k=300, exact=True),
                lambda: list(docs.scroll()),
                lambda: docs.upsert(["new"], rows(1)),
            ):
                with pytest.raises(DataLossError) as caught:
                    call()
                assert caught.value.reason == "STORE_CUT"
        other = client.collection("other")
        assert other.upsert(["new"], rows(1)).count == 1 and other.get(["new"]).ids == ["new"]
