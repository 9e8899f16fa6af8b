"""Searches of collections that do not fit in memory: which pages are read, and how."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from vecdb.engine.search.disk_reads import QUERIES, DiskReads
from vecdb.engine.testing import opened_of

ROWS, DIM = 1_200, 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one collection, all rows in one graph."""
    folder = tmp_path_factory.mktemp("short") / "data"
    with vecdb.open(folder) as database:
        docs = database.create_collection("docs", DIM, "euclidean")
        docs.upsert_many([f"row {i}" for i in range(ROWS)], drawn(ROWS, 3))
        flush_now(docs)
        index_now(docs)
    return folder


def drawn(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)


def reads_ahead(docs: Any) -> bool:
    """Return whether the system reads ahead in the vectors of the only segment."""
    (unit,) = opened_of(docs).snapshots.snapshot().units
    address, inside = unit.vectors.ctypes.data, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if edges := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(edges[1], 16) <= address < int(edges[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "rr" not in line.split()
    raise AssertionError("the vectors are not mapped")


@pytest.mark.parametrize("together", [1, 5])
def test_walks_read_the_pages_of_rows_without_those_around_them(data: Path, together: int) -> None:
    with vecdb.open(data) as database:
        docs: Any = database.collection("docs")
        queries = drawn(together, 4) if together > 1 else drawn(1, 4)[0]
        docs.search(queries, 5, exact=True)
        assert reads_ahead(docs)
        docs.search(queries, 5, ef=50)
        assert not reads_ahead(docs)


def test_scans_of_float32_rows_read_ahead_again(data: Path) -> None:
    with vecdb.open(data, codes="none") as database:
        docs: Any = database.collection("docs")
        docs.search(drawn(1, 4)[0], 5, ef=50)
        assert not reads_ahead(docs)
        docs.search(drawn(1, 4)[0], 5, exact=True)
        assert reads_ahead(docs)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the system says that this process has read; a test sets ``ru_inblock``."""
    usage = SimpleNamespace(ru_inblock=0)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    return usage


def test_searches_wait_for_the_disk_while_the_process_reads_from_it(
    blocks: SimpleNamespace,
) -> None:
    reads = DiskReads()
    assert not any(reads.wait_for(1) for _ in range(2 * QUERIES))
    blocks.ru_inblock += 1_000
    assert [reads.wait_for(1) for _ in range(QUERIES)] == [False] * (QUERIES - 1) + [True]
    assert reads.wait_for(QUERIES - 1)
    assert not reads.wait_for(1)
    blocks.ru_inblock += QUERIES  # Too few for each of them to have waited.
    assert not reads.wait_for(QUERIES)


def test_answers_are_the_same_while_rows_are_asked_for(data: Path, blocks: SimpleNamespace) -> None:
    queries = drawn(2 * QUERIES, 4)
    with vecdb.open(data) as database:
        docs: Any = database.collection("docs")
        before = [docs.search(query, 7, ef=50) for query in queries]
        for at, query in enumerate(queries):
            blocks.ru_inblock += 1_000
            hits = docs.search(query, 7, ef=50)
            assert hits.ids == before[at].ids
            np.testing.assert_array_equal(hits.distances, before[at].distances)
        for one, other in zip(docs.search(queries, 7, ef=50), before, strict=True):
            assert one.ids == other.ids
            np.testing.assert_array_equal(one.distances, other.distances)
