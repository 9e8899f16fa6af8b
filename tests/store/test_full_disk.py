"""On a full disk writes are refused, reads continue and no acknowledged row is lost.

Once there is room again, writes continue without a restart. The tests mount a small file system.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import vecdb
from tests.index_files import faiss_index
from tests.serving import running_server
from tests.torture.requirements import cannot
from tests.waiting import HANG_S, eventually
from vecdb.engine.testing import look_for_work, opened_of, put_catalog_entry, runtime_of

DIM = 64
ROWS = 400
SEAL_BYTES = 4 * DIM * 2000


def rows(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(ROWS, DIM)).astype(np.float32)


def names(number: int) -> list[str]:
    return [f"{number}-{i}" for i in range(ROWS)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB; skips the test if one can't be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        cannot(f"mount is refused: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def use_up(folder: Path) -> None:
    """Fill the file system completely; deleting the file "filler" frees all of it."""
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass


@contextlib.contextmanager
def surface(kind: str, folder: Path) -> Iterator[tuple[Any, Any]]:
    """Yield an embedded database or a client, and the database that has the collections open."""
    if kind == "embedded":
        with vecdb.open(folder, seal_bytes=SEAL_BYTES) as database:
            yield database, database
        return
    with (
        running_server(folder, seal_bytes=SEAL_BYTES) as address,
        vecdb.connect(address) as client,
        vecdb.open(folder) as database,  # Shares the runtime of the server.
    ):
        yield client, database


def fill_up(docs: Any, kept: list[int], first: int) -> int:
    """Write until ten consecutive batches are refused; return the number after the last one."""
    number, refused = first, 0
    while refused < 10:
        try:
            docs.upsert(names(number), rows(number))
            kept.append(number)
            refused = 0
        except vecdb.ResourceExhaustedError as error:
            if error.reason != "DISK_FULL":
                raise
            refused += 1
        number += 1
        assert number < first + 2000
    return number


def check(docs: Any, kept: list[int], sent: int) -> None:
    assert docs.count() == ROWS * len(kept)
    for number in (*kept[:2], *kept[-2:]):
        found = docs.get(names(number))
        assert not found.missing and found.vectors.tobytes() == rows(number).tobytes()
    for number in range(sent):
        there = docs.get([f"{number}-7"]).ids
        assert (there != []) == (number in kept)
    hits = docs.search(rows(kept[-1])[:3], k=5, exact=True)
    assert [h.ids[0] for h in hits] == names(kept[-1])[:3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedded", "served"])
def test_full_disk_stops_writes_only(disk: Path, kind: str) -> None:
    kept: list[int] = []
    with surface(kind, disk / "data") as (database, opened):
        docs = database.create_collection("docs", DIM)
        sent = fill_up(docs, kept, 0)
        assert len(kept) > 5
        check(docs, kept, sent)
        # Neither flushing nor the indexer has room; both report it and retry with backoff.
        inner = opened.collection("docs")

        def inner_status() -> str:
            return str(runtime_of(opened).indexer_status(opened_of(inner)))

        look_for_work(opened, opened_of(inner))
        eventually(lambda: "disk is full" in inner_status() or "No space" in inner_status())
        busy = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - busy < 0.6
        check(docs, kept, sent)
        use_up(disk)
        with pytest.raises(vecdb.ResourceExhaustedError):
            database.create_collection("second", DIM)
        assert [d.name for d in database.list_collections()] == ["docs"]
        resize(disk, "200m")
        os.unlink(disk / "filler")
        docs.upsert(names(sent), rows(sent))
        kept.append(sent)
        sent += 1
        eventually(lambda: docs.stats().fresh_rows * 4 * DIM < SEAL_BYTES)
        eventually(lambda: any(s.kind == "graph" for s in docs.stats().segments))
        eventually(lambda: "full" not in inner_status() and "No space" not in inner_status())
        database.create_collection("second", DIM).upsert(["own"], rows(0)[:1])
        check(docs, kept, sent)
        assert docs.optimize(timeout_s=HANG_S).unindexed_rows == 0
        check(docs, kept, sent)
    with vecdb.open(disk / "data", indexer=False) as database:
        check(database.collection("docs"), kept, sent)


def test_drop_on_a_full_disk_succeeds_or_is_refused(disk: Path) -> None:
    """A refused drop changes nothing; a successful one frees its room."""
    with vecdb.open(disk / "data", indexer=False) as database:
        for name in ("one", "two"):
            database.create_collection(name, DIM).upsert(names(0), rows(0))
        one, two, kept = database.collection("one"), database.collection("two"), [0]
        sent = fill_up(one, kept, 1)
        use_up(disk)
        gone = True
        try:
            database.drop_collection("one")
        except vecdb.ResourceExhaustedError:
            gone = False
        listed = [d.name for d in database.list_collections()]
        assert listed in (["two"], ["one", "two"]) and (listed == ["two"] or not gone)
        assert two.count() == ROWS
        resize(disk, "100m")
        os.unlink(disk / "filler")
        if listed == ["one", "two"]:
            check(one, kept, sent)
            database.drop_collection("one")
        two.upsert(names(1), rows(1))
        assert two.count() == 2 * ROWS
    with vecdb.open(disk / "data", indexer=False) as database:
        assert [d.name for d in database.list_collections()] == ["two"]
        assert not list((disk / "data" / "trash").iterdir())
        assert len(list((disk / "data" / "collections").iterdir())) == 1
        database.create_collection("one", DIM)


def test_open_on_a_full_disk_with_unfinished_changes_reads_the_rest(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An unfinished create and an unfinished drop wait for room; all other data can be read."""
    with vecdb.open(disk / "data", indexer=False) as database:
        database.create_collection("kept", DIM).upsert(names(0), rows(0))
        database.create_collection("dropping", DIM).upsert(names(0), rows(0))
        runtime_of(database).catalog.drop("dropping")  # Only the first step of a drop.
        put_catalog_entry(database, "creating", "creating")
        fill_up(database.collection("kept"), kept := [0], 1)
    use_up(disk)
    with vecdb.open(disk / "data", indexer=False) as database:
        left = [r.message for r in caplog.records if "the next open retries" in r.message]
        assert left and all("disk is full" in message for message in left)
        assert [d.name for d in database.list_collections()] == ["kept"]
        docs = database.collection("kept")
        assert docs.count() == ROWS * len(kept)
        assert docs.get(names(0)).vectors.tobytes() == rows(0).tobytes()
        resize(disk, "100m")
        os.unlink(disk / "filler")
        docs.upsert(names(0), rows(0))
    with vecdb.open(disk / "data", indexer=False) as database:
        assert len(list((disk / "data" / "collections").iterdir())) == 1
        assert not list((disk / "data" / "trash").iterdir())
        for name in ("creating", "dropping"):
            database.create_collection(name, DIM)


