"""Backups: a restored state is a committed one, and damaged backups are not restored.

Writers in other processes continue during a backup and record their batches by seq; a restored
collection must equal the recorded state at the backup's seq. Other tests stop the backup's process
at critical points and change the folder in between.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
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
)
from tests.model import Model, index_now
from tests.waiting import HANG_S
from vecdb.engine.kv.environment import Environment
from vecdb.engine.maintenance.backup.manifest import read_manifest
from vecdb.engine.segments import lifecycle
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.testing import opened_of, put_catalog_entry

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
