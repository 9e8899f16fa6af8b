"""One folder, many processes: short-lived ones, killed readers, forks."""

from __future__ import annotations

import os
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
from tests.places import override
from tests.serving import ServerProcess
from tests.waiting import HANG_S, eventually
from vecdb.engine.kv.environment import Environment
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store
from vecdb.engine.testing import opened_of

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
def test_short_lived_processes_beside_a_server_lose_no_write(tmp_path: Path) -> None:
    """Each one starts an indexer; the server's indexer gets its turn, and no process is left."""
    folder = tmp_path / "data"
    with ServerProcess(folder, seal_bytes=4 * DIM * 500) as server:
        with vecdb.connect(server.address) as client:
            docs = client.create_collection("docs", DIM)
            docs.upsert_many(names(5000, 10**6), rows(5000), batch_rows=1000)
            for i in range(3):
                run_script(folder, 1000 * i, 1000)
                assert docs.count() == 5000 + 1000 * (i + 1)
                assert docs.search(rows(1000, 1000 * i)[3], k=1).ids == [f"row-{1000 * i + 3}"]
            stats = docs.optimize(timeout_s=HANG_S)
            assert stats.unindexed_rows == 0 and [s.kind for s in stats.segments] == ["graph"]
            assert "crash" not in stats.indexer
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    eventually(lambda: not indexers_of(folder))


READER = """
import os, signal, sys
from pathlib import Path
from vecdb.engine.store import layout
from vecdb.engine.kv.environment import Environment
from vecdb.engine.runtime.open_collection import OpenCollection
environment = Environment(Path(sys.argv[1]), layout.DATABASES, create=False, map_bytes=1 << 26)
with environment.read() as transaction:
    transaction.get(b"state", db=environment.database(b"meta"))
    print("reading", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_a_reader(store: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", READER, str(store)],
        capture_output=True,
        timeout=HANG_S,
        env=environment,
    )
    assert done.stdout == b"reading\n" and done.returncode == -signal.SIGKILL, done.stderr


def test_pages_of_a_killed_reader_are_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise these pages would never be reused, and the file would grow with each commit."""
    folder = tmp_path / "store"
    config = vecdb.CollectionConfig(DIM, vecdb.Metric.COSINE)
    Store.create(folder, "0" * 16, config, 1 << 26, "docs")
    environment = Environment(folder, layout.DATABASES, create=False, map_bytes=1 << 26)

    def overwrite(count: int) -> int:
        """Return the bytes that the file grows by when the same values are written repeatedly."""
        before = environment.file_bytes()
        for i in range(count):
            environment.transact(
                lambda transaction, i=i: [
                    transaction.put(b"%d" % n, bytes([i % 256]) * 3000,
                                    db=environment.database(b"requests"))
                    for n in range(100)
                ]
            )  # fmt: skip
        return environment.file_bytes() - before

    try:
        overwrite(5)
        usual = overwrite(20)
        leave_a_reader(folder)
        assert environment.readers()[0] == 1
        override(monkeypatch, "reader_check_s", 1e6)
        with_reader = overwrite(20)
        assert environment.readers()[0] == 1 and with_reader > usual + 4_000_000
        override(monkeypatch, "reader_check_s", 0.0)
        assert overwrite(60) < with_reader
        assert environment.readers()[0] == 0
    finally:
        environment.close()


def test_drop_right_after_a_commit_logs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process may drop the collection before the work after the commit is scheduled."""
    errors = [vecdb.NotFoundError("the collection was dropped", "NO_COLLECTION"), OSError("bad")]

    def work(_: OpenCollection) -> str | None:
        raise errors.pop(0)

    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        monkeypatch.setattr(OpenCollection, "work", work)
        docs.upsert(["a"], rows(1))
        docs.upsert(["b"], rows(1))
        monkeypatch.undo()
    (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("vecdb")]
    assert message.endswith("bad") and errors == []


def test_open_clears_slots_of_killed_readers(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(["own"], rows(1))
        leave_a_reader(Path(opened_of(docs).folder) / "store")
        assert docs.stats().readers == 1
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        assert database.collection("docs").stats().readers == 0


def test_folder_opened_by_another_path_is_the_same_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "parent").symlink_to(real)
    first = vecdb.open(real / "data", indexer=False)
    monkeypatch.chdir(real)
    paths: list[Any] = ["data", "./data/", Path("../real/data"), str(tmp_path / "parent" / "data"),
                        os.fspath(real / "x" / ".." / "data")]  # fmt: skip
    for path in paths:
        with vecdb.open(path) as again:
            assert again is first
    first.create_collection("docs", DIM)
    first.close()
    with vecdb.open("data", indexer=False) as later:
        assert later is not first and later.collection("docs").count() == 0


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork_during_use_leaves_parent_and_child_working(tmp_path: Path) -> None:
    """Threads write and search, so that locks are held during the fork. Calls of the child fail and
    do not hang, it can use another folder, and the parent is not affected.
    """
    with vecdb.open(tmp_path / "data", indexer=False, seal_bytes=4 * DIM * 300) as database:
        docs, stop = database.create_collection("docs", DIM), threading.Event()
        docs.upsert(["first"], rows(1))
        failures: list[BaseException] = []
        written = [1]

        def use(write: bool) -> None:
            i = 0
            try:
                while not stop.is_set():
                    if write:
                        written[0] += docs.upsert(names(20, 20 * i), rows(20, i)).count
                    else:
                        assert len(docs.search(rows(1)[0], k=1)) == 1
                    i += 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use, args=(write,)) for write in (True, False, False)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            time.sleep(0.05)
            child = os.fork()
            if child == 0:
                os._exit(in_child(database, docs))
            assert os.waitstatus_to_exitcode(eventually(lambda c=child: reaped(c))) == 42
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert docs.count() == written[0]


def reaped(child: int) -> int | None:
    """Return the exit status of a child; a hanging child is killed when the test ends."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return (status or 1 << 16) if pid else None


def in_child(database: Any, docs: Any) -> int:
    signal.alarm(15)
    calls = (
        docs.count,
        docs.stats,
        database.list_collections,
        lambda: docs.search(rows(1)[0]),
        lambda: docs.upsert(["theirs"], rows(1)),
        lambda: docs.get(["first"]),
        lambda: next(iter(docs.scroll())),
        lambda: database.create_collection("theirs", DIM),
        lambda: database.drop_collection("docs"),
    )
    for number, call in enumerate(calls):
        try:
            call()
        except vecdb.FailedPreconditionError as error:
            if "fork" not in str(error):
                return 20 + number
        except BaseException:
            return 1 + number
        else:
            return 60 + number
    database.close()
    try:
        vecdb.open(database.path, indexer=False)
    except vecdb.FailedPreconditionError as error:
        if error.reason != "FORKED":
            return 50
    except BaseException:
        return 51
    with vecdb.open(f"{database.path}-{os.getpid()}", indexer=False) as own:
        own.create_collection("docs", DIM).upsert(["own"], rows(1))
        return 42 if own.collection("docs").search(rows(1)[0]).ids == ["own"] else 52
