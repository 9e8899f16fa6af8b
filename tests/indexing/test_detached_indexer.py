"""A detached indexer finishes the work of a closed database opened with ``optimize=True``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.waiting import HANG_S, eventually
from vecdb.engine.system import folder_use
from vecdb.engine.system.files import file_lock
from vecdb.engine.system.folder_use import FolderUse
from vecdb.errors import FailedPreconditionError, InvalidArgumentError

ROWS = 6_000
WRITE = f"""
import sys, time
import numpy as np
import vecdb

with vecdb.open(sys.argv[1], optimize=True) as database:
    collection = database.create_collection(sys.argv[2], dim=4)
    collection.upsert_many(range({ROWS}), np.random.default_rng(0).standard_normal(({ROWS}, 4)))
print("closed", flush=True)
time.sleep(float(sys.argv[3]))
"""


def start(data: Path, name: str = "X", stays_s: float = 0) -> subprocess.Popen[str]:
    """Start a script, in its own session, that writes rows, closes, and then stays for a while."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, str(data), name, str(stays_s)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def unindexed(data: Path, name: str = "X") -> int:
    """Return the number of rows in no graph, read by a process without an indexer."""
    with vecdb.open(data, indexer=False) as database:
        stats = database.collection(name).stats()
        assert stats.live_count == ROWS
        return stats.unindexed_rows


def is_left_alone(data: Path) -> bool:
    """Return whether no process has the folder open."""
    with contextlib.suppress(FailedPreconditionError):
        FolderUse(data, exclusive=True).close()
        return True
    return False


def indexers_of(data: Path) -> list[int]:
    """Return the process ids of the detached indexers of a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if (
                b"vecdb.engine.indexing.process" in words
                and os.fsencode(data) in words
                and b"--finish" in words
            ):
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_script_that_ends_at_once_gets_its_graph(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with start(data) as script:
        assert script.wait(HANG_S) == 0
    # Other processes may start and end in between.
    eventually(lambda: unindexed(data) == 0)
    eventually(lambda: is_left_alone(data))
    eventually(lambda: indexers_of(data) == [])
    with vecdb.open(data, indexer=False) as database:
        hits = database.collection("X").search([1, 2, 3, 4], 5, ef=64)
        assert (hits.info.plan, hits.info.unindexed_rows) == ("graph", 0)
    log = (data / "indexer.log").read_text()
    assert '"finished"' in log and "Traceback" not in log
    assert (data / "indexer.log").stat().st_mode & 0o777 == 0o600
    assert vecdb.check(data).content


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_detached_indexer_survives_the_signal_that_ends_its_parent(
    tmp_path: Path, number: signal.Signals
) -> None:
    data = tmp_path / "data"
    with start(data, stays_s=300) as script:
        assert script.stdout is not None and script.stdout.readline() == "closed\n"
        # Held back until the parent has ended, so that the graph is built after that.
        eventually(lambda: (data / "indexer.log").exists())
        with contextlib.ExitStack() as stack:
            (folder,) = (data / "collections").iterdir()
            stack.enter_context(file_lock(folder / "graph.lock", wait=True))
            os.killpg(script.pid, number)
            assert script.wait(HANG_S) != 0
            assert indexers_of(data) != [] or unindexed(data) == 0
    eventually(lambda: unindexed(data) == 0)
    eventually(lambda: is_left_alone(data))


@contextlib.contextmanager
def closed_but_held_back(data: Path) -> Iterator[None]:
    """Close a database of this process, and keep its detached indexer from beginning."""
    with contextlib.ExitStack() as stack:
        with vecdb.open(data, optimize=True) as database:
            collection = database.create_collection("X", dim=4)
            (folder,) = (data / "collections").iterdir()
            stack.enter_context(file_lock(folder / "graph.lock", wait=True))
            vectors = np.random.default_rng(0).standard_normal((ROWS, 4))
            collection.upsert(range(ROWS), vectors)
        yield


@pytest.mark.slow
def test_compaction_during_detached_indexing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    monkeypatch.setattr(folder_use, "PATIENCE_S", 0.1)
    with closed_but_held_back(data):
        # The indexer holds the folder from its start, before it has loaded anything.
        with pytest.raises(FailedPreconditionError, match="open in this or another"):
            vecdb.compact(data)
        assert unindexed(data) == ROWS
    eventually(lambda: unindexed(data) == 0)
    eventually(lambda: is_left_alone(data))
    vecdb.compact(data)
    assert unindexed(data) == 0


def test_close_without_work_starts_no_detached_indexer(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with vecdb.open(data, optimize=True) as database:
        collection = database.create_collection("X", dim=4)
        collection.upsert(range(ROWS), np.random.default_rng(0).standard_normal((ROWS, 4)))
        collection.optimize()
    with vecdb.open(data, optimize=True):
        pass
    assert not (data / "indexer.log").exists() and indexers_of(data) == []


@pytest.mark.slow
def test_work_of_a_killed_detached_indexer_is_done_after_the_next_close(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with closed_but_held_back(data):
        eventually(lambda: len(indexers_of(data)) == 1)
        (process,) = indexers_of(data)
        os.kill(process, signal.SIGKILL)
        eventually(lambda: indexers_of(data) == [])
    assert unindexed(data) == ROWS
    with vecdb.open(data, optimize=True) as database:
        database.collection("X")
    eventually(lambda: unindexed(data) == 0)
    eventually(lambda: is_left_alone(data))
    assert vecdb.check(data).content


def test_optimize_without_an_indexer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="needs the option indexer"):
        vecdb.open(tmp_path / "data", optimize=True, indexer=False)


def test_searches_and_stats_report_rows_in_no_graph(surface: Any) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    collection = surface.create_collection("X", dim=4)

    def said() -> set[int]:
        answers = collection.search(vectors[:20], 3)
        found = {hits.info.unindexed_rows for hits in answers}
        found.add(collection.search(vectors[0], 3).info.unindexed_rows)
        found.add(collection.search(vectors[0], 3, exact=True).info.unindexed_rows)
        return found | {collection.stats().unindexed_rows}

    assert said() == {0}
    collection.upsert(range(300), vectors)
    assert said() == {300}
    collection.optimize()
    assert said() == {0}
    collection.upsert(range(300, 305), vectors[:5])
    assert said() == {5}
    collection.delete([300, 301])
    assert said() == {3}
    collection.delete([1])
    assert said() == {3}
