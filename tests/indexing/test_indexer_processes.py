"""Indexers that fail, crash, outlive their parent or are stopped; graph jobs never overlap."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.indexing.processes import DIM, indexers_of, names, rows
from tests.places import override, value_of
from tests.serving import ServerProcess, stop
from tests.waiting import HANG_S, eventually
from vecdb.engine.indexing.supervisor import IndexerSettings, Supervisor
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.system import failpoints
from vecdb.engine.testing import note_indexer_failure, opened_of, runtime_of

SLOW_S = 120.0
"""An indexer gives way to all others, so that on a busy machine a large build takes long."""


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The indexers that databases of this process start."""
    started: list[subprocess.Popen[str]] = []
    start = value_of("start_indexer")

    def noting(self: Supervisor) -> subprocess.Popen[str]:
        started.append(start(self))
        return started[-1]

    override(monkeypatch, "start_indexer", noting)
    return started


def entries_of(docs: Any) -> dict[int, SegmentEntry]:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        return store.read_segments(transaction)


def check_tidy(docs: Any) -> None:
    """Check that no unfinished work is left once the indexer pauses."""
    folder, seen = Path(opened_of(docs).folder), {}

    def tidy() -> bool:
        entries = entries_of(docs)
        seen["states"] = {entry.state for entry in entries.values()}
        seen["graphs"] = list(folder.glob("graph-*.hnsw"))
        seen["folders"] = {entry.name for entry in (folder / "segments").iterdir()}
        expected = {"states": {"published"}, "graphs": [], "folders": set(map(str, entries))}
        return seen == expected

    eventually(tidy, otherwise=seen)


def data_bytes(pid: int) -> int:
    (line,) = (
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmData" in line
    )
    return 1024 * int(line.split()[1])


@pytest.mark.slow
def test_build_that_runs_out_of_memory_is_retried(tmp_path: Path, children: list[Any]) -> None:
    """The limit lets the indexer run but not build; searches and writes continue."""
    with vecdb.open(tmp_path / "data", map_bytes=1 << 26) as database:
        small = database.create_collection("small", DIM)
        small.upsert(names(100), rows(100))
        small.optimize(timeout_s=HANG_S)
        docs = database.create_collection("docs", DIM)
        vectors = rows(12_000)
        docs.upsert_many(names(12_000), vectors, batch_rows=6_000)
        (child,) = children
        limit = data_bytes(child.pid) + 512 * 1024
        no_limit = resource.prlimit(child.pid, resource.RLIMIT_DATA)
        resource.prlimit(child.pid, resource.RLIMIT_DATA, (limit, no_limit[1]))
        opened_of(docs).flush(1)
        runtime_of(database).wake_indexer(opened_of(docs).id)
        eventually(lambda: "(2 in a row)" in docs.stats().indexer)
        status = docs.stats().indexer
        assert "waiting" in status and ("emory" in status or "alloc" in status), status
        assert docs.search(vectors[7], k=1).ids == ["row-7"]
        docs.upsert(["later"], rows(1, 9))
        assert small.search(rows(1)[0], k=1).ids == ["row-0"]
        assert children == [child] and child.poll() is None
        resource.prlimit(child.pid, resource.RLIMIT_DATA, no_limit)
        stats = docs.optimize(timeout_s=HANG_S)
        assert stats.unindexed_rows == 0
        eventually(lambda: "waiting after" not in docs.stats().indexer)
        assert docs.search(vectors[7], k=1).info.verified
        check_tidy(docs)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["graph.reserved", "segment.arrays"])