def test_import_that_does_not_fit_leaves_nothing(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = faiss_index("flat", np.ones((20_000, 100), np.float32))
    faiss.write_index(index, str(tmp_path / "index"))
    data = disk / "data"
    with running_server(data, indexer=False) as address, vecdb.connect(address) as client:

        def refusal() -> str:
            with pytest.raises(vecdb.ResourceExhaustedError) as caught:
                client.import_faiss(tmp_path / "index", "docs")
            assert caught.value.reason == "DISK_FULL"
            assert not (data / "incoming").exists() or not os.listdir(data / "incoming")
            return caught.value.message

        assert "needs 20000112 bytes free" in refusal()
        with monkeypatch.context() as patch:
            room = os.statvfs_result((4096, 4096, *[10**9] * 8))
            patch.setattr(os, "statvfs", lambda path: room)
            assert "No space left" in refusal()
        assert client.list_collections() == []
        resize(disk, "64m")
        assert client.import_faiss(tmp_path / "index", "docs").rows == 20_000


_OPENED_BY_A_CHILD = """
import sys, vecdb
from vecdb.engine.testing import begin_readers, opened_of
from vecdb.errors import ResourceExhaustedError
with vecdb.open(sys.argv[1], indexer=False) as database:
    try:
        docs = database.collection("docs")
        print(docs.count())
        held = begin_readers(opened_of(docs).store.environment, 150)
        print(len(held), docs.count())
        database.create_collection("other", 4)
    except ResourceExhaustedError as error:
        print(error.reason)
"""


@pytest.mark.parametrize("lock_files", ["there", "missing"])
def test_lock_file_without_room_is_reported_as_a_full_disk(disk: Path, lock_files: str) -> None:
    """A process whose lock file has no room gets DISK_FULL instead of a SIGBUS."""
    with vecdb.open(disk / "data", indexer=False) as database:
        database.create_collection("docs", DIM).upsert(names(1), rows(1))
    if lock_files == "missing":  # As after a compaction.
        (lock_file,) = (disk / "data" / "collections").glob("*/store/lock.mdb")
        lock_file.unlink()
    use_up(disk)
    child = [sys.executable, "-c", _OPENED_BY_A_CHILD, str(disk / "data")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(child, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    told = done.stdout.splitlines()
    if lock_files == "missing":
        assert told == ["DISK_FULL"]
    else:
        assert told == [str(ROWS), f"150 {ROWS}", "DISK_FULL"]
