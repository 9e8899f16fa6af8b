"""Many collections in one process: few are open at a time, all are usable."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import vecdb
from tests.serving import ServerProcess

COUNT = 1000
FILES_MAX = 200
MEMORY_BYTES_MAX = 192 * 1024**2
"""What the process may grow by with twenty collections open: LMDB keeps some MB for each."""
MEMORY_MORE_BYTES_MAX = 32 * 1024**2
"""What it may grow by from the first quarter of the collections to all: some 40 KB each."""


class _Used(NamedTuple):
    """What a process holds."""

    files: int
    address_space_bytes: int
    memory_bytes: int

    @staticmethod
    def by(pid: int) -> _Used:
        pages = (Path("/proc") / str(pid) / "statm").read_text().split()
        space, memory = (int(count) * os.sysconf("SC_PAGE_SIZE") for count in pages[:2])
        return _Used(len(os.listdir(f"/proc/{pid}/fd")), space, memory)


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory if possible.

    A thousand collections need about ten thousand fsyncs, which this test is not about.
    """
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_many_collections_use_bounded_files_memory_and_address_space(memory_path: Path) -> None:
    """In a process that serves nothing else."""
    vectors = np.random.default_rng(1).normal(size=(COUNT, 4)).astype(np.float32)
    with (
        ServerProcess(memory_path / "data", indexer=False, open_collections_max=20) as server,
        vecdb.connect(server.address) as client,
    ):
        client.create_collection("c0", 4)
        client.drop_collection("c0")
        before = _Used.by(server.pid)
        handles = [client.create_collection(f"c{i}", 4) for i in range(COUNT)]
        for i, handle in enumerate(handles):
            handle.upsert(["own"], vectors[i : i + 1])
            if i == COUNT // 4:
                quarter = _Used.by(server.pid)
        more_bytes = _Used.by(server.pid).memory_bytes - quarter.memory_bytes
        assert more_bytes < MEMORY_MORE_BYTES_MAX
        assert [d.name for d in client.list_collections()] == sorted(f"c{i}" for i in range(COUNT))
        for i in np.random.default_rng(2).permutation(COUNT):
            hits = handles[i].search(vectors[i], k=5)
            assert hits.ids == ["own"] and hits.distances[0] < 1e-6
            if i % 4 == 0:
                assert (handles[i].get(["own"]).vectors[0] == vectors[i]).all()
                assert handles[i].count() == 1
        after = _Used.by(server.pid)
        assert after.files - before.files < FILES_MAX
        assert after.memory_bytes - before.memory_bytes < MEMORY_BYTES_MAX
        assert after.address_space_bytes - before.address_space_bytes < 30 * 16 * 1024**3
        server.signal()
        assert server.wait() == 0
    with vecdb.open(memory_path / "data", indexer=False, open_collections_max=5) as database:
        for i in range(0, COUNT, 7):
            assert database.collection(f"c{i}").count() == 1


@pytest.mark.slow
@pytest.mark.parametrize("open_max", [1, 3])
def test_collections_in_use_are_evicted_and_reopened(tmp_path: Path, open_max: int) -> None:
    """Threads write and search eight collections, of which few may be open."""
    failures: list[BaseException] = []

    def work(collection: Any, seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            kept: dict[str, np.ndarray] = {}
            for step in range(25):
                vector = rng.normal(size=(1, 4)).astype(np.float32)
                collection.upsert([f"{seed}-{step}"], vector)
                kept[f"{seed}-{step}"] = vector[0]
                hits = collection.search(vector[0], k=1, exact=True)
                assert hits.distances[0] < 1e-3
                found = collection.get(list(kept))
                assert not found.missing and (found.vectors == np.array(list(kept.values()))).all()
        except BaseException as error:
            failures.append(error)

    with vecdb.open(
        tmp_path, indexer=False, open_collections_max=open_max, seal_bytes=64 * 10
    ) as database:
        collections = [database.create_collection(f"c{i}", 4) for i in range(8)]
        threads = [threading.Thread(target=work, args=(collections[i % 8], i)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        assert sum(c.count() for c in collections) == 12 * 25
