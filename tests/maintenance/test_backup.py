"""Backups: a restored state is a committed one, and damaged backups are not restored.

Writers in other processes continue during a backup and record their batches by seq; a restored
collection must equal the recorded state at the backup's seq. Other tests stop the backup's process
at critical points and change the folder in between.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.maintenance.backups import (
    DIM,
    NAMES,
    check_same,
    entries_of,
    filled,
    flip,
    partials,
    vectors_of,
    wait_for,
)
from tests.model import Model, index_now
from tests.waiting import HANG_S
from vecdb.engine.kv.environment import Environment
from vecdb.engine.maintenance.backup.manifest import read_manifest
from vecdb.engine.maintenance.backup.process import back_up
from vecdb.engine.segments import lifecycle
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import opened_of, put_catalog_entry, reader_table, runtime_of


class PausedBackup:
    """The process of a backup, stopped just before it calls a function.

    Args:
        function: like "Environment.copy", in the namespace of its module.
        call: number of the call, from 1.
    """

    def __init__(
        self, root: Path, target: Path, function: str, call: int = 1, *options: str
    ) -> None:
        self._go = target.with_name(f"{target.name}.go")
        holder, _, name = f"backup.{function}".rpartition(".")
        code = f"""
import itertools, os, time
from vecdb.engine.maintenance.backup import backup
real, calls = {holder}.{name}, itertools.count(1)
def paused(*arguments, **named):
    if next(calls) == {call}:
        print("paused", flush=True)
        while not os.path.exists({str(self._go)!r}):
            time.sleep(0.005)
    return real(*arguments, **named)
{holder}.{name} = paused
backup.main()
"""
        self._child = subprocess.Popen(
            [sys.executable, "-c", code, *options, str(root), str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "paused\n"

    def finish(self) -> dict[str, Any]:
        """Continue the process and return its answer."""
        self._go.touch()
        assert self._child.stdout is not None
        answer: dict[str, Any] = json.loads(self._child.stdout.readline())
        self.end()
        return answer

    def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Close its stdin, as when its parent was killed, and return its exit status."""
        assert self._child.stdout is not None and self._child.stdin is not None
        self._child.stdin.close()
        status = self._child.wait(HANG_S)
        self._child.stdout.close()
        self._go.unlink(missing_ok=True)
        return status


@pytest.fixture
def paused(tmp_path: Path) -> Iterator[Any]:
    """Create a PausedBackup of tmp_path / "data", and end it after the test."""
    made: list[PausedBackup] = []

    def make(function: str, call: int = 1, *options: str) -> PausedBackup:
        data, target = tmp_path / "data", tmp_path / "backup"
        made.append(PausedBackup(data, target, function, call, *options))
        return made[-1]

    yield make
    for each in made:
        each.end()


WRITER = """
import json, random, sys, time
import numpy as np
import vecdb
from tests.maintenance.backups import NAMES, vectors_of

folder, log, writer, indexer = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
chance = random.Random(writer)
options = {"seal_bytes": 64 * 1024, "indexer": indexer}
with vecdb.open(folder, **options) as database, open(log, "w") as out:
    handles = [database.collection(name) for name in NAMES]
    number = 0
    print("ready", flush=True)
    while not select_ready():
        time.sleep(0.02)
        number += 1
        name = chance.choice(NAMES)
        docs = handles[NAMES.index(name)]
        seed = 1_000 * number + writer
        ids = [f"{writer}-{i}" for i in chance.sample(range(2_000), chance.randint(1, 200))]
        if chance.random() < 0.25:
            kind, receipt = "delete", docs.delete(ids)
        else:
            kind = "upsert"
            receipt = docs.upsert(ids, vectors_of(seed, len(ids)), [{"s": seed}] * len(ids))
        line = {"name": name, "seq": receipt.seq, "kind": kind, "ids": ids, "seed": seed}
        out.write(json.dumps(line) + "\\n")
"""


