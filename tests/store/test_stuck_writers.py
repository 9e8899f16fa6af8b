"""A process stopped with a write lock: its collection refuses writes, all others continue, and a
server or database that waits for the lock can still be closed."""

from __future__ import annotations

import os
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
from tests.places import override
from tests.serving import ServerProcess
from tests.waiting import HANG_S, eventually
from vecdb.engine.kv import environment, write_lock
from vecdb.engine.kv.write_lock import WriteLock
from vecdb.engine.store.batch import make_batch
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import opened_of, queued_bytes, submit, writer_threads
from vecdb.errors import UnavailableError

DIM = 8
IMPATIENT = "from vecdb.engine.kv import write_lock; write_lock.PATIENCE_S = 1.0"
"""Far longer than any call takes; a call that never returns fails the test."""


def rows(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


HOLDER = """
import os, signal, sys
from pathlib import Path
from vecdb.engine.kv.environment import Environment
environment = Environment(Path(sys.argv[1]), (), create=False, map_bytes=1 << 26)
def stop(transaction):
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
environment.transact_here(stop)
print("done", flush=True)
sys.stdin.read()
"""


class Holder:
    """A process stopped inside a write transaction of a store; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "held"
        _, status = os.waitpid(self._child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def _line(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def go_on(self) -> None:
        self._child.send_signal(signal.SIGCONT)
        assert self._line() == "done"

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._child.kill()
        self._child.communicate()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_lock, "PATIENCE_S", 0.5)
    override(monkeypatch, "catalog_patience_s", 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed folder with the collections "stuck" and "free"."""
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        for name in ("stuck", "free"):
            database.create_collection(name, DIM).upsert(["first"], rows(1))
    return tmp_path / "data"


def store_of(folder: Path, name: str) -> Path:
    with vecdb.open(folder, indexer=False) as database:
        return Path(opened_of(database.collection(name)).store.environment.folder)


@pytest.fixture
def holder(folder: Path) -> Iterator[Holder]:
    """A process stopped while it holds the write lock of "stuck"."""
    with Holder(store_of(folder, "stuck")) as holder:
        yield holder


def within(function: Any, *arguments: Any) -> Any:
    """Return what a call returns or raises; fail if it never returns."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function(*arguments))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANG_S)
    assert outcome, f"{function} does not end"
    return outcome[0]


def opened_again(database: Any) -> None:
    """Wait until the collection can be opened."""
    eventually(lambda: not isinstance(within(database.collection, "stuck"), UnavailableError))


def check_refused(outcome: Any) -> None:
    assert isinstance(outcome, UnavailableError), outcome
    assert outcome.reason == "STORE_LOCKED" and "nothing was written" in outcome.message


@pytest.fixture
def stuck_and_free(tmp_path: Path) -> Iterator[tuple[Any, Any, Any, Holder]]:
    """An open database with both collections, one of them locked by a stopped process."""
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        stuck, free = (database.create_collection(name, DIM) for name in ("stuck", "free"))
        stuck.upsert(["first"], rows(1))
        with Holder(opened_of(stuck).store.environment.folder) as holder:
            yield database, stuck, free, holder


def test_write_to_a_stuck_collection_is_refused_and_never_written(
    stuck_and_free: tuple[Any, Any, Any, Holder],
) -> None:
    database, stuck, free, holder = stuck_and_free
    waiting = [submit(stuck, make_batch([f"{i}"], rows(1), None)) for i in "ab"]
    assert free.upsert(["second"], rows(1, 4)).seq == 1
    check_refused(within(stuck.upsert, ["second"], rows(1, 4)))
    for answer in waiting:
        check_refused(within(answer.exception))
    assert queued_bytes(database) == 0
    # From now on writes are refused at once, and reads continue.
    check_refused(within(stuck.delete, ["first"]))
    check_refused(within(stuck.scroll_page))
    assert stuck.get(["first"]).ids == ["first"] and stuck.count() == 1
    assert stuck.search(rows(1)[0], k=1).ids == ["first"] and stuck.stats().live_count == 1
    assert free.upsert(["third"], rows(1, 5)).seq == 2
    assert [each.name for each in database.list_collections()] == ["free", "stuck"]
    database.create_collection("more", DIM).upsert(["own"], rows(1))
    holder.go_on()
    last = rows(1, 6)
    eventually(lambda: not isinstance(within(stuck.upsert, ["last"], last), UnavailableError))
    assert stuck.count() == 2 and stuck.get(["last", "second", "a"]).ids == ["last"]


def test_many_stuck_collections_do_not_stop_writes_to_others(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        names = ["a", "b", "free"]
        collections = [database.create_collection(name, DIM) for name in names]
        holders = [Holder(opened_of(each).store.environment.folder) for each in collections[:2]]
        try:
            answers = [submit(each, make_batch(["x"], rows(1), None)) for each in collections]
            assert answers[2].result().seq == 1
            for answer in answers[:2]:
                check_refused(within(answer.exception))
            assert collections[2].upsert_many(["p", "q"], rows(2), batch_rows=1).rows == 2
        finally:
            for holder in holders:
                holder.__exit__()


def test_writer_has_one_thread_per_collection_and_ends_idle_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "writer_idle_s", 0.05)
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        collections = [database.create_collection(f"c{i}", DIM) for i in range(4)]
        answers = [
            (submit(each, make_batch([f"{i}"], rows(1, i), None)), i + 1)
            for i in range(20)
            for each in collections
        ]
        assert all(answer.result().seq == seq for answer, seq in answers)
        assert writer_threads(database) <= 4
        eventually(lambda: not writer_threads(database))
        assert collections[0].upsert(["later"], rows(1)).seq == 21


def test_database_with_a_stuck_collection_closes_and_reopens(folder: Path, holder: Holder) -> None:
    database = vecdb.open(folder, indexer=False)
    check_refused(within(database.collection, "stuck"))
    check_refused(within(database.collection, "stuck"))
    assert database.collection("free").upsert(["second"], rows(1)).seq == 2
    assert within(database.close) is None
    database = vecdb.open(folder, indexer=False)
    check_refused(within(database.collection, "stuck"))
    holder.go_on()
    opened_again(database)
    assert database.collection("stuck").upsert(["second"], rows(1)).seq == 2
    database.close()


def test_database_waiting_for_a_lock_closes_and_reopens(
    tmp_path: Path,
) -> None:
    database = vecdb.open(tmp_path / "data", indexer=False)
    stuck = database.create_collection("stuck", DIM)
    stuck.upsert(["first"], rows(1))
    with Holder(opened_of(stuck).store.environment.folder) as holder:
        answer = submit(stuck, make_batch(["lost"], rows(1), None))
        assert within(database.close) is None
        check_refused(within(answer.exception))
        database = vecdb.open(tmp_path / "data", indexer=False)
        assert isinstance(within(database.collection, "stuck"), UnavailableError)
        holder.go_on()
        opened_again(database)
        assert database.collection("stuck").get(["first", "lost"]).ids == ["first"]
        database.close()


def test_stuck_collection_is_not_evicted(folder: Path) -> None:
    with vecdb.open(folder, indexer=False, open_collections_max=1) as database:
        stuck = database.collection("stuck")
        with Holder(opened_of(stuck).store.environment.folder):
            check_refused(within(stuck.upsert, ["second"], rows(1)))
            for _ in range(3):
                free = within(database.collection, "free")
                assert within(free.count) == 1
                assert within(stuck.count) == 1
            assert isinstance(within(database.drop_collection, "stuck"), UnavailableError)
            assert free.upsert(["second"], rows(1)).seq == 2


def test_locked_catalog_refuses_only_changes_of_the_catalog(folder: Path) -> None:
    with vecdb.open(folder, indexer=False) as database:
        with file_lock(folder / "catalog.lock", wait=True):
            for call in (
                lambda: database.create_collection("more", DIM),
                lambda: database.rename_collection("free", "other"),
                lambda: database.drop_collection("stuck"),
            ):
                error = within(call)
                assert isinstance(error, UnavailableError) and error.reason == "LOCKED"
            assert database.collection("free").upsert(["second"], rows(1)).seq == 2
        with Holder(folder / "catalog"):
            check_refused(within(database.create_collection, "more", DIM))
            assert database.collection("free").upsert(["third"], rows(1)).seq == 3
            assert len(database.list_collections()) == 2
    with vecdb.open(folder, indexer=False) as database:
        database.create_collection("more", DIM)


def test_lock_that_changes_hands_is_not_stuck(tmp_path: Path) -> None:
    """Another process may hold it most of the time, as long as it commits."""
    store = environment.Environment(tmp_path, (b"x",), create=True, map_bytes=1 << 26)
    lock = WriteLock(tmp_path)
    lock.begin_wait()

    def commit(number: int) -> None:
        store.transact(lambda t: t.put(b"k", b"%d" % number, db=store.database(b"x")))

    ends = time.monotonic() + 4 * write_lock.PATIENCE_S
    number = 0
    while time.monotonic() < ends:
        commit(number := number + 1)
        assert not lock.is_stuck()
        time.sleep(0.01)
    eventually(lock.is_stuck)
    lock.end_wait()
    assert not lock.is_stuck()
    store.close()


@pytest.mark.slow
def test_server_started_with_a_stuck_collection_serves_the_others(
    folder: Path, holder: Holder
) -> None:
    with (
        ServerProcess(folder, before=IMPATIENT) as server,
        vecdb.connect(server.address) as client,
    ):
        assert "reason=STORE_LOCKED" in server.wait_for("collection=stuck")
        assert client.collection("free").upsert(["second"], rows(1)).seq == 2
        server.signal(signal.SIGTERM)
        assert server.wait(HANG_S) == 0


@pytest.mark.slow
def test_server_whose_collection_becomes_stuck_serves_the_others(
    tmp_path: Path,
) -> None:
    with (
        ServerProcess(tmp_path / "data", before=IMPATIENT) as server,
        vecdb.connect(server.address, timeout_s=HANG_S) as client,
    ):
        stuck = client.create_collection("stuck", DIM)
        (folder,) = (tmp_path / "data" / "collections").iterdir()
        free = client.create_collection("free", DIM)
        with Holder(folder / "store"):
            outcomes: list[Any] = []
            threads = [
                threading.Thread(target=lambda: outcomes.append(within(write, stuck)))
                for _ in range(40)
            ]
            for thread in threads:
                thread.start()
            assert free.upsert(["second"], rows(1)).seq == 1
            for thread in threads:
                thread.join(HANG_S)
            assert len(outcomes) == 40
            for outcome in outcomes:
                assert isinstance(outcome, UnavailableError), outcome
            assert free.upsert(["third"], rows(1)).seq == 2
            last = threading.Thread(target=within, args=(write, stuck))
            last.start()
            server.signal(signal.SIGTERM)
            assert server.wait(HANG_S) == 0
            last.join(HANG_S)


def write(collection: Any) -> Any:
    return collection.upsert(["x"], rows(1))
