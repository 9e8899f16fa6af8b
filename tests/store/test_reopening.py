"""After an I/O error in a commit the store reopens; no acknowledged row is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import vecdb
from tests.waiting import HANG_S, eventually
from vecdb.engine.system import failpoints
from vecdb.engine.testing import opened_of, wrap_handle

DIM = 8


def rows(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Any]:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(["kept"], rows(1))
        yield docs


def test_error_before_the_commit_fails_only_that_batch(docs: Any) -> None:
    failpoints.arm("commit.begin=EIO")
    with pytest.raises(vecdb.UnavailableError) as caught:
        docs.upsert(["lost"], rows(1))
    assert caught.value.reason == "IO_ERROR"
    assert docs.get(["kept", "lost"]).missing == ["lost"]
    receipt = docs.upsert(["later"], rows(1))
    assert receipt.seq == 2 and docs.count() == 2


def test_error_after_the_commit_is_an_unknown_outcome(docs: Any) -> None:
    failpoints.arm("commit.end=EIO")
    with pytest.raises(vecdb.OutcomeUnknownError):
        docs.upsert(["there"], rows(1))
    # Reads work at once and show the outcome; writes work too.
    assert docs.get(["there"]).missing == []
    assert docs.upsert(["later"], rows(1)).seq == 3
    assert docs.search(rows(1)[0], k=5, exact=True).info.seq == 3


def test_failed_commit_group_is_retried_batch_by_batch(docs: Any) -> None:
    failpoints.arm("commit.begin=EIO")
    threads = []
    outcomes: list[Any] = []

    def write(i: int) -> None:
        try:
            outcomes.append(docs.upsert([f"t{i}"], rows(1, i)).seq)
        except vecdb.VecdbError as error:
            outcomes.append(error.reason)

    for i in range(6):
        threads.append(threading.Thread(target=write, args=(i,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    seqs = sorted(o for o in outcomes if isinstance(o, int))
    # A write before the next retry was refused with a reason.
    assert set(outcomes) - set(seqs) <= {"IO_ERROR", "STORE_FAILED"}
    assert docs.count() == 1 + len(seqs) and seqs == list(range(2, 2 + len(seqs)))


def retried(write: Callable[[], Any]) -> None:
    """Repeat a write until the store is open again."""

    def is_done() -> bool:
        try:
            write()
        except vecdb.UnavailableError:
            return False
        return True

    eventually(is_done)


def test_failing_disk_stops_writes_until_it_recovers(docs: Any) -> None:
    failpoints.arm("commit.begin=EIO")
    with pytest.raises(vecdb.UnavailableError):
        docs.upsert(["a"], rows(1))
    failpoints.arm("commit.begin=EIO")  # The test commit after reopening fails too.
    with pytest.raises(vecdb.UnavailableError):
        docs.upsert(["b"], rows(1))
    for _ in range(20):
        assert docs.count() == 1 and docs.search(rows(1)[0]).ids == ["kept"]
    retried(lambda: docs.upsert(["c"], rows(1)))
    assert sorted(docs.get(["a", "b", "c"]).missing) == ["a", "b"]


def test_searches_during_a_reopen_succeed(docs: Any) -> None:
    stop, failures = threading.Event(), []

    def search() -> None:
        query = rows(1)[0]
        while not stop.is_set():
            try:
                assert docs.search(query, k=1).ids == ["kept"]
            except BaseException as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=search) for _ in range(3)]
    for reader in readers:
        reader.start()
    other = rows(1, 9)
    for i in range(10):
        failpoints.arm("commit.end=EIO" if i % 2 else "commit.begin=EIO")
        with pytest.raises(vecdb.VecdbError):
            docs.upsert([f"x{i}"], other)
        failpoints.arm("")
        retried(lambda i=i: docs.delete([f"x{i}"]))
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures


FULL_DISK = """
import resource, signal, sys, numpy as np, vecdb
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
db = vecdb.open(sys.argv[1], indexer=False)
docs = db.create_collection("docs", 64)
rng = np.random.default_rng(0)
kept = 0
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
refused = 0
for i in range(40):
    vectors = rng.normal(size=(1000, 64)).astype(np.float32)
    try:
        docs.upsert([f"{i}-{j}" for j in range(1000)], vectors)
        kept += 1000
    except vecdb.ResourceExhaustedError as error:
        assert error.reason == "DISK_FULL", error.reason
        refused += 1
        assert docs.count() == kept
        assert len(docs.search(vectors[0], k=3)) == min(3, kept)
assert refused > 5 and kept > 0, (refused, kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
docs.upsert(["after"], vectors[:1])
assert docs.count() == kept + 1
db.close()
db = vecdb.open(sys.argv[1], indexer=False)
assert db.collection("docs").count() == kept + 1
db.close()
print("kept", kept)
"""


def test_file_size_limit_stops_writes_only(tmp_path: Path) -> None:
    """A limit on the file size fails like a full disk; once it is lifted, writes continue."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kept ")


WORKLOAD = """
import sys, os, numpy as np, vecdb
from tests.model import index_now, flush_now
db = vecdb.open(sys.argv[1], indexer=False)
say = lambda *words: (print(*words), sys.stdout.flush())
docs = db.create_collection("docs", 8)
say("created")
rng = np.random.default_rng(0)
for i in range(4):
    docs.upsert([f"{i}-{j}" for j in range(50)], rng.normal(size=(50, 8)).astype(np.float32))
    say("acknowledged", i)
    flush_now(docs)
    if i % 2:
        index_now(docs)
old = db.create_collection("old", 8)
db.drop_collection("old")
say("dropped")
"""


