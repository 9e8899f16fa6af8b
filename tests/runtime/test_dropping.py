"""Collections that another process drops or creates again while this one has them open."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now
from tests.places import override, value_of
from tests.runtime.renames import DIM, all_ids, environment, in_another_process, reason_of, rows
from tests.serving import running_server
from tests.waiting import HANG_S, eventually
from vecdb.engine.api.database import Database
from vecdb.engine.kv import environment as kv_environment
from vecdb.engine.testing import (
    close_dropped,
    opened_of,
    runtime_of,
    verify_segment,
)

GONE = {"DROPPED", "NO_COLLECTION"}


def test_every_use_of_a_collection_dropped_by_another_process_is_refused(tmp_path: Path) -> None:
    """Both open and evicted: an evicted store no longer has files to reopen."""
    with vecdb.open(tmp_path, indexer=False, open_collections_max=1) as database:
        at_rest = database.create_collection("at-rest", DIM)
        at_rest.upsert(["a"], rows(1))
        docs = database.create_collection("docs", DIM)
        docs.upsert(["a"], rows(1))
        docs.search(rows(1)[0])
        page = docs.scroll_page(batch=1)
        is_open = [opened_of(each).store.environment.is_open for each in (at_rest, docs)]
        assert is_open == [False, True]
        in_another_process(tmp_path, "[db.drop_collection(n) for n in ('docs', 'at-rest')]")
        for collection in (docs, at_rest):
            for call in (
                lambda c: c.upsert(["b"], rows(1)),
                lambda c: c.upsert(["b"], rows(1), request_id="r", insert_only=True),
                lambda c: c.delete(["a"]),
                lambda c: c.get(["a"]),
                lambda c: c.count(),
                lambda c: c.search(rows(1)[0]),
                lambda c: c.stats(),
                lambda c: c.scroll_page(),
                lambda c: opened_of(c).flush(1),
                lambda c: opened_of(c).store.environment.file_bytes(),
            ):
                assert reason_of(lambda: call(collection)) == "DROPPED"  # noqa: B023
        assert page.next_token is None
        assert reason_of(lambda: database.collection("docs")) == "NO_COLLECTION"
        again = database.create_collection("docs", DIM)
        assert reason_of(docs.count) == "DROPPED" and again.count() == 0
        assert not list((tmp_path / "collections").glob(f"{opened_of(docs).id}*"))


def deleted_files(data: Path) -> list[str]:
    """Return the deleted stores of a folder that this process still has open."""
    folder = Path("/proc/self/fd")
    names = []
    for fd in os.listdir(folder):
        # Another thread may close a listed descriptor at any moment.
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(folder / fd))
    return [
        name
        for name in names
        if name.startswith(f"{data.resolve()}/") and name.endswith("data.mdb (deleted)")
    ]


def test_collection_dropped_by_another_process_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without being used again; otherwise the disk space of its files would stay taken."""
    override(monkeypatch, "dropped_poll_s", 0.05)
    with vecdb.open(tmp_path, indexer=False) as database:
        kept = database.create_collection("kept", DIM)
        docs = database.create_collection("docs", DIM)
        docs.upsert(["a"], rows(1))
        in_another_process(tmp_path, "db.drop_collection('docs')")
        runtime, dropped = runtime_of(database), opened_of(docs).id
        eventually(lambda: dropped not in runtime.collections and not deleted_files(tmp_path))
        assert reason_of(docs.count) == "DROPPED"
        assert list(runtime_of(database).collections) == [opened_of(kept).id]
        assert kept.count() == 0


def test_damaged_catalog_entry_does_not_count_as_a_drop(tmp_path: Path) -> None:
    """A collection whose entry is unreadable stays open; a dropped one is closed."""
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(["a"], rows(1))
        going = database.create_collection("going", DIM)
        environment = runtime_of(database).catalog.environment

        def damage(transaction: Any) -> None:
            names = environment.database(b"names")
            raw = bytearray(transaction.get(b"docs", db=names))
            raw[1] ^= 1
            transaction.put(b"docs", bytes(raw), db=names)

        environment.transact(damage)
        in_another_process(tmp_path, "db.drop_collection('going')")
        close_dropped(database)
        assert list(runtime_of(database).collections) == [opened_of(docs).id]
        assert docs.upsert(["b"], rows(1)).seq == 2 and docs.count() == 2
        assert reason_of(going.count) == "DROPPED"
        with pytest.raises(vecdb.DataLossError, match="docs"):
            database.collection("docs")


