"""``vecdb.check`` as users call it.

No findings after every normal history and beside writers; crashes of its process, damaged pages,
repair and the command line. ``test_check_planted.py`` has the faults of each kind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.checking import (
    DIM,
    catalog_entry,
    change_counters,
    checked,
    collection_folder,
    fill,
    ids_of,
    kinds_of,
    put,
    vectors_of,
)
from tests.model import flush_now, index_now
from tests.places import override, value_of
from tests.waiting import HANG_S
from vecdb.checking import NOTE
from vecdb.engine.maintenance.checking.catalog import check_catalog
from vecdb.engine.runtime.catalog_loss import stores_on_disk
from vecdb.engine.segments.lifecycle import FLUSH_LOCK, reserve
from vecdb.engine.testing import opened_of
from vecdb_cli import command_line


def empty(database: Any) -> None:
    database.create_collection("docs", DIM)


def no_collection(database: Any) -> None:
    pass


def fresh_rows(database: Any) -> None:
    docs = database.create_collection("docs", DIM, "euclidean")
    docs.upsert(ids_of(0, 300), vectors_of(0, 300))
    docs.delete(ids_of(0, 3))


def flat_segments(database: Any) -> None:
    docs = database.create_collection("docs", DIM, "dot")
    for start in range(0, 300, 100):
        docs.upsert(ids_of(start, 100), vectors_of(start, 100), [{"n": 1}] * 100)
        flush_now(docs)


def graphs(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    for start in range(0, 2_000, 500):
        docs.upsert(ids_of(start, 500), vectors_of(start, 500))
        flush_now(docs)
        index_now(docs, rows_max=1_000)


def updates_and_deletes(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    for seed in range(4):
        docs.upsert(ids_of(50 * seed, 200), vectors_of(seed, 200), [{"seed": seed}] * 200)
        docs.delete(ids_of(75 * seed, 30))
        if seed % 2:
            flush_now(docs)
            index_now(docs)


def everything_deleted(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(ids_of(0, 100), vectors_of(0, 100))
    flush_now(docs)
    docs.delete(ids_of(0, 100))
    index_now(docs)


def versions_of_metadata(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    for version in range(5):
        docs.upsert(ids_of(0, 60), vectors_of(0, 60), [{"version": version}] * 60)
    docs.upsert(ids_of(0, 60), vectors_of(0, 60))


def identical_vectors(database: Any) -> None:
    docs = database.create_collection("docs", DIM)
    same = np.repeat(vectors_of(0, 3), 200, axis=0)
    docs.upsert(ids_of(0, 600), same)
    docs.upsert(ids_of(600, 300), vectors_of(1, 300))
    flush_now(docs)
    index_now(docs)


def dropped(database: Any) -> None:
    graphs(database)
    database.drop_collection("docs")
    empty(database)


def unicode_and_long(database: Any) -> None:
    docs = database.create_collection("docs", 700)
    names = ["é" * 250, "日本", "0", " "]
    docs.upsert(names, vectors_of(0, 4, 700), [{"text": "x" * 60_000}, None, {"é": [1]}, {}])
    flush_now(docs)
    index_now(docs)


def a_killed_process(database: Any) -> None:
    """A reservation of a killed process is no problem: the next holder of the lock discards it."""
    fresh_rows(database)
    assert reserve(opened_of(database.collection("docs")).store, FLUSH_LOCK, 0, 300) is not None


HISTORIES: tuple[Callable[[Any], None], ...] = (
    no_collection,
    empty,
    fresh_rows,
    flat_segments,
    graphs,
    updates_and_deletes,
    everything_deleted,
    versions_of_metadata,
    identical_vectors,
    dropped,
    unicode_and_long,
    a_killed_process,
)


@pytest.mark.parametrize("history", HISTORIES, ids=lambda function: function.__name__)
def test_check_of_normal_histories_finds_nothing(
    tmp_path: Path, history: Callable[[Any], None]
) -> None:
    folder = tmp_path / "data"
    with vecdb.open(folder, indexer=False) as database:
        history(database)
        counts = {c.name: database.collection(c.name).count() for c in database.list_collections()}
    before = state_of_files(folder)
    problems, found = checked(folder, findable=0.99)
    assert problems == []
    assert {each.name: each.live_count for each in found} == counts
    assert all(each.findable is None or each.findable >= 0.99 for each in found)
    assert state_of_files(folder) == before
    with vecdb.open(folder, indexer=False, segment_bytes_max=20_000, seal_bytes=1_000) as database:
        for name, count in counts.items():
            collection = database.collection(name)
            dim = collection.config.dim
            collection.upsert(["new"], vectors_of(9, 1, dim))
            assert collection.count() == count + 1
    assert checked(folder)[0] == []


def state_of_files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return path → modification time and content of every file except LMDB's lock files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock.mdb"
    }


@pytest.mark.slow
def test_check_of_small_indexed_segments_finds_nothing(tmp_path: Path) -> None:
    """As built by a running database, and while it is open in this process."""
    options = {"segment_bytes_max": 100_000, "seal_bytes": 10_000}
    with vecdb.open(tmp_path / "data", **options) as database:
        docs = database.create_collection("docs", DIM)
        for start in range(0, 3_000, 500):
            docs.upsert(ids_of(start, 500), vectors_of(start, 500))
        docs.optimize()
        said: list[str] = []
        report = vecdb.check(tmp_path / "data", findable=0.99, progress=said.append)
        assert report.problems == () and report.content and report.complete
        (found,) = report.collections
        assert (found.name, found.live_count, found.seq) == ("docs", 3_000, 6)
        assert found.segments == len(docs.stats().segments) > 1
        assert said == ["checking the catalogue", "checking docs"]


WRITER = """
import contextlib, sys
from vecdb.engine.testing import opened_of
from pathlib import Path
import vecdb
from tests.places import override
from tests.checking import ids_of, vectors_of
from tests.model import indexer_of
with vecdb.open(sys.argv[1], indexer=False) as database:
    docs = database.create_collection("docs", 8)
    turn = 0
    while Path(sys.argv[2]).exists():
        first = 40 * turn % 900
        docs.upsert(ids_of(first, 100), vectors_of(turn, 100), [{"turn": turn}] * 100)
        docs.delete(ids_of(first * 7 % 900, 20))
        # Without helpers that require success: another process may hold locks or unlink files.
        with contextlib.suppress(OSError, vecdb.VecdbError):
            opened_of(docs).flush(1)
            if turn % 3 == 0:
                indexer_of(docs).run("optimizing")
        if turn % 5 == 0:
            database.create_collection(f"brief{turn}", 8).upsert(["a"], vectors_of(0, 1))
            database.drop_collection(f"brief{turn}")
        turn += 1
        if turn == 3:
            print("going", flush=True)
    print(turn)
