"""A collection can be dropped whatever its files contain."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.model import Model
from tests.second_process import SecondProcess
from tests.segments.damage import DIM, QUERIES, SEED, change_value, names, rows, values_of
from vecdb.engine.store import layout
from vecdb.engine.testing import opened_of, runtime_of

USES: list[tuple[str, tuple[Any, ...]]] = [
    ("count", ()),
    ("get", (["row-3"],)),
    ("search", (QUERIES[0],)),
    ("stats", ()),
    ("scroll_page", ()),
    ("upsert", (["more"], QUERIES[:1])),
    ("delete", (["row-3"],)),
]


@pytest.mark.parametrize("key", ["format", "collection", "state", "counters"])
def test_drop_of_a_store_with_a_changed_value_holds_for_all_processes(
    tmp_path: Path, pristine: tuple[Path, str, Model], key: str
) -> None:
    source, collection_id, _ = pristine
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    store = folder / "collections" / collection_id / "store"
    with SecondProcess() as other:
        other.open(folder)
        other.take("docs")
        other.call("search", QUERIES[0])
        value = {k: v for _, k, v in values_of(store, (b"meta",))}[key.encode()]
        change_value(
            store, layout.DATABASES, b"meta", key.encode(), value[:-1] + bytes([value[-1] ^ 1])
        )
        with vecdb.open(folder, indexer=False) as database:
            database.drop_collection("docs")
            check_dropped(folder, database)
        for method, arguments in USES:
            with pytest.raises(vecdb.NotFoundError) as caught:
                other.call(method, *arguments)
            assert caught.value.reason == "DROPPED", method


def check_dropped(folder: Path, database: Any) -> None:
    """Of docs nothing is left, and all else is as it was."""
    assert [d.name for d in database.list_collections()] == ["other"]
    assert len(list((folder / "collections").iterdir())) == 1
    assert not list((folder / "trash").iterdir())
    assert database.collection("other").search(rows(1)[0], k=3).ids == ["own"]
    database.create_collection("docs", DIM)


def cut_to(pages: float) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, int(pages * 4096))


def overwritten(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[2 * 4096 :] = random.Random(SEED).randbytes(len(raw) - 2 * 4096)
    file.write_bytes(raw)


STORE_DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"cut to {pages} pages": cut_to(pages) for pages in (0, 0.5, 1, 2, 3.5, 6, 10)},
    "other bytes": overwritten,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("half_done", [False, True], ids=["dropped", "half dropped"])
@pytest.mark.parametrize("damage", STORE_DAMAGES)
def test_store_that_can_not_be_opened_can_be_dropped(
    tmp_path: Path, pristine: tuple[Path, str, Model], damage: str, half_done: bool
) -> None:
    """In a process of its own, which LMDB must not bring down; by a drop, and by opening the folder
    after one that was begun."""
    source, collection_id, _ = pristine
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    if half_done:
        with vecdb.open(folder, indexer=False) as database:
            runtime_of(database).catalog.drop("docs")
    STORE_DAMAGES[damage](folder / "collections" / collection_id / "store" / "data.mdb")
    with SecondProcess() as process:
        process.open(folder)
        if not half_done:
            process.drop("docs")
        process.close()
    with vecdb.open(folder, indexer=False) as database:
        check_dropped(folder, database)


def test_store_damaged_while_open_can_be_dropped(
    database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(4), rows(4))
    file = database.path / "collections" / opened_of(docs).id / "store" / "data.mdb"
    raw = bytearray(file.read_bytes())
    raw[2 * 4096 :] = bytes(len(raw) - 2 * 4096)
    with open(file, "r+b") as opened:  # In place, as LMDB has mapped it.
        opened.write(raw)
    database.drop_collection("docs")
    assert "without marking its store" in caplog.text
    assert not list((database.path / "collections").iterdir())
    with pytest.raises(vecdb.NotFoundError) as caught:
        docs.count()
    assert caught.value.reason == "DROPPED"