def test_files_of_a_dropped_collection_are_not_reported_as_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The background verification of its segments logs nothing."""
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(["a", "b"], rows(2))
        flush_now(docs)
        opened = opened_of(docs)
        (segment,) = [s.segment for s in opened.snapshots.snapshot().segments]
        segment.verified = False
        in_another_process(tmp_path, "db.drop_collection('docs')")
        assert reason_of(lambda: verify_segment(opened.snapshots, segment)) == "DROPPED"
        with opened.store.environment.read() as transaction:
            states = [e.state for e in opened.store.read_segments(transaction).values()]
        assert states == ["published"]
    assert [r for r in caplog.records if r.name == "vecdb.engine"] == []


def test_collection_dropped_between_find_and_open_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        first = database.create_collection("docs", DIM)
        first.upsert(["old"], rows(1))
    for again in (True, False):
        with vecdb.open(tmp_path, indexer=False) as database:
            real, interfered = value_of("open_collection"), []

            def late(self: Any, collection_id: str, real: Any = real, again: bool = again) -> Any:
                if not interfered:  # noqa: B023
                    interfered.append(1)  # noqa: B023
                    self.drop_collection("docs")
                    if again:
                        database.create_collection("docs", DIM).upsert(["new"], rows(1))
                return real(self, collection_id)

            override(monkeypatch, "open_collection", late)
            if again:
                assert all_ids(database.collection("docs")) == ["new"]
            else:
                assert reason_of(lambda: database.collection("docs")) == "NO_COLLECTION"
            monkeypatch.undo()


def test_collection_dropped_while_its_files_are_opened_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may move the folder before LMDB opens its files, or after."""
    real = kv_environment.open_files
    for before in (True, False):
        with vecdb.open(tmp_path, indexer=False) as database:
            database.create_collection("docs", DIM).upsert(["old"], rows(1))
        with vecdb.open(tmp_path, indexer=False) as database:
            runtime_of(database).catalog.ids()  # The catalogue is open now.

            def late(folder: Path, *args: Any, before: bool = before, **options: Any) -> Any:
                def drop() -> None:
                    in_another_process(tmp_path, "db.drop_collection('docs')")

                if before:
                    drop()
                result = real(folder, *args, **options)
                if not before:
                    drop()
                return result

            monkeypatch.setattr(kv_environment, "open_files", late)
            assert reason_of(lambda: database.collection("docs")) == "NO_COLLECTION"
            monkeypatch.undo()


@pytest.mark.slow
def test_get_or_create_finds_a_collection_created_just_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, turns = Database.create_collection, []

    def late(self: Any, name: str, *rest: Any, **named: Any) -> Any:
        if not turns:
            turns.append(1)
            in_another_process(tmp_path, "db.get_or_create_collection('docs', 4, M=8)")
        return real(self, name, *rest, **named)

    monkeypatch.setattr(Database, "create_collection", late)
    with vecdb.open(tmp_path, indexer=False) as database:
        assert database.get_or_create_collection("docs", DIM).config.M == 8
        # With another configuration than requested here.
        turns.clear()
        database.drop_collection("docs")
        with pytest.raises(vecdb.InvalidArgumentError, match="exists with M 8, expected M 16"):
            database.get_or_create_collection("docs", DIM, M=16)


def test_get_or_create_of_a_name_with_an_unfinished_drop_is_refused(tmp_path: Path) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        database.create_collection("docs", DIM)
        runtime_of(database).catalog.drop("docs")  # Only its first step.
        with pytest.raises(vecdb.AlreadyExistsError):
            database.get_or_create_collection("docs", DIM)
        database.drop_collection("docs")
        assert database.get_or_create_collection("docs", DIM).count() == 0


def test_drop_finished_by_another_process_keeps_a_later_collection_of_the_name(
    tmp_path: Path,
) -> None:
    with vecdb.open(tmp_path, indexer=False) as database:
        catalog = runtime_of(database).catalog
        old = database.create_collection("docs", DIM)
        old_id = catalog.drop("docs")
        in_another_process(tmp_path, "pass")  # Opening the folder finishes it.
        assert catalog.ids() == set()
        new = database.create_collection("docs", DIM)
        new_id = catalog.drop("docs")
        catalog.finish_drop("docs", old_id, opened_of(old).store)
        assert catalog.ids() == {new_id}
        assert new.upsert(["a"], rows(1)).seq == 1
        database.drop_collection("docs")
        assert reason_of(new.count) == "DROPPED"


WORKER = """
import json, os, sys, time, numpy as np, vecdb
from vecdb.engine.testing import opened_of
stop_file = sys.argv[2]
rng = np.random.default_rng(int(sys.argv[3]))
with vecdb.open(sys.argv[1], indexer=False, seal_bytes=64 * 40) as db:
    n = 0
    print(json.dumps(["ready"]), flush=True)
    while not os.path.exists(stop_file):
        n += 1
        try:
            docs = db.collection("docs")
            for i in range(10):
                name = f"{sys.argv[3]}-{n}-{i}"
                vector = rng.normal(size=(1, 4)).astype(np.float32)
                began = time.monotonic()
                docs.upsert([name], vector)
                print(json.dumps([opened_of(docs).id, name, began]), flush=True)
            docs.search(vector[0], k=3)
        except vecdb.NotFoundError as error:
            print(json.dumps(["gone", error.reason]), flush=True)
            time.sleep(0.002)
"""