class Writers:
    """Two processes that write to the same two collections until they are stopped."""

    def __init__(self, folder: Path, logs: list[Path]) -> None:
        self._logs = logs
        stop = "def select_ready():\n    import select\n"
        stop += "    return select.select([sys.stdin], [], [], 0)[0]\n"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._children = [
            subprocess.Popen(
                [sys.executable, "-c", stop + WRITER, folder, log, str(writer), str(writer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for writer, log in enumerate(logs)
        ]
        for child in self._children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *exception: object) -> None:
        for child in self._children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                pipe.close()

    def stop(self) -> list[dict[str, Any]]:
        """Stop the processes and return all batches, by seq."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.close()
        assert [child.wait(HANG_S) for child in self._children] == [0, 0]
        lines = [json.loads(line) for path in self._logs for line in path.read_text().splitlines()]
        return sorted(lines, key=lambda line: line["seq"])


def models_at(lines: list[dict[str, Any]], seqs: dict[str, int]) -> dict[str, Model]:
    """Return what each collection has after the batch with its seq."""
    models = {name: Model(DIM, "cosine") for name in NAMES}
    for line in lines:
        model, ids = models[line["name"]], line["ids"]
        if line["seq"] > seqs[line["name"]]:
            continue
        if line["kind"] == "delete":
            model.delete(ids)
        else:
            model.upsert(ids, vectors_of(line["seed"], len(ids)), [{"s": line["seed"]}] * len(ids))
    return models


@pytest.mark.slow
def test_backup_beside_two_writers_is_a_committed_state(
    tmp_path: Path,
) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        for name in NAMES:
            database.create_collection(name, DIM)
        stores = {name: opened_of(database.collection(name)).store for name in NAMES}
        seqs_before = []
        reports = []
        with Writers(tmp_path / "data", [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]) as writers:
            for number in range(3):
                time.sleep(0.5)
                seqs_before.append({n: store.current_state().seq for n, store in stores.items()})
                target = tmp_path / f"backup-{number}"
                reports.append(database.backup(target, include_segments=number % 2 == 0))
            lines = writers.stop()
    assert partials(tmp_path) == []
    for number, (report, before) in enumerate(zip(reports, seqs_before, strict=True)):
        backup = tmp_path / f"backup-{number}"
        manifest = read_manifest(backup)
        seqs = {entry["name"]: entry["seq"] for entry in manifest["collections"]}
        assert set(seqs) == set(NAMES)
        # Writes acknowledged before the backup began are in it.
        assert all(seqs[name] >= before[name] for name in NAMES)
        assert manifest["include_segments"] is (number % 2 == 0)
        models = models_at(lines, seqs)
        assert report.rows == sum(len(model.rows) for model in models.values())
        assert report.collections == 2
        assert report.bytes == sum(f.stat().st_size for f in backup.rglob("*") if f.is_file())
        vecdb.restore(backup, tmp_path / f"restored-{number}")
        with vecdb.open(tmp_path / f"restored-{number}", indexer=False) as database:
            for entry in manifest["collections"]:
                docs = database.collection(entry["name"])
                check_same(docs, models[entry["name"]], number)
                stats = docs.stats()
                assert (stats.seq, stats.generation) == (entry["seq"], entry["generation"])
                assert len(stats.segments) == entry["segments"]
                if number % 2:
                    assert entry["lost"] == entry["segments"] > 0
                # The restored database continues at that seq, and its segments are rebuilt.
                assert docs.upsert(["new"], vectors_of(1, 1)).seq == entry["seq"] + 1
                models[entry["name"]].upsert(["new"], vectors_of(1, 1), None)
                index_now(docs)
                check_same(docs, models[entry["name"]], number)
                assert all(each.state == "published" for each in entries_of(docs).values())


def test_backup_has_collections_dropped_during_it_and_not_those_created(
    tmp_path: Path, paused: Any
) -> None:
    database, model = filled(tmp_path / "data")
    with database:
        database.create_collection("empty", 3, "dot")
        backup = paused("_copy_collection")
        database.drop_collection("docs")
        other = database.create_collection("docs", 2)
        other.upsert(["x"], [[1, 2]])
        database.create_collection("late", 2)
        assert "report" in backup.finish()
        assert [c.name for c in database.list_collections()] == ["docs", "empty", "late"]
    report = vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    assert (report.collections, report.rows) == (2, len(model.rows))
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        found = {c.name: (c.config.dim, str(c.config.metric)) for c in database.list_collections()}
        assert found == {"docs": (DIM, "cosine"), "empty": (3, "dot")}
        docs = database.collection("docs")
        check_same(docs, model)
        docs.upsert(["0-1"], vectors_of(9, 1))
        database.drop_collection("docs")


def test_backup_omits_interrupted_creates_and_drops(tmp_path: Path) -> None:
    database, model = filled(tmp_path / "data")
    with database:
        for name in ("creating", "dropping"):
            database.create_collection(name, 2)
            put_catalog_entry(database, name, name, "0" * 16)
        assert database.backup(tmp_path / "backup").collections == 1
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    names = Environment(
        tmp_path / "restored" / "catalog", (b"names",), create=False, map_bytes=1 << 24
    )
    with names.read() as transaction:
        assert transaction.stat(names.database(b"names"))["entries"] == 1
    names.close()
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        assert [c.name for c in database.list_collections()] == ["docs"]
        check_same(database.collection("docs"), model)
        database.create_collection("creating", 2)


@pytest.mark.parametrize("moment", [("open_copy", 2), ("_copy_segments", 1)])
def test_segments_replaced_during_a_backup_are_copied(
    tmp_path: Path, paused: Any, moment: tuple[str, int]
) -> None:
    database, model = filled(tmp_path / "data")
    with database:
        docs = database.collection("docs")
        before = entries_of(docs)
        # The files were opened before the store was copied.
        backup = paused(*moment)
        index_now(docs)
        assert set(entries_of(docs)).isdisjoint(before)
        assert not any((opened_of(docs).folder / "segments" / str(n)).exists() for n in before)
        assert "report" in backup.finish()
    (entry,) = read_manifest(tmp_path / "backup")["collections"]
    assert (entry["segments"], entry["lost"]) == (len(before), 0)
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        docs = database.collection("docs")
        assert entries_of(docs) == before
        check_same(docs, model)
        assert opened_of(docs).snapshots.verify(lambda: None)
        assert docs.search(vectors_of(5, 1)[0], k=3).info.verified


@pytest.mark.parametrize("how", ["unlinked", "half", "damaged"])
def test_missing_or_damaged_segment_is_rebuilt_after_restore(tmp_path: Path, how: str) -> None:
    database, model = filled(tmp_path / "data")
    with database:
        docs = database.collection("docs")
        number = min(entries_of(docs))
        folder = opened_of(docs).folder / "segments" / str(number)
        if how == "unlinked":
            shutil.rmtree(folder)
        elif how == "half":
            (folder / "rows.npy").unlink()
        else:
            flip(folder / "vectors.npy", 1000)
        database.backup(tmp_path / "backup")
    (entry,) = read_manifest(tmp_path / "backup")["collections"]
    assert (entry["segments"], entry["lost"]) == (2, 1)
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        docs = database.collection("docs")
        check_same(docs, model)
        index_now(docs)
        assert {e.state for e in entries_of(docs).values()} == {"published"}
        check_same(docs, model)


def test_backup_omits_reservations_leases_and_drafts(tmp_path: Path) -> None:
    database, model = filled(tmp_path / "data")
    with database:
        docs = database.collection("docs")
        store = opened_of(docs).store
        counters = opened_of(docs).snapshots.snapshot().counters
        taken = lifecycle.reserve(store, lifecycle.GRAPH_LOCK, 0, counters.sealed_to)
        assert taken is not None
        key = b"k" * 16

        def write(transaction: Any) -> None:
            lease = layout.pack_lease(layout.Lease(key, 1, 1, time.time_ns() + 10**12))
            request = layout.pack_value(key, b"of somebody")
            for name, value in ((b"pins", lease), (b"requests", request)):
                transaction.put(key, value, db=store.environment.database(name))
            retired = SegmentEntry("retired", 0, 1, 1, kind="flat")
            store.write_segment(transaction, 77, retired)

        store.environment.transact(write)
        generation = docs.stats().generation
        database.backup(tmp_path / "backup")
        assert set(entries_of(docs)) > {77, taken.number}
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        docs = database.collection("docs")
        assert {e.state for e in entries_of(docs).values()} == {"published"}
        assert docs.stats().generation == generation + 1
        # Numbers are never reused.
        assert opened_of(docs).snapshots.snapshot().counters.next_segment == taken.number + 1
        environment = opened_of(docs).store.environment
        with environment.read() as transaction:
            assert transaction.get(key, db=environment.database(b"pins")) is None
            assert transaction.get(key, db=environment.database(b"requests")) is not None
        check_same(docs, model)


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
