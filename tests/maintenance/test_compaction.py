"""Compactions that are killed, their exclusive lock, and their memory.

``store/test_space.py`` tests the compacted folder and that readers lose nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model
from tests.places import override, value_of
from tests.waiting import HANG_S
from vecdb.engine.system import folder_use
from vecdb.engine.system.folder_use import FolderUse

DIM = 64
DRAFT = "store.compact"


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"id-{i}" for i in range(count)]


def filled(folder: Path, count: int, text: str = "") -> Model:
    """A collection in which every fourth row was replaced and every fifth deleted."""
    model = Model(DIM, "cosine")
    with vecdb.open(folder, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        for start in range(0, count, 1_000):
            for seed, step in enumerate((1, 4)):
                ids = names(count)[start : start + 1_000 : step]
                metadata = [{"n": name, "text": text} for name in ids]
                part = rows(len(ids), start + seed)
                docs.upsert(ids, part, metadata)
                model.upsert(ids, part, metadata)
            docs.delete(names(count)[start : start + 1_000 : 5])
            model.delete(names(count)[start : start + 1_000 : 5])
    return model


def check(folder: Path, model: Model, count: int) -> None:
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        assert docs.count() == len(model.rows)
        model.check_records(docs.get(names(count)), names(count))


KILLED = """
import os, signal, sys, vecdb
from vecdb.engine.maintenance import compaction

def killed(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

holder, _, name = sys.argv[2].rpartition(".")
setattr(getattr(compaction, holder) if holder else compaction, name, killed)
vecdb.compact(sys.argv[1])
"""


def killed(data: Path, function: str) -> tuple[Model, Path]:
    """A folder whose compaction was killed: the expected rows, and the draft that is left."""
    model = filled(data, 300)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(data), function],
        capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    (draft,) = (data / "collections").glob(f"*/{DRAFT}")
    return model, draft


@pytest.mark.parametrize("at", ["_copy_blocks", "finish_store", "os.rename", "fsync_folder"])
def test_draft_of_a_killed_compaction_is_removed_on_open(tmp_path: Path, at: str) -> None:
    model, draft = killed(tmp_path, at)
    vecdb.open(tmp_path, indexer=False).close()  # Without opening the collection.
    assert not draft.exists()
    check(tmp_path, model, 300)


@pytest.mark.slow
def test_draft_of_a_killed_compaction_is_reported_and_repaired(tmp_path: Path) -> None:
    model, draft = killed(tmp_path, "finish_store")
    report = vecdb.check(tmp_path)
    assert report.content
    assert [p.kind for p in report.problems] == ["COMPACTION_LEFTOVER"]
    assert str(draft) in report.problems[0].detail and draft.exists()
    report = vecdb.check(tmp_path, repair=True)
    assert [(p.kind, p.repaired) for p in report.problems] == [("COMPACTION_LEFTOVER", True)]
    assert not draft.exists() and vecdb.check(tmp_path).problems == ()
    check(tmp_path, model, 300)


def test_killed_compaction_can_be_repeated(tmp_path: Path) -> None:
    model, draft = killed(tmp_path, "os.rename")
    vecdb.compact(tmp_path)
    assert not draft.exists()
    check(tmp_path, model, 300)


def test_draft_of_a_running_compaction_is_not_a_leftover(tmp_path: Path) -> None:
    filled(tmp_path, 10)
    (draft,) = (each / DRAFT for each in (tmp_path / "collections").iterdir())
    draft.mkdir()
    with FolderUse(tmp_path, exclusive=True):
        assert vecdb.check(tmp_path).problems == ()
        with pytest.raises(vecdb.UnavailableError) as caught:
            vecdb.open(tmp_path)
        assert caught.value.reason == "COMPACTING" and draft.exists()
    assert [p.kind for p in vecdb.check(tmp_path).problems] == ["COMPACTION_LEFTOVER"]


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_forked_child_does_not_block_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child has a copy of the lock's descriptor and outlives the closing of the folder."""
    monkeypatch.setattr(folder_use, "PATIENCE_S", 0.0)
    database = vecdb.open(tmp_path, indexer=False)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # Until the parent closes its end.
        os._exit(0)
    os.close(reading)
    try:
        with pytest.raises(vecdb.FailedPreconditionError) as caught:
            vecdb.compact(tmp_path)
        assert caught.value.reason == "IN_USE"
        database.close()
        assert vecdb.compact(tmp_path).collections == 0
        assert os.waitpid(child, os.WNOHANG) == (0, 0)  # It was running all the time.
    finally:
        database.close()
        os.close(writing)
        os.waitpid(child, 0)


@pytest.mark.parametrize("bounded", [True, False])
def test_compaction_holds_slices_of_a_store_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounded: bool
) -> None:
    """Peak memory of numpy and Python while a store of 4 MB is copied in slices of 256 KiB; and in
    slices larger than the store, to verify the measurement itself.
    """
    count, slice_bytes = 3_000, 256 * 1024
    model = filled(tmp_path, count, "x" * 1_500)
    data_bytes = sum(4 * DIM + 1_500 for _ in model.rows)
    override(monkeypatch, "compaction_slice_bytes", slice_bytes if bounded else 1 << 40)
    override(monkeypatch, "compaction_slice_rows", 500 if bounded else 1 << 40)
    real, peaks = value_of("copy_store"), []

    def measured(*arguments: Any) -> None:
        tracemalloc.start()
        try:
            real(*arguments)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    override(monkeypatch, "copy_store", measured)
    vecdb.compact(tmp_path)
    (peak,) = peaks
    assert data_bytes > 15 * slice_bytes
    if bounded:
        assert peak < 4 * slice_bytes
    else:
        assert peak > data_bytes / 2
    check(tmp_path, model, count)