"""

UNDER_WAY = {"COLLECTION_UNFINISHED", "TRASH"}
"""What a check in another process, whose time limit can't be raised here, may report of a
writer on a busy machine. The check in this process reports nothing."""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes, flushes, indexes, creates and drops collections until its file is
    gone.
    """
    go = tmp_path / "go"
    go.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "data"), str(go)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "going\n"
        yield process
    finally:
        go.unlink(missing_ok=True)
        try:
            process.wait(HANG_S)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_check_beside_a_writer_finds_nothing(
    tmp_path: Path, writer: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine an operation of the writer may stay unfinished for long.
    override(monkeypatch, "check_in_progress_s", 30.0)
    seqs: list[int] = []
    while len(set(seqs)) < 5:
        problems, found = checked(tmp_path / "data", findable=0.95)
        assert problems == []
        seqs += [each.seq for each in found if each.name == "docs"]
    assert kinds_of(list(vecdb.check(tmp_path / "data").problems)) <= UNDER_WAY
    assert writer.poll() is None
    (tmp_path / "go").unlink()
    assert writer.stdout is not None and int(writer.stdout.readline()) > 3
    assert seqs == sorted(seqs) and len(set(seqs)) >= 5, "it looked while there was writing"


def test_repair_beside_a_writer_breaks_nothing(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    segments = collection_named(tmp_path / "data", "docs") / "segments"
    for folder in segments.iterdir():
        shutil.rmtree(folder, ignore_errors=True)
    report = vecdb.check(tmp_path / "data", repair=True)
    left = [each for each in report.problems if not each.repaired and each.severity != NOTE]
    assert kinds_of(left) <= UNDER_WAY
    assert writer.poll() is None


def test_folder_removed_during_its_listing_counts_as_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A concurrent drop moves the folder at the worst moment."""
    listdir, collection = os.listdir, tmp_path / "collections" / "c"

    def just_gone(folder: Any) -> list[str]:
        shutil.rmtree(folder, ignore_errors=True)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", just_gone)
    for work in (
        lambda: value_of("list_segments")(collection),
        lambda: stores_on_disk(tmp_path),
        lambda: check_catalog(tmp_path, lambda problem: None),
    ):
        (collection / "segments" / "1").mkdir(parents=True)
        assert not work()


def collection_named(folder: Path, name: str) -> Path:
    return folder / "collections" / str(catalog_entry(folder, name)["id"])


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A closed folder with "docs" and "other"."""
    folder = tmp_path / "data"
    fill(folder)
    with vecdb.open(folder, indexer=False) as database:
        other = database.create_collection("other", DIM)
        other.upsert(ids_of(0, 100), vectors_of(0, 100))
        flush_now(other)
    return folder


@pytest.mark.slow
def test_repair_rebuilds_caches_and_reports_it(two: Path) -> None:
    place = collection_named(two, "docs")
    shutil.rmtree(place / "segments")
    change_counters_of(two, "docs", live_count=5)
    (two / "FORMAT").unlink()
    put_in(two, "other", "ids", b"id-5", None)

    report = vecdb.check(two)
    assert not report.content and not any(problem.repaired for problem in report.problems)
    expected = {"SEGMENT_MISSING", "COUNTERS", "FORMAT", "IDS"}
    assert kinds_of(list(report.problems)) == expected

    report = vecdb.check(two, repair=True)
    left = [problem for problem in report.problems if not problem.repaired]
    assert [(p.collection, p.kind) for p in left] == [("other", "IDS")]
    assert kinds_of([p for p in report.problems if p.repaired]) == expected - {"IDS"}
    assert not report.content

    put_in(two, "other", "ids", b"id-5", (5).to_bytes(8, "little"))
    change_counters_of(two, "other", live_count=100)
    assert vecdb.check(two).problems == ()
    with vecdb.open(two, indexer=False) as database:
        docs = database.collection("docs")
        assert docs.count() == 337
        assert [s.kind for s in docs.stats().segments] == ["graph"]
        assert docs.search(vectors_of(0, 200)[50], k=1).ids == ["id-50"]


def change_counters_of(folder: Path, name: str, **values: int) -> None:
    with_only(folder, name, lambda only: change_counters(only, **values))


def put_in(folder: Path, name: str, database: str, key: bytes, payload: bytes | None) -> None:
    with_only(folder, name, lambda only: put(only, database, key, payload))


def with_only(folder: Path, name: str, function: Callable[[Path], object]) -> None:
    """Call a function that expects a single collection, while the others are moved away."""
    place = collection_named(folder, name)
    only = folder.with_name("only")
    (only / "collections").mkdir(parents=True)
    place.rename(only / "collections" / place.name)
    function(only)
    (only / "collections" / place.name).rename(place)
    shutil.rmtree(only)


def test_check_of_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vecdb.NotFoundError):
        vecdb.check(tmp_path / "nothing")
    with pytest.raises(vecdb.FailedPreconditionError, match="not a vecdb database"):
        vecdb.check(tmp_path)
    (tmp_path / "FORMAT").write_text("vecdb 99\n")
    with pytest.raises(vecdb.FailedPreconditionError, match="format 99"):
        vecdb.check(tmp_path)
    with pytest.raises(vecdb.InvalidArgumentError, match=r"got 1\.5"):
        vecdb.check(tmp_path, findable=1.5)
    with pytest.raises(vecdb.InvalidArgumentError, match="got 0"):
        vecdb.check(tmp_path, sample=0)
    (tmp_path / "backup.json").write_text("{}")
    with pytest.raises(vecdb.FailedPreconditionError, match="is a backup"):
        vecdb.check(tmp_path)


@pytest.mark.slow
def test_command_line_checks_and_repairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    fill(folder)
    assert command_line.run(["check", str(folder), "--findable", "0.99"]) == 0
    said = capsys.readouterr().out
    assert "docs         337 rows at seq 7, 2 segments, self-recall 100.00%" in said
    assert "no problems (" in said

    (segment,) = (collection_folder(folder) / "segments").glob("2")
    shutil.rmtree(segment)
    assert command_line.run(["check", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "warning   SEGMENT_MISSING    docs: segment 2: " in said and "1 problem (" in said

    assert command_line.run(["check", str(folder), "--repair", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["content"] and document["complete"]
    (problem,) = document["problems"]
    assert problem["kind"] == "SEGMENT_MISSING" and problem["repaired"]
    assert problem["segment"] == 2 and problem["collection"] == "docs"
    (collection,) = document["collections"]
    assert collection["live_count"] == 337 and collection["findable"] is None

    assert command_line.run(["check", str(tmp_path / "nothing")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_incomplete_check_has_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that checks is killed by someone else, which does not mean that the folder is
    damaged.
    """
    folder = tmp_path / "data"
    fill(folder)
    stub = tmp_path / "python"
    stub.write_text(
        '#!/bin/sh\necho \'{"event": "listed", "collections": '
        '[["docs", "0123", null]]}\'\n'
        'echo \'{"event": "begin", "id": "0123"}\'\nkill -9 $$\n'
    )
    stub.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vecdb.engine.system.child_process.sys.executable", str(stub))
        assert command_line.run(["check", str(folder)]) == 2
    said = capsys.readouterr().out
    assert "CHECK_FAILED" in said and "status -9" in said
    assert "not everything could be checked" in said
