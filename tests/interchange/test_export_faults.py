"""Exports that are interrupted: a process killed, a disk full, a server that stops.

Each one raises, leaves no files, and the next export succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import vecdb
from tests.store.test_full_disk import disk, resize, use_up
from tests.waiting import HANG_S, eventually
from vecdb import export_files, limits
from vecdb.engine.hnsw import repair
from vecdb.engine.interchange.export import lease
from vecdb.engine.segments.segment import Segment
from vecdb.engine.system import child_task, failpoints
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import opened_of
from vecdb.export_files import NewFile
from vecdb_server.process import Server

__all__ = ["disk"]  # A fixture.

N, DIM = 2_000, 16


def rows(n: int = N) -> Any:
    return np.random.default_rng(1).standard_normal((n, DIM)).astype(np.float32)


def filled(database: Any, n: int = N) -> Any:
    docs = database.create_collection("docs", DIM, "euclidean")
    docs.upsert_many([f"w{i}" for i in range(n)], rows(n))
    return docs


def left(folder: Path) -> list[str]:
    """Return all files of exports, complete or not."""
    kinds = ("export-*", "graph-*", "*.partial-*", "x.faiss*")
    # Unlike rglob, walk ignores files that an indexer removes at the same time.
    return sorted(
        os.path.join(place, name)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if any(fnmatch(name, kind) for kind in kinds)
    )


def check_goes_on(docs: Any, target: Path, n: int = N, *, flat: bool = False) -> None:
    assert docs.stats().oldest_pin_seq is None
    report = docs.export_faiss(target, flat=flat)
    assert faiss.read_index(report.path).ntotal == n
    assert docs.stats().oldest_pin_seq is None


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The child processes that merge, in the order in which they are started."""
    started: list[Any] = []
    real = child_task.start_child

    def start(*arguments: Any, **named: Any) -> Any:
        started.append(real(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(child_task, "start_child", start)
    return started


@pytest.mark.slow
def test_merge_that_is_killed_fails_the_export_and_leaves_nothing(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)
    with monkeypatch.context() as patched:
        patched.setenv(failpoints.VARIABLE, "segment.arrays=crash")  # The child reads it.
        with pytest.raises(vecdb.UnavailableError, match=r"killed by signal 9.*try") as caught:
            docs.export_faiss(tmp_path / "x.faiss")
    assert caught.value.reason == "EXPORT_ENDED"
    assert left(tmp_path) == []
    check_goes_on(docs, tmp_path / "x.faiss")


@pytest.mark.slow
def test_leftover_draft_is_removed_by_the_next_export(database: Any, tmp_path: Path) -> None:
    """As left by a process that was killed together with its child."""
    docs = filled(database)
    draft = opened_of(docs).folder / "export-0123456789ab"
    draft.mkdir()
    (draft / "vectors.npy").write_bytes(b"half")
    with file_lock(opened_of(docs).folder / "graph.lock", wait=True):
        assert not vecdb.check(database.path).problems, "it may be under way"
    (problem,) = vecdb.check(database.path).problems
    assert (problem.kind, problem.severity) == ("SEGMENT_LEFTOVER", "note")
    check_goes_on(docs, tmp_path / "x.faiss")
    assert not vecdb.check(database.path).problems and not draft.exists()


def test_full_disk_during_the_merge_fails_the_export(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)
    with monkeypatch.context() as patched:
        patched.setenv(failpoints.VARIABLE, "segment.arrays=ENOSPC")
        with pytest.raises(vecdb.ResourceExhaustedError) as caught:
            docs.export_faiss(tmp_path / "x.faiss")
    assert caught.value.reason == "DISK_FULL"
    assert left(tmp_path) == []
    check_goes_on(docs, tmp_path / "x.faiss")


@pytest.mark.parametrize("flat", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_full_disk_during_the_export_leaves_no_file(database: Any, disk: Path, flat: bool) -> None:
    docs = filled(database)
    use_up(disk)
    with pytest.raises(vecdb.ResourceExhaustedError) as caught:
        docs.export_faiss(disk / "x.faiss", flat=flat)
    assert caught.value.reason == "DISK_FULL"
    assert [path.name for path in disk.iterdir()] == ["filler"]
    assert docs.count() == N
    resize(disk, "100m")
    check_goes_on(docs, disk / "x.faiss", flat=flat)


@pytest.mark.parametrize("which", ["x.faiss", "x.faiss.meta.parquet"])
def test_full_disk_at_the_last_sync_leaves_no_file(
    surface: Any, which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems report a full disk only on fsync."""
    docs = filled(surface, 300)
    real = export_files.NewFile.sync

    def sync(file: Any) -> None:
        if file.target.name == which:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    with monkeypatch.context() as patched:
        patched.setattr("vecdb.export_files.NewFile.sync", sync)
        with pytest.raises(vecdb.ResourceExhaustedError) as caught:
            docs.export_faiss(tmp_path / "x.faiss", flat=True)
    assert caught.value.reason == "DISK_FULL"
    assert left(tmp_path) == []
    check_goes_on(docs, tmp_path / "x.faiss", 300, flat=True)


def test_file_that_a_full_disk_rejects_is_removed(tmp_path: Path) -> None:
    file = NewFile(tmp_path / "x", overwrite=False)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file.stream.fileno())
    os.close(full)
    file.stream.write(b"held back until the file is closed")
    file.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("cut", [1, 2])
def test_kill_between_renames_leaves_no_mismatched_sidecar(
    database: Any, cut: int, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process killed before the n-th rename runs nothing of what follows."""
    docs = filled(database, 20)
    path, (side, _) = tmp_path / "x.faiss", export_files.sidecar_paths(tmp_path / "x.faiss")
    old = b""
    if overwrite:
        docs.export_faiss(path, flat=True)
        old = path.read_bytes()
        docs.delete(["w0"])
    real, finished = NewFile.finish, []

    def finish(self: Any) -> None:
        finished.append(self)
        if len(finished) == cut:
            assert not side.exists()
            assert path.exists() == (overwrite or cut == 2)
            assert cut == 1 or path.read_bytes() != old
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(NewFile, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        docs.export_faiss(path, flat=True, overwrite=overwrite)
    assert not side.exists() and path.exists() == overwrite
    monkeypatch.undo()
    docs.export_faiss(path, flat=True, overwrite=overwrite)
    assert side.exists()


def test_target_that_is_too_long_or_taken_is_refused(database: Any, tmp_path: Path) -> None:
    docs = filled(database, 20)
    assert docs.export_faiss(tmp_path / ("n" * 240), flat=True).rows == 20
    (tmp_path / "folder").mkdir()
    with pytest.raises(vecdb.AlreadyExistsError, match="is a folder"):
        docs.export_faiss(tmp_path / "folder", flat=True, overwrite=True)
    side = tmp_path / "x.faiss.meta.parquet"
    side.write_bytes(b"of a file that is gone")
    with pytest.raises(vecdb.AlreadyExistsError, match=r"parquet already exists.*x\.faiss: remove"):
        docs.export_faiss(tmp_path / "x.faiss", flat=True)


@pytest.mark.parametrize(
    "slow",
    [
        "repair",
        pytest.param("comparing", marks=pytest.mark.slow),
        pytest.param("syncing", marks=pytest.mark.slow),
    ],
)
def test_export_longer_than_a_lease_renews_it(
    slow: str, pass_time: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vecdb.open(tmp_path / "data") as indexed:
        filled(indexed, 300).optimize()
    listed = threading.Event()

    def slowly(check: Any) -> None:
        for _ in range(15):
            pass_time(limits.LEASE_S / 10)
            check()

    real_verify, real_connect, real_sync = Segment.verify, repair.connect, NewFile.sync

    def verify(self: Any, check: Any) -> None:
        slowly(check)
        real_verify(self, check)

    def connect(graph: Any, passes_max: int, check: Any) -> int:
        slowly(check)
        return real_connect(graph, passes_max, check)

    def sync(self: Any) -> None:
        if self.target.name == "x.faiss":
            # The sync lasts until the ids were read; reading them later would be too late.
            listed.wait(HANG_S)
            slowly(lambda: None)
        else:
            listed.set()
        real_sync(self)

    if slow == "comparing":
        monkeypatch.setattr(Segment, "verify", verify)
    elif slow == "repair":
        monkeypatch.setattr(repair, "connect", connect)
    else:
        monkeypatch.setattr(NewFile, "sync", sync)
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.collection("docs")
        if slow == "repair":
            docs.delete(["w3"])
        report = docs.export_faiss(tmp_path / "x.faiss")
    assert report.rows == (299 if slow == "repair" else 300)
    assert report.work == ("repaired: 1 deleted node removed" if slow == "repair" else "nothing")


class Exporting(threading.Thread):
    """A running export, and its result or error."""

    def __init__(self, docs: Any, target: Path, **how: Any) -> None:
        super().__init__(daemon=True)
        self._docs, self._target, self._how = docs, target, how
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._docs.export_faiss(self._target, **self._how)
        except BaseException as error:
            self.error = error


@pytest.mark.parametrize("phase", ["merging", "sending"])
def test_server_that_stops_ends_its_exports(
    phase: str, children: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that does not end within the grace period is cancelled, on both sides."""
    chunks: list[None] = []
    real = lease.ExportLease.renew

    def slowly(self: Any) -> None:
        chunks.append(time.sleep(0.2))
        real(self)

    with contextlib.ExitStack() as stack:
        server = Server(tmp_path / "data", "127.0.0.1:0", indexer=False, message_bytes=64 * 1024)
        server.start()
        stack.callback(server.drain, 0.0)
        client = stack.enter_context(vecdb.connect(server.address))
        docs = filled(client)
        if phase == "sending":
            monkeypatch.setattr(lease.ExportLease, "renew", slowly)
        else:  # The merge waits for the lock of graph work.
            (folder,) = (tmp_path / "data" / "collections").iterdir()
            stack.enter_context(file_lock(folder / "graph.lock", wait=True))
        export = Exporting(docs, tmp_path / "x.faiss", flat=phase == "sending")
        eventually(lambda: len(chunks) > 1 if phase == "sending" else children)
        server.drain(grace_s=0.1)
        export.join(HANG_S)
        assert isinstance(export.error, vecdb.UnavailableError), export.error
        assert left(tmp_path) == []
        assert all(child.poll() is not None for child in children)
    monkeypatch.undo()
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        assert database.collection("docs").export_faiss(tmp_path / "x.faiss", flat=True).rows == N


def test_expired_deadline_ends_the_export(
    database: Any, children: list[Any], tmp_path: Path
) -> None:
    docs = filled(database)
    timeout_s = 0.5
    with file_lock(opened_of(docs).folder / "graph.lock", wait=True):
        while not children and timeout_s < 60:  # On a slow machine the merge may not have started.
            with pytest.raises(vecdb.DeadlineExceededError):
                docs.export_faiss(tmp_path / "x.faiss", timeout_s=timeout_s)
            timeout_s *= 4
    (child,) = children
    assert child.poll() is not None
    assert left(tmp_path) == []
    check_goes_on(docs, tmp_path / "x.faiss")
