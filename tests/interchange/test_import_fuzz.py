"""Index files that are truncated, flipped or spliced are refused by byte and field, or are usable.

Small files of each kind are damaged in every way that is one byte long, and in random longer ones.
A file that is still accepted must be an index that nothing crashes on: hnswlib's own conditions
hold for its graph, and a collection with the imported rows gives exact results.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vecdb
from tests import index_files
from tests.index_files import KINDS
from vecdb.engine.hnsw.finishing import check_extendable
from vecdb.engine.hnsw.reachability import reachable_nodes
from vecdb.engine.interchange.importing.foreign_index import ForeignIndex
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.errors import InvalidArgumentError

REASONS = {"BAD_FILE", "FAISS_INDEX", "DIM_MISMATCH"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a small file of each kind."""
    folder = tmp_path_factory.mktemp("index-files")
    for kind in KINDS:
        index_files.write(kind, folder / kind)
    return {kind: (folder / kind).read_bytes() for kind in KINDS}


def outcome(kind: str, path: Path) -> str:
    """Return the reason of the refusal, or "fine" for an index that nothing crashes on."""
    with UntrustedFile(path) as file:
        try:
            index = index_files.read(kind, file)
            index.survey()
        except InvalidArgumentError as error:
            refusal = error
        else:
            check_index(index)
            return "fine"
    assert refusal.reason in REASONS, refusal
    assert str(path) in refusal.message
    assert refusal.reason == "DIM_MISMATCH" or ": byte " in refusal.message
    return refusal.reason


def check_index(index: ForeignIndex) -> None:
    """Check what an import relies on."""
    assert index.rows.read(0, index.count).shape == (index.count, index.dim)
    if index.graph is not None:
        assert index.M is not None
        check_extendable(index.graph, index.count, index.M)
        reachable_nodes(index.graph)
    if index.ids is not None:
        assert len(set(index.numbers(0, index.count))) == index.count


def outcomes_of_changes(
    kind: str, path: Path, whole: bytes, changes: Iterable[tuple[int, bytes]]
) -> list[str]:
    """Apply each change alone to the file, undo it, and count the outcomes."""
    path.write_bytes(whole)
    outcomes = []
    with path.open("r+b", buffering=0) as file:
        for at, changed in changes:
            os.pwrite(file.fileno(), changed, at)
            outcomes.append(outcome(kind, path))
            os.pwrite(file.fileno(), whole[at : at + len(changed)], at)
    assert outcome(kind, path) == "fine"
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_file_is_refused(kind: str, files: dict[str, bytes], tmp_path: Path) -> None:
    whole, path = files[kind], tmp_path / "cut"
    path.write_bytes(whole + b"\0")
    assert outcome(kind, path) in REASONS
    os.truncate(path, len(whole))
    assert outcome(kind, path) == "fine"
    for size in reversed(range(len(whole))):
        os.truncate(path, size)
        assert outcome(kind, path) in REASONS, size


@pytest.mark.parametrize("kind", KINDS)
def test_changed_byte_is_refused_or_harmless(
    kind: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    whole = files[kind]
    flips = (0x01, 0xFF, 0x80)
    changes = [(at, bytes([byte ^ flips[at % 3]])) for at, byte in enumerate(whole)]
    outcomes = outcomes_of_changes(kind, tmp_path / "changed", whole, changes)
    assert "BAD_FILE" in outcomes  # Or the test would see nothing.


@settings(max_examples=150)
@given(data=st.data())
def test_spliced_file_is_refused_or_harmless(
    data: st.DataObject, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind, other = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(KINDS))
    content, donor = bytearray(files[kind]), files[other]
    for _ in range(data.draw(st.integers(1, 3))):
        at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(donor))] * 2)))
        content[at:end] = donor[first:last]
    path = tmp_path_factory.getbasetemp() / "spliced"
    path.write_bytes(content)
    outcome(kind, path)


def words_that_matter(kind: str, size: int) -> st.SearchStrategy[tuple[int, int]]:
    """A position in the file and a small or large number for its four bytes."""
    numbers = st.one_of(st.integers(-2, 12), st.integers(-(2**31), 2**31 - 1))
    return st.tuples(st.integers(0, size - 4), numbers)


@settings(max_examples=40)
@given(data=st.data())
def test_accepted_file_gives_exact_results(
    data: st.DataObject, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    content = bytearray(files[kind])
    for at, number in data.draw(st.lists(words_that_matter(kind, len(content)), max_size=2)):
        struct.pack_into("<i", content, at, number)
    base = tmp_path_factory.getbasetemp()
    path = base / "damaged"
    path.write_bytes(content)
    if outcome(kind, path) == "fine":
        import_and_compare(kind, path, base / "fuzzed")


def import_and_compare(kind: str, path: Path, folder: Path) -> None:
    """Import the file and compare search results with brute force."""
    with UntrustedFile(path) as file:
        index = index_files.read(kind, file)
        rows, numbers = index.rows.read(0, index.count), index.numbers(0, index.count)
    with vecdb.open(folder, indexer=False) as database:
        try:
            report = (
                database.import_hnswlib(path, "docs", dim=index_files.DIM, metric="euclidean")
                if kind == "hnswlib"
                else database.import_faiss(path, "docs")
            )
        except InvalidArgumentError as error:
            refusal = error
        else:
            refusal = None
        if refusal is not None:
            assert refusal.reason in {*REASONS, "METRIC_MISMATCH"}, refusal
            assert database.list_collections() == []
            return
        try:
            docs = database.collection("docs")
            assert report.rows == docs.count() == index.count
            assert_exact(docs, rows, [str(number) for number in numbers])
        finally:
            database.drop_collection("docs")


def assert_exact(docs: Any, rows: np.ndarray, ids: list[str]) -> None:
    """Check that a search for each row finds it, with the graph and by an exact scan."""
    if not len(rows):
        return
    for exact in (True, False):
        for hits, row in zip(docs.search(rows, k=len(rows), exact=exact), rows, strict=True):
            assert sorted(hits.ids) == sorted(ids)
            if docs.metric == "euclidean":
                nearest = np.linalg.norm(rows.astype(np.float64) - row, axis=1).min()
                assert hits.distances[0] == pytest.approx(nearest, abs=1e-3)


@pytest.mark.parametrize("kind", ["hnsw-normalised", "hnswlib"])
def test_counts_of_terabytes_allocate_nothing(
    kind: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    whole, promises = files[kind], (2**40, 2**62, 2**64 - 1)
    changes = [(at, struct.pack("<Q", promises[at % 6 // 2])) for at in range(0, len(whole) - 8, 2)]
    outcomes_of_changes(kind, tmp_path / "warm", whole, [])  # Kernels are loaded here.
    tracemalloc.start()
    try:
        outcomes_of_changes(kind, tmp_path / "promises", whole, changes)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    finally:
        tracemalloc.stop()
