"""Files of segments that change while the folder is closed, and when a result is verified.

A result is right or not marked verified, nothing crashes, and in the end all segments are rebuilt.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model, flush_now, index_now
from tests.segments.damage import DIM, EVERYTHING, QUERIES, SEED, names, rows
from tests.waiting import HANG_S, eventually
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.testing import opened_of


def files_of(folder: Path) -> list[str]:
    """All but LMDB's, relative."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".mdb")
    return sorted(str(path.relative_to(folder)) for path in found)


def file_damages(path: Path) -> list[tuple[str, bytes]]:
    """A sample of what may happen to a file; FORMAT is small enough for all of it."""
    every = list(_file_damages(path))
    if EVERYTHING or path.name == "FORMAT":
        return every
    lengths = [d for d in every if "byte " not in d[0]]
    flips = [d for d in every if "byte " in d[0]]
    chance = random.Random(f"{SEED} {path.name} {path.parent.name}")
    return [*chance.sample(flips, min(4, len(flips))), *chance.sample(lengths, 1)]


def _file_damages(path: Path) -> Iterator[tuple[str, bytes]]:
    """Places in the header, the middle and the end; three lengths."""
    raw, chance = path.read_bytes(), random.Random(f"{SEED} {path.name}")
    size = len(raw)
    places = {0, 6, 8, 9, 20, 45, 60, 100, 127, 130, size // 2, size - 5, size - 1}
    for at in sorted(p for p in places if 0 <= p < size):
        bit = chance.randrange(8)
        yield f"bit {bit} of byte {at}", raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
    # High bits make numbers of rows and nodes, offsets and letters impossible.
    for at in sorted({size - 2, size // 2 | 7, size // 2 | 3}):
        if 0 <= at < size:
            yield f"top bit of byte {at}", raw[:at] + bytes([raw[at] ^ 0x80]) + raw[at + 1 :]
    for kept in sorted({0, size // 2, size - 1} - {size}):
        if kept >= 0:
            yield f"cut to {kept} bytes", raw[:kept]
    yield "longer", raw + b"\0\xff"


def check_file_damage(folder: Path, model: Model) -> None:
    everything = names(52)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        for query in QUERIES:
            for arguments in ({"k": 5}, {"k": 100}, {"k": 100, "exact": True}):
                for metadata in (True, False):
                    hits = docs.search(query, include_metadata=metadata, **arguments)
                    if hits.info.verified and metadata:
                        model.check_hits(
                            hits, query, arguments["k"], exact=bool(arguments.get("exact"))
                        )
        model.check_records(docs.get(everything), everything)
        docs.delete(["row-30"])
        for _ in range(5):
            flush_now(docs)
            index_now(docs)
            if opened_of(docs).snapshots.verify(lambda: None):
                break
        changed = Model(DIM, "cosine")
        changed.rows = {n: r for n, r in model.rows.items() if n != "row-30"}
        for query in QUERIES:
            for exact in (False, True):
                hits = docs.search(query, k=100, exact=exact)
                assert hits.info.verified
                changed.check_hits(hits, query, 100, exact=True)
        assert docs.stats().unindexed_rows == 0


@pytest.mark.slow
def test_changed_file_never_gives_a_wrong_answer_marked_verified(
    tmp_path: Path, pristine: tuple[Path, str, Model]
) -> None:
    source, collection_id, model = pristine
    print("seed", SEED)
    base = tmp_path / "base"
    shutil.copytree(source, base)
    home = base / "collections" / collection_id
    (home / "graph-left.hnsw").write_bytes(b"half a graph" * 20)
    shutil.copytree(next((home / "segments").iterdir()), home / "segments" / "99")
    (base / "FORMAT.4711").write_bytes(b"vecdb")
    files = files_of(base)
    assert {"FORMAT", "catalog.lock"} <= set(files)
    assert {f.rsplit("/")[-1] for f in files} >= {
        "seal.lock", "graph.lock", "manifest.json", "links.npy", "upper_links.npy",
        "upper_offsets.npy", "rows.npy", "vectors.npy", "id_bytes.npy", "id_offsets.npy",
    }  # fmt: skip
    refused = cases = 0
    for file in files:
        if "/99/" in file:
            continue
        for what, raw in file_damages(base / file):
            folder = tmp_path / "data"
            shutil.copytree(base, folder)
            (folder / file).write_bytes(raw)
            cases += 1
            try:
                check_file_damage(folder, model)
            except vecdb.FailedPreconditionError:
                assert file == "FORMAT", (file, what)
                refused += 1
            except BaseException:
                print(file, what)
                raise
            shutil.rmtree(folder)
    assert cases > 60 and refused >= 8, (cases, refused)


@pytest.mark.parametrize("missing", ["vectors.npy", "manifest.json", "upper_links.npy"])
def test_missing_file_quarantines_the_segment(
    tmp_path: Path, pristine: tuple[Path, str, Model], missing: str
) -> None:
    source, collection_id, model = pristine
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    for path in (folder / "collections" / collection_id).rglob(missing):
        path.unlink()
    check_file_damage(folder, model)


def test_answers_become_verified_after_opening(
    tmp_path: Path, pristine: tuple[Path, str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first result does not wait; each segment is read once, even if its store was evicted."""
    folder = tmp_path / "data"
    shutil.copytree(pristine[0], folder)
    may_go_on, read = threading.Event(), []
    verify = Segment.verify

    def waiting(self: Segment, *arguments: Any) -> None:
        assert may_go_on.wait(HANG_S)
        read.append(self.number)
        verify(self, *arguments)

    monkeypatch.setattr(Segment, "verify", waiting)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        for _ in range(3):
            assert not docs.search(QUERIES[0]).info.verified
        may_go_on.set()
        eventually(lambda: docs.search(QUERIES[0]).info.verified)
        for _ in range(2):
            opened_of(docs).evict()
            assert docs.search(QUERIES[0]).info.verified
        assert sorted(read) == sorted(set(read)) and len(read) == 2
        # A file was written: it is not the one that was compared.
        number = read[0]
        path = opened_of(docs).folder / "segments" / str(number) / "vectors.npy"
        os.utime(path)
        opened_of(docs).evict()
        eventually(lambda: docs.search(QUERIES[0]).info.verified)
        assert sorted(read) == sorted([*set(read), number])


def test_segment_written_while_the_folder_is_open_is_verified(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        for i in range(3):
            docs.upsert(names(20, 20 * i), rows(20))
            assert docs.search(QUERIES[0]).info.verified
            flush_now(docs)
            assert docs.search(QUERIES[0]).info.verified
            index_now(docs)
            assert docs.search(QUERIES[0]).info.verified


@pytest.mark.slow
def test_bit_flipped_while_closed_is_found_and_rebuilt(
    tmp_path: Path, pristine: tuple[Path, str, Model]
) -> None:
    """With a real indexer: in the background, and by ``optimize``."""
    source, collection_id, model = pristine
    for file in ("vectors.npy", "links.npy"):
        folder = tmp_path / file
        shutil.copytree(source, folder)
        for path in (folder / "collections" / collection_id).rglob(file):
            raw = bytearray(path.read_bytes())
            raw[-3] ^= 0x40
            path.write_bytes(raw)
        with vecdb.open(folder) as database:
            docs = database.collection("docs")
            assert not docs.search(QUERIES[0]).info.verified
            if file == "links.npy":
                docs.optimize(timeout_s=HANG_S)
            else:
                eventually(lambda docs=docs: docs.search(QUERIES[0]).info.verified)
            for query in QUERIES:
                hits = docs.search(query, k=100, exact=True)
                assert hits.info.verified
                model.check_hits(hits, query, 100, exact=True)


def test_too_many_open_files_quarantine_nothing(
    tmp_path: Path, pristine: tuple[Path, str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(pristine[0], folder)
    with vecdb.open(folder, indexer=False) as database:
        docs = database.collection("docs")
        monkeypatch.setattr(
            np, "memmap", lambda *a, **k: (_ for _ in ()).throw(OSError(24, "Too many open files"))
        )
        with pytest.raises(vecdb.ResourceExhaustedError, match="too many open files"):
            docs.search(QUERIES[0])
        monkeypatch.undo()
        assert len(docs.search(QUERIES[0], k=5)) == 5
        with contextlib.closing(docs.scroll()) as scroll:
            assert next(scroll).ids
        assert all(e.state == "published" for e in entries_of(docs).values())


def entries_of(docs: Any) -> dict[int, SegmentEntry]:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        return store.read_segments(transaction)
