"""A data folder that an earlier version wrote opens, answers as before and takes writes.

``tests/data/README.md`` says what the folder holds.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.checking import checked
from tests.model import Model, flush_now, index_now, recall
from vecdb.engine.segments.segment import Segment, write_segment
from vecdb.engine.store.layout import row_key
from vecdb.engine.store.segment_table import in_place
from vecdb.engine.testing import opened_of

ARCHIVE = Path(__file__).resolve().parents[1] / "data" / "format-1.tar.gz"
NAMES = ("empty", "points", "scores", "words")


class Earlier:
    """The unpacked folder, and what it answered when it was written."""

    def __init__(self, target: Path) -> None:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(target, filter="data")
        self.folder = target / "format-1" / "data"
        self.expected: dict[str, Any] = json.loads(
            (target / "format-1" / "expected.json").read_text()
        )
        self.arrays = {name: dict(np.load(target / "format-1" / f"{name}.npz")) for name in NAMES}

    def model(self, name: str) -> Model:
        expected = self.expected[name]
        model = Model(expected["dim"], expected["metric"])
        model.upsert(expected["ids"], self.arrays[name]["vectors"], expected["metadata"])
        return model


@pytest.fixture
def earlier(tmp_path: Path) -> Earlier:
    return Earlier(tmp_path)


def check_collection(docs: Any, earlier: Earlier, name: str) -> None:
    """The rows and the hits are those of before."""
    expected, arrays, model = earlier.expected[name], earlier.arrays[name], earlier.model(name)
    ids = [*expected["ids"], *expected["missing"]]
    model.check_records(docs.get(ids), ids)
    exact = docs.search(arrays["queries"], k=10, exact=True)
    for query, hits, hit_ids, distances in zip(
        arrays["queries"], exact, expected["hits"], arrays["distances"], strict=True
    ):
        assert hits.ids == hit_ids
        np.testing.assert_allclose(hits.distances, distances, rtol=1e-5, atol=1e-5)
        model.check_hits(hits, query, 10, exact=True)
    if model.rows:
        assert recall(docs.search(arrays["queries"], k=10, ef=64), exact) >= 0.9


@pytest.mark.parametrize("name", NAMES)
def test_earlier_folder_answers_as_before(earlier: Earlier, name: str) -> None:
    expected = earlier.expected[name]
    with vecdb.open(earlier.folder, indexer=False) as database:
        docs = database.collection(name)
        stats = docs.stats()
        assert (stats.seq, stats.generation) == (expected["seq"], expected["generation"])
        assert stats.fresh_rows == expected["fresh_rows"]
        assert [
            [s.number, s.kind, s.first_row, s.end_row, s.rows, s.dead, s.bytes]
            for s in stats.segments
        ] == expected["segments"]
        check_collection(docs, earlier, name)


def test_earlier_folder_check_finds_nothing(earlier: Earlier) -> None:
    report = vecdb.check(earlier.folder, findable=0.95)
    assert report.problems == () and report.content and report.complete
    assert [collection.name for collection in report.collections] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_earlier_folder_takes_writes_flushes_and_graphs(earlier: Earlier, name: str) -> None:
    model = earlier.model(name)
    new = np.random.default_rng(1).normal(size=(30, model.dim)).astype(np.float32)
    ids = [f"id-{i}" for i in range(110, 140)]
    with vecdb.open(earlier.folder, indexer=False) as database:
        docs = database.collection(name)
        receipt = docs.upsert(ids, new, [{"new": i} for i in range(30)])
        assert receipt.seq == earlier.expected[name]["seq"] + 1
        model.upsert(ids, new, [{"new": i} for i in range(30)])
        assert docs.delete(ids[:3]).count == model.delete(ids[:3])
        flush_now(docs)
        index_now(docs)
        assert [s.kind for s in docs.stats().segments] == ["graph"]
        for query in earlier.arrays[name]["queries"]:
            model.check_hits(docs.search(query, k=10, exact=True), query, 10, exact=True)
    assert checked(earlier.folder)[0] == []


def test_earlier_folder_is_backed_up_and_restored_with_its_segments(
    earlier: Earlier, tmp_path: Path
) -> None:
    with vecdb.open(earlier.folder, indexer=False) as database:
        database.backup(tmp_path / "backup")
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    assert checked(tmp_path / "restored")[0] == []
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        for name in NAMES:
            docs = database.collection(name)
            assert len(docs.stats().segments) == len(earlier.expected[name]["segments"])
            check_collection(docs, earlier, name)


def test_earlier_segments_are_written_again_byte_for_byte(earlier: Earlier, tmp_path: Path) -> None:
    count = 0
    with vecdb.open(earlier.folder, indexer=False) as database:
        for name in NAMES:
            opened = opened_of(database.collection(name))
            with opened.store.environment.read() as transaction:
                entries = in_place(opened.store.read_segments(transaction))
            for number, entry in entries:
                segment = Segment(
                    opened.folder / "segments" / str(number), number, opened.id, entry
                )
                target = tmp_path / f"{name}-{number}"
                written = write_segment(
                    target,
                    number=number,
                    collection_id=opened.id,
                    config=opened.store.config,
                    first_row=segment.first_row,
                    end_row=segment.end_row,
                    seq=segment.seq,
                    given=segment.parts,
                )
                assert written == entry
                assert written.pack(row_key(number)) == entry.pack(row_key(number))
                assert {p.name: p.read_bytes() for p in target.iterdir()} == {
                    p.name: p.read_bytes() for p in segment.folder.iterdir()
                }
                count += 1
    assert count == 7
