"""A create or a drop that fails half way can be retried and leaves no files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from vecdb.engine.system import failpoints
from vecdb.engine.testing import put_catalog_entry, runtime_of

DIM = 4
CREATES = [name for name in failpoints.FAILPOINTS if name.startswith("create.")]
DROPS = [name for name in failpoints.FAILPOINTS if name.startswith("drop.")]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def use(database: Any) -> None:
    """Check that the name is free: create a collection of the name, use it and drop it."""
    docs = database.create_collection("docs", DIM)
    docs.upsert(["a"], np.ones((1, DIM), np.float32))
    assert docs.count() == 1
    database.drop_collection("docs")
    assert database.list_collections() == []
    assert list((database.path / "collections").iterdir()) == []
    assert list((database.path / "trash").iterdir()) == []


@pytest.mark.parametrize("name", CREATES)
def test_create_that_failed_can_be_retried(database: Any, name: str) -> None:
    failpoints.arm(f"{name}=EIO")
    with pytest.raises(vecdb.UnavailableError):
        database.create_collection("docs", DIM)
    assert database.list_collections() == []
    use(database)


@pytest.mark.parametrize("action", ["begin", "end"])
@pytest.mark.parametrize("commit", [1, 2, 3])
def test_create_whose_commit_failed_can_be_retried(database: Any, commit: int, action: str) -> None:
    failpoints.arm(f"commit.{action}=EIO:{commit}")
    with pytest.raises(vecdb.VecdbError):
        database.create_collection("docs", DIM)
    assert database.list_collections() == []
    use(database)


def test_create_that_could_not_be_undone_is_undone_by_the_next_create(database: Any) -> None:
    # The third commit sets it to "ready", and the commit that would undo it fails too.
    failpoints.arm("create.folder=EIO,commit.begin=EIO:3")
    with pytest.raises(vecdb.UnavailableError, match=r"create\.folder"):
        database.create_collection("docs", DIM)
    assert database.list_collections() == []
    use(database)


@pytest.mark.parametrize("again", ["drop", "reopen"])
@pytest.mark.parametrize("name", DROPS)
def test_drop_that_failed_is_finished_by_the_next_drop_or_open(
    tmp_path: Path, name: str, again: str
) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        failpoints.arm(f"{name}=EIO")
        with pytest.raises(vecdb.UnavailableError):
            database.drop_collection("docs")
        if name == "drop.entered":  # As if it had not been tried.
            assert docs.upsert(["a"], np.ones((1, DIM), np.float32)).seq == 1
            database.drop_collection("docs")
        assert database.list_collections() == []
        with pytest.raises(vecdb.VecdbError):
            docs.upsert(["a"], np.ones((1, DIM), np.float32))
        if name in ("drop.marked", "drop.moved"):
            with pytest.raises(vecdb.AlreadyExistsError):
                database.create_collection("docs", DIM)
            if again == "drop":
                database.drop_collection("docs")
        if again != "reopen":
            use(database)
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        use(database)


def leave_half_done(data: Path) -> None:
    """Leave one complete collection, one unfinished creation and one unfinished drop."""
    with vecdb.open(data, indexer=False) as database:
        kept = database.create_collection("kept", DIM)
        kept.upsert(["a"], np.ones((1, DIM), np.float32))
        database.create_collection("dropping", DIM)
        runtime_of(database).catalog.drop("dropping")  # Only its first step.
        (data / "collections" / ("f" * 16)).mkdir()
        put_catalog_entry(database, "creating", "creating")


@pytest.mark.parametrize(
    "fault",
    [
        *(f"commit.{step}=EIO:{at}" for step in ("begin", "end") for at in (1, 2, 3, 4)),
        *(f"drop.{step}=EIO" for step in ("marked", "moved", "removed")),
    ],
)
def test_unfinished_operation_that_fails_on_open_leaves_other_collections_usable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    leave_half_done(tmp_path / "data")
    failpoints.arm(fault)
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        assert [r.message for r in caplog.records if "the next open retries" in r.message]
        assert [d.name for d in database.list_collections()] == ["kept"]
        assert database.collection("kept").get(["a"]).ids == ["a"]
    failpoints.arm("")
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        assert len(list((database.path / "collections").iterdir())) == 1
        assert not list((database.path / "trash").iterdir())
        for name in ("creating", "dropping"):
            database.create_collection(name, DIM)


def test_draft_of_the_format_file_is_removed_on_open(tmp_path: Path) -> None:
    """A process that was killed while it created the folder left it."""
    data = tmp_path / "data"
    data.mkdir()
    draft = data / f"FORMAT.{os.getpid() + 1}"
    draft.write_text("vec")
    with vecdb.open(data, indexer=False) as database:
        use(database)
    assert [path.name for path in data.glob("FORMAT*")] == ["FORMAT"]