def test_build_that_crashes_repeatedly_backs_off(
    tmp_path: Path, children: list[Any], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    with vecdb.open(tmp_path / "data") as database:
        docs, vectors = database.create_collection("docs", DIM), rows(500)
        docs.upsert(names(500), vectors)
        opened_of(docs).flush(1)
        monkeypatch.setenv(failpoints.VARIABLE, f"{point}=crash")
        began = time.monotonic()
        runtime_of(database).wake_indexer(opened_of(docs).id)
        eventually(
            lambda: "waiting after a crash (2 in a row): it was killed" in docs.stats().indexer
        )
        assert time.monotonic() - began > 1.0 and len(children) >= 2
        # A third one may have been started by now.
        assert all(child.returncode == -signal.SIGKILL for child in children[:2])
        assert docs.search(vectors[7], k=1).ids == ["row-7"]
        docs.upsert(["later"], rows(1, 9))
        monkeypatch.delenv(failpoints.VARIABLE)
        assert docs.optimize(timeout_s=HANG_S).unindexed_rows == 0
        eventually(lambda: "waiting after" not in docs.stats().indexer)
        check_tidy(docs)


@pytest.mark.slow
def test_graph_jobs_of_two_processes_never_overlap(tmp_path: Path, children: list[Any]) -> None:
    """Two processes with indexers are killed repeatedly: there is one graph reservation at a time,
    and everything that they leave is discarded.
    """
    seed = random.randrange(2**32)
    print("seed", seed)
    chance, folder = random.Random(seed), tmp_path / "data"
    with (
        vecdb.open(folder, seal_bytes=4 * DIM * 2000) as database,
        ServerProcess(folder, seal_bytes=4 * DIM * 2000) as server,
        vecdb.connect(server.address) as client,
    ):
        docs = database.create_collection("docs", DIM)
        remote, reservations, kills, stop = client.collection("docs"), [], [0], threading.Event()

        def watch() -> None:
            while not stop.is_set():
                states = [e for e in entries_of(docs).values() if e.state == "claimed"]
                reservations.append(sum(e.lock == "graph" for e in states))
                if reservations[-1] and chance.random() < 0.2:
                    for pid in indexers_of(folder)[:1]:
                        os.kill(pid, signal.SIGKILL)
                        kills[0] += 1
                time.sleep(0.002)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            i = 0
            while kills[0] < 2:
                (docs if i % 2 else remote).upsert(names(1000, 1000 * (i % 10)), rows(1000, i))
                time.sleep(0.01)
                i += 1
        finally:
            stop.set()
            watcher.join()
        assert max(reservations) == 1
        assert remote.optimize(timeout_s=HANG_S).unindexed_rows == 0
        assert docs.count() == remote.count() == 1000 * min(i, 10)
        assert docs.search(rows(1000, i - 1)[5], k=1).ids == [f"row-{1000 * ((i - 1) % 10) + 5}"]
        eventually(lambda: all(e.state == "published" for e in entries_of(docs).values()))
        check_tidy(docs)


SCRIPT = """
import os, sys, time, numpy as np, vecdb
folder, first, count, dim = sys.argv[1], *map(int, sys.argv[2:5])
held = sys.argv[5] if sys.argv[5:] else None
with vecdb.open(folder, seal_bytes=4 * dim * 500) as database:
    docs = database.collection("docs")
    vectors = np.random.default_rng(first).normal(size=(count, dim)).astype(np.float32)
    docs.upsert_many([f"row-{first + i}" for i in range(count)], vectors, batch_rows=2000)
    assert docs.search(vectors[0], k=1).ids == [f"row-{first}"]
    if held is not None:
        while not os.path.exists(f"{held}.held"):
            time.sleep(0.01)
        while "building" not in docs.stats().indexer:
            time.sleep(0.01)
"""

HOLDING = """
import os, sys, time
if "vecdb.engine.indexing.process" in sys.orig_argv:
    from tests.places import override_for_good, value_of
    progressed = value_of("build_progressed")

    def held(self, rows):
        progressed(self, rows)
        if rows > 1000:
            open("{place}.held", "w").close()
            while not os.path.exists("{place}.go"):
                time.sleep(0.01)

    override_for_good("build_progressed", held)
"""
"""What Python runs first in each process: an indexer stays in the middle of a large build."""


def run_script(folder: Path, first: int, count: int, held: Path | None = None) -> None:
    """Run a script. held: a folder whose indexer waits in a build until the file ``build.go``
    exists.
    """
    path = [p for p in sys.path if p]
    words = [sys.executable, "-c", SCRIPT, str(folder), str(first), str(count), str(DIM)]
    if held is not None:
        (held / "sitecustomize.py").write_text(HOLDING.format(place=held / "build"))
        path.insert(0, str(held))
        words.append(str(held / "build"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    subprocess.run(words, check=True, timeout=HANG_S, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_build_outlives_the_process_that_started_it(tmp_path: Path, killed: bool) -> None:
    """The script ends while its indexer builds. The indexer finishes the job, and the server's
    indexer skips the collection until then; if the first is killed, the server's takes over.
    """
    folder = tmp_path / "data"
    with vecdb.open(folder, indexer=False) as database:
        database.create_collection("docs", DIM)
    holding = tmp_path / "holding"
    holding.mkdir()
    run_script(folder, 0, 16_000, holding)
    (orphan,) = indexers_of(folder)
    with (
        ServerProcess(folder, seal_bytes=4 * DIM * 500) as server,
        vecdb.connect(server.address) as client,
    ):
        docs = client.collection("docs")
        assert docs.search(rows(16_000, 0)[3], k=1).ids == ["row-3"]
        docs.upsert(["later"], rows(1, 9))
        if killed:
            os.kill(orphan, signal.SIGKILL)
        else:
            (holding / "build.go").touch()
            eventually(lambda: orphan not in indexers_of(folder), SLOW_S)
            assert any(s.kind == "graph" and s.rows > 1000 for s in docs.stats().segments)
        # Its own indexer polls, without being notified.
        eventually(lambda: docs.stats().unindexed_rows < 2000, SLOW_S)
        stats = docs.optimize(timeout_s=SLOW_S)
        assert stats.unindexed_rows == 0 and stats.live_count == 16_001
        assert "crash" not in stats.indexer


@pytest.mark.slow
def test_indexer_that_cannot_start_is_retried_with_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a collection whose only reason for work is the earlier failure."""
    tried = []

    def start(self: Supervisor) -> subprocess.Popen[str]:
        tried.append(time.monotonic())
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    override(monkeypatch, "start_indexer", start)
    watching = Supervisor(tmp_path, IndexerSettings())
    note_indexer_failure(watching, "before", "it was killed")
    watching.wake("now")
    eventually(lambda: watching.failures("before") == 3)
    assert len(tried) <= 2 * 3 and watching.failures("now") >= 1
    assert "could not be started" in watching.status("before")
    watching.close()


@pytest.mark.parametrize("lines", [1, 5_000])
@pytest.mark.parametrize("outlives", [False, True])
def test_close_does_not_wait_for_a_stopped_indexer(
    tmp_path: Path,
    children: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    outlives: bool,
    lines: int,
) -> None:
    """Nor for its pipe, with any number of collections; an indexer that outlives its parent is not
    killed.
    """
    override(monkeypatch, "indexer_end_s_max", 0.5)
    watching = Supervisor(tmp_path, IndexerSettings(outlives_parent=outlives))
    watching.wake("first")
    child = eventually(lambda: children and children[0])
    stop(child)
    try:
        for i in range(lines):
            watching.wake(f"{i:032}")
        time.sleep(0.5)
        closing = threading.Thread(target=watching.close, daemon=True)
        closing.start()
        closing.join(HANG_S)
        assert not closing.is_alive()
        assert child.returncode == (None if outlives else -signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