class Acknowledged:
    """Acknowledged writes of several writers, with their target.

    Attributes:
        began: collection id → name → start time of the write, on a clock that all processes share.
        reasons: reasons of NotFoundError.
    """

    def __init__(self) -> None:
        self.began: dict[str, dict[str, float]] = defaultdict(dict)
        self.reasons: set[str] = set()
        self.stop = threading.Event()

    def write(self, database: Any, seed: int) -> None:
        """Write to the collection that is called docs until it should stop."""
        rng, n = np.random.default_rng(seed), 0
        while not self.stop.is_set():
            n += 1
            try:
                docs = database.collection("docs")
                vector = rng.normal(size=(1, DIM)).astype(np.float32)
                began = time.monotonic()
                docs.upsert([f"{seed}-{n}"], vector)
                self.began[opened_of(docs).id][f"{seed}-{n}"] = began
                docs.search(vector[0], k=3)
            except vecdb.NotFoundError as error:
                self.reasons.add(error.reason)
                time.sleep(0.002)

    def listen(self, child: Any) -> None:
        """Collect the acknowledgements of a child that runs WORKER, until it ends."""
        for line in child.stdout:
            where, what, *began = json.loads(line)
            if where == "gone":
                self.reasons.add(what)
            else:
                self.began[where][what] = began[0]

    def check(self, database: Any, dropped_at: dict[str, float]) -> None:
        assert self.reasons <= GONE
        for description in database.list_collections():
            kept = database.collection(description.name)
            ids = all_ids(kept)
            assert len(ids) == len(set(ids)) == kept.count()
            assert set(ids) == set(self.began[opened_of(kept).id]), description.name
        for collection_id, ended in dropped_at.items():
            late = {n for n, began in self.began[collection_id].items() if began > ended}
            assert not late, "acknowledged, and written to what was dropped before"


@contextmanager
def worker(data: Path, stop_file: Path) -> Iterator[Any]:
    """Start a child that runs WORKER, and wait until it writes."""
    child = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(data), str(stop_file), "1"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        assert json.loads(child.stdout.readline()) == ["ready"]
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()


def test_drop_rename_and_recreate_beside_other_writers_loses_nothing(tmp_path: Path) -> None:
    """Each acknowledged write is in the collection that it was written to, and nothing else is. All
    other writes fail with NOT_FOUND.
    """
    data, stop_file = tmp_path / "data", tmp_path / "stop"
    acknowledged, dropped_at = Acknowledged(), {}
    with vecdb.open(data, indexer=False, seal_bytes=64 * 40) as database:
        present = database.create_collection("docs", DIM)
        with worker(data, stop_file) as child, ThreadPoolExecutor(3) as pool:
            done = [pool.submit(acknowledged.write, database, seed) for seed in (2, 3)]
            done.append(pool.submit(acknowledged.listen, child))
            try:
                for turn in range(15):
                    time.sleep(0.06)
                    if turn % 3 == 0:
                        continue
                    if turn % 3 == 1:
                        database.rename_collection("docs", f"kept-{turn}")
                    else:
                        database.drop_collection("docs")
                        dropped_at[opened_of(present).id] = time.monotonic()
                    present = database.create_collection("docs", DIM)
            finally:
                acknowledged.stop.set()
                stop_file.touch()
            for each in done:
                each.result(HANG_S)
            assert child.wait(HANG_S) == 0
        acknowledged.check(database, dropped_at)
        # There were enough attempts.
        assert len(database.list_collections()) == 6 and len(dropped_at) == 5
        assert {n[0] for names in acknowledged.began.values() for n in names} == {"1", "2", "3"}
        folders = {path.name for path in (data / "collections").iterdir()}
        assert folders == runtime_of(database).catalog.ids()
    assert os.listdir(data / "trash") == []


def test_renames_beside_remote_writers_lose_nothing(tmp_path: Path) -> None:
    """Writers with a handle write to one collection, whatever its name. Others write to the
    collection that has the name at the time of the call.
    """
    with running_server(tmp_path, indexer=False) as address, vecdb.connect(address) as client:
        first = client.create_collection("docs", DIM)
        stop, reasons = threading.Event(), set()

        def write(seed: int) -> list[str]:
            done, n = [], 0
            while not stop.is_set():
                n += 1
                try:
                    docs = first if seed == 0 else client.collection("docs")
                    docs.upsert([f"{seed}-{n}"], rows(1, n), request_id=f"{seed}-{n}")
                    done.append(f"{seed}-{n}")
                    docs.search(rows(1, n)[0], k=2)
                except vecdb.NotFoundError as error:
                    assert seed > 0
                    reasons.add(error.reason)
            return done

        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(write, seed) for seed in range(3)]
            try:
                for turn in range(12):
                    time.sleep(0.05)
                    client.rename_collection("docs", f"kept-{turn}")
                    client.create_collection("docs", DIM)
            finally:
                stop.set()
            acknowledged = [writer.result(HANG_S) for writer in writers]
        assert reasons <= {"NO_COLLECTION"}
        found = {d.name: all_ids(client.collection(d.name)) for d in client.list_collections()}
        everything = sorted(name for names in acknowledged for name in names)
        assert sorted(name for names in found.values() for name in names) == everything
        assert len(everything) > 50
        assert set(acknowledged[0]) <= set(found["kept-0"])