OF_OTHER_WORK = ("import.", "parts.")
"""Failpoints of work that the workload does not do."""


@pytest.mark.parametrize(
    "name", [name for name in failpoints.FAILPOINTS if not name.startswith(OF_OTHER_WORK)]
)
def test_crash_at_each_failpoint_loses_nothing(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "-c", WORKLOAD, str(data)],
        env=_environment(f"{name}=crash:{3 if name.startswith('commit') else 1}"),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
    said = done.stdout.split("\n")
    acknowledged = [int(line.split()[1]) for line in said if line.startswith("acknowledged")]
    with vecdb.open(data, indexer=False) as database:
        names = [d.name for d in database.list_collections()]
        if "created" in said:
            assert "docs" in names
        if "dropped" in said:
            assert "old" not in names
        if "docs" not in names:
            assert not acknowledged
            return
        docs = database.collection("docs")
        batches = docs.count() / 50
        assert batches in (len(acknowledged), len(acknowledged) + 1)
        rng = np.random.default_rng(0)
        for i in range(int(batches)):
            vectors = rng.normal(size=(50, 8)).astype(np.float32)
            found = docs.get([f"{i}-{j}" for j in range(50)])
            assert not found.missing and (found.vectors == vectors).all()
            assert docs.search(vectors[7], k=1, exact=True).ids == [f"{i}-7"]
        docs.upsert(["later"], rows(1))
        assert docs.count() == 50 * batches + 1
        if "old" not in names:
            database.create_collection("old", 8)


def _environment(points: str) -> dict[str, str]:
    import os

    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, failpoints.VARIABLE: points}


class Mapped:
    """A wrapper of LMDB's handle whose resize fails; after that only close is allowed.

    Args:
        resized: beginning a transaction reports that another process has grown the map.
    """

    def __init__(self, handle: Any, resized: bool = False) -> None:
        self._handle = handle
        self._resized = resized
        self._unmapped = False

    def set_mapsize(self, size: int) -> None:
        self._unmapped = True
        raise lmdb.MemoryError("mdb_env_set_mapsize: Cannot allocate memory")

    def begin(self, **arguments: Any) -> Any:
        assert not self._unmapped
        if self._resized:
            raise lmdb.MapResizedError("resized")
        return self._handle.begin(**arguments)

    def __getattr__(self, name: str) -> Any:
        assert name == "close" or not self._unmapped, name
        return getattr(self._handle, name)


def no_room_for(monkeypatch: pytest.MonkeyPatch, map_bytes: int) -> None:
    """Make the creation of maps of at least this size fail."""
    real = lmdb.open

    def open_if_small(*arguments: Any, map_size: int, **options: Any) -> Any:
        if map_size >= map_bytes:
            raise lmdb.MemoryError("Cannot allocate memory")
        return Mapped(real(*arguments, map_size=map_size, **options))

    monkeypatch.setattr(lmdb, "open", open_if_small)


def test_map_that_cannot_grow_stops_writes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    map_bytes = 1 << 20
    with vecdb.open(tmp_path / "data", indexer=False, map_bytes=map_bytes) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(["kept"], rows(1))
        environment = opened_of(docs).store.environment
        large = [{"text": "x" * 60_000}] * 20
        wrap_handle(environment, Mapped)
        no_room_for(monkeypatch, map_bytes)
        for _ in range(3):
            with pytest.raises(vecdb.ResourceExhaustedError) as caught:
                docs.upsert([f"l{i}" for i in range(20)], rows(20), large)
            assert caught.value.reason == "OUT_OF_MEMORY"
            assert docs.count() == 1 and docs.get(["kept", "l0"]).missing == ["l0"]
            assert docs.search(rows(1)[0], k=3).ids == ["kept"]
            assert environment.last_commit() > 0
        monkeypatch.undo()
        environment.evict()
        docs.upsert([f"l{i}" for i in range(20)], rows(20), large)
        assert docs.count() == 21


def test_map_grown_by_another_process_is_reopened(docs: Any) -> None:
    environment = opened_of(docs).store.environment
    wrap_handle(environment, lambda handle: Mapped(handle, resized=True))
    with pytest.raises(vecdb.ResourceExhaustedError):
        docs.get(["kept"])
    assert docs.get(["kept"]).ids == ["kept"]
    assert docs.upsert(["later"], rows(1)).seq == 2


_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from vecdb.engine.kv.environment import Environment
from vecdb.errors import ResourceExhaustedError

environment = Environment(Path(sys.argv[1]), (b"x",), create=True, map_bytes=64 << 20)

def write(transaction, first, count):
    for i in range(first, first + count):
        transaction.put(b"%08d" % i, b"v" * 100_000, db=environment.database(b"x"))

def entries():
    with environment.read() as transaction:
        return transaction.stat(db=environment.database(b"x"))["entries"]

for i in range(5):
    environment.transact_here(lambda transaction: write(transaction, 100 * i, 100))
held = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
limit = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (held + (50 << 20), limit[1]))
for _ in range(2):
    try:
        environment.transact_here(lambda transaction: write(transaction, 500, 300))
    except ResourceExhaustedError:
        assert entries() == 500
    else:
        raise AssertionError("there was room")
resource.setrlimit(resource.RLIMIT_AS, limit)
environment.transact(lambda transaction: write(transaction, 500, 300))
assert entries() == 800
print("done")
"""


def test_process_out_of_address_space_survives(tmp_path: Path) -> None:
    script = [sys.executable, "-c", _WITHOUT_ROOM, str(tmp_path)]
    # One arena: threads would otherwise reserve and free address space of their own.
    variables = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    ended = subprocess.run(script, capture_output=True, text=True, env=variables)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
