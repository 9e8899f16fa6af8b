"""Backups: a restored state is a committed one, and damaged backups are not restored.

Writers in other processes continue during a backup and record their batches by seq; a restored
collection must equal the recorded state at the backup's seq. Other tests stop the backup's process
at critical points and change the folder meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model, index_now, seal_now
from tests.serving import running_server
from tests.waiting import HANG_S, eventually
from vecdb.engine.kv.environment import Environment
from vecdb.engine.maintenance.backup.manifest import read_manifest, write_manifest
from vecdb.engine.maintenance.backup.process import back_up
from vecdb.engine.segments import lifecycle as publication
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import opened_of, put_catalog_entry, reader_table, runtime_of
from vecdb_cli import command_line
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.process import Server

DIM = 16
NAMES = ("a", "b")


def vectors_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def filled(folder: Path, rows: int = 600) -> tuple[Any, Model]:
    """Return an open database with "docs": graph, flat segment, memtable rows, deleted rows."""
    database = vecdb.open(folder, indexer=False)
    docs = database.create_collection("docs", DIM)
    model = Model(DIM, "cosine")
    for number in range(3):
        names = [f"{number}-{i}" for i in range(rows // 3)]
        batch = (names, vectors_of(number, len(names)), [{"n": number}] * len(names))
        docs.upsert(*batch)
        model.upsert(*batch)
        if number < 2:
            seal_now(docs)
        if number == 0:
            index_now(docs)
    gone = [f"{number}-{i}" for number in range(3) for i in range(0, rows // 3, 5)]
    docs.delete(gone)
    model.delete(gone)
    return database, model


def check_same(docs: Any, model: Model, seed: int = 0) -> None:
    """Check that a collection equals the model, bit for bit, and finds its rows."""
    assert docs.count() == len(model.rows)
    for start in range(0, len(model.rows), 5_000):
        names = list(model.rows)[start : start + 5_000]
        model.check_records(docs.get(names), names)
    if model.rows:
        query = vectors_of(seed + 1_000_000, 1)[0]
        model.check_hits(docs.search(query, k=20, exact=True), query, 20, exact=True)


def entries_of(docs: Any) -> dict[int, SegmentEntry]:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        found: dict[int, SegmentEntry] = store.read_segments(transaction)
    return found


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.partial-*"))


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


# ---------------------------------------------------------------------- while others write

WRITER = """
import json, random, sys, time
import numpy as np
import vecdb
from tests.maintenance.test_backup import NAMES, vectors_of

folder, ledger, writer, indexer = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
chance = random.Random(writer)
options = {"seal_bytes": 64 * 1024, "indexer": indexer}
with vecdb.open(folder, **options) as database, open(ledger, "w") as out:
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

    def __init__(self, folder: Path, ledgers: list[Path]) -> None:
        self._ledgers = ledgers
        stop = "def select_ready():\n    import select\n"
        stop += "    return select.select([sys.stdin], [], [], 0)[0]\n"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._children = [
            subprocess.Popen(
                [sys.executable, "-c", stop + WRITER, folder, ledger, str(writer), str(writer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for writer, ledger in enumerate(ledgers)
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
        lines = [
            json.loads(line) for path in self._ledgers for line in path.read_text().splitlines()
        ]
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


# -------------------------------------------------------------  what changes while a backup is made


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
        taken = publication.reserve(store, publication.GRAPH_LOCK, 0, counters.sealed_to)
        assert taken is not None
        key = b"k" * 16

        def write(transaction: Any) -> None:
            lease = layout.pack_lease(layout.Lease(key, 1, 1, time.time_ns() + 10**12))
            request = layout.seal_value(key, b"of somebody")
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


# ---------------------------------------------------------------------- what does not finish


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


def wait_for(path: Path) -> None:
    eventually(lambda: list(path.parent.glob(path.name)))


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


# ---------------------------------------------------------------------- restoring


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ (1 << random.randrange(8))]) + whole[at + 1 :]


def flip(path: Path, at: int) -> None:
    path.write_bytes(flipped(path.read_bytes(), at))


def test_flipped_byte_in_a_backup_is_refused(tmp_path: Path) -> None:
    database, _ = filled(tmp_path / "data", 60)
    with database:
        database.backup(tmp_path / "backup")
    files = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
    # Store, catalogue and manifest, a flat segment and a graph.
    assert len(files) == 2 + 1 + (5 + 8)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    random.seed(seed)
    for path in files:
        whole = path.read_bytes()
        places = (0, random.randrange(len(whole)), len(whole) - 1)
        damaged = [flipped(whole, at) for at in places]
        for content in (*damaged, whole[:-1], whole + b"\n", None):
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


# ---------------------------------------------------------------------- surfaces


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


@pytest.mark.parametrize("name", ["monday", "./x", "weekly/monday", "in/tuesday", "abs", "~", "…"])
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


@pytest.mark.parametrize("option", ["--data", "--url"])
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
