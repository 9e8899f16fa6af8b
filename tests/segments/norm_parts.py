"""Two derived kinds of parts, to stand for any, and a folder with segments that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import vecdb
from tests.model import Model, flush_now, index_now
from vecdb.engine.segments import parts
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.lifecycle import collect_garbage
from vecdb.engine.segments.part_check import PartCheck, PartFinding, StoreRecords
from vecdb.engine.segments.part_kind import (
    CheckedSegment,
    PartData,
    PartFiles,
    PartKind,
    PartSource,
)
from vecdb.engine.segments.rebuilding import rebuild_parts
from vecdb.engine.segments.row_arrays import ROW_IDS, VECTORS
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store.segment_table import SegmentEntry, in_place
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import opened_of

DIM = 8
Norms = npt.NDArray[np.float32]


class NormsCheck(PartCheck):
    """Compares norms with the store's vectors."""

    def __init__(self, norms: Norms, number: int) -> None:
        self._norms, self._number = norms, number
        self._wrong: list[Any] = [np.zeros(0, np.int64)]

    def compare_vectors(self, rows: Any, nodes: Any, vectors: Any) -> None:
        self._wrong.append(rows[self._norms[nodes] != np.linalg.norm(vectors, axis=1)])

    def compare_records(self, records: StoreRecords) -> list[PartFinding]:
        what = f"norms of segment {self._number} differ from the store's, at rows"
        return [PartFinding("SEGMENT_ROWS", what, rows=np.concatenate(self._wrong))]


class NormsPart(PartKind[Norms]):
    """The length of each vector, to stand for codes, columns and texts to come."""

    name = "norms"
    arrays = ("norm_values",)
    needed = False
    derived_from = (VECTORS,)

    def write(self, value: Norms) -> PartData:
        return PartData({"norm_values": value}, {"norms_max": float(value.max(initial=0))})

    def read(self, files: PartFiles) -> Norms:
        norms = files.arrays["norm_values"]
        files.check(fit=norms.shape == (files.count,) and "norms_max" in files.manifest)
        return norms

    def derive(self, source: PartSource) -> Norms:
        norms: Norms = np.linalg.norm(source.parts[VECTORS], axis=1)
        return norms

    def check(self, value: Norms, segment: CheckedSegment) -> PartCheck:
        return NormsCheck(value, segment.number)


class NeededNormsPart(NormsPart):
    needed = True


NORMS, NEEDED = NormsPart(), NeededNormsPart()


class TallestPart(PartKind[Norms]):
    """The largest norm among the neighbours of each node on level 0: a part that is made with each
    graph, from the graph's order of nodes and from another derived part."""

    name = "tallest"
    arrays = ("tallest_values",)
    needed = False
    derived_from = (GRAPH, NORMS)

    def write(self, value: Norms) -> PartData:
        return PartData({"tallest_values": value})

    def read(self, files: PartFiles) -> Norms:
        return files.arrays["tallest_values"]

    def derive(self, source: PartSource) -> Norms:
        links = source.parts[GRAPH].links
        norms = np.where(links >= 0, source.parts[NORMS][links], np.float32(0))
        tallest: Norms = norms.max(axis=1, initial=0)
        return tallest

    def check(self, value: Norms, segment: CheckedSegment) -> PartCheck:
        return TallestCheck(value, segment)


class TallestCheck(PartCheck):
    """Compares the part with those that it is derived from."""

    def __init__(self, tallest: Norms, segment: CheckedSegment) -> None:
        self._tallest, self._segment = tallest, segment

    def examine(self, records: StoreRecords) -> list[PartFinding]:
        segment = self._segment
        expected = TALLEST.derive(PartSource(segment.config, segment.parts))
        rows = segment.parts[ROW_IDS].rows[self._tallest != expected]
        what = f"rows of segment {segment.number} have another tallest neighbour"
        return [PartFinding("GRAPH", what, rows=rows, unusable=True)]


TALLEST = TallestPart()


def register(patch: pytest.MonkeyPatch, *kinds: PartKind[Any]) -> None:
    patch.setattr(parts, "PART_KINDS", (*parts.PART_KINDS, *kinds))


def vectors_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


class Filled:
    """A folder with a graph of 200 rows, a flat segment of 60 and a memtable of 20."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = Model(DIM, "euclidean")
        with vecdb.open(folder, indexer=False) as database:
            docs = database.create_collection("docs", DIM, metric="euclidean")
            self._upsert(docs, 0, 200)
            flush_now(docs)
            index_now(docs)
            self._upsert(docs, 200, 60)
            flush_now(docs)
            self._upsert(docs, 260, 20)
            gone = ["id-3", "id-210", "id-270"]
            docs.delete(gone)
            self.model.delete(gone)

    def _upsert(self, docs: Any, first: int, count: int) -> None:
        ids = [f"id-{i}" for i in range(first, first + count)]
        vectors = vectors_of(first, count)
        docs.upsert(ids, vectors)
        self.model.upsert(ids, vectors, None)

    def check(self, docs: Any) -> None:
        """The rows are all there, and every search finds them."""
        self.model.check_records(docs.get(list(self.model.rows)), list(self.model.rows))
        for query in vectors_of(9, 3):
            hits = docs.search(query, k=300, exact=True)
            self.model.check_hits(hits, query, 300, exact=True)
            self.model.check_hits(docs.search(query, k=20), query, 20, exact=False)


def entries_of(docs: Any) -> list[tuple[int, SegmentEntry]]:
    store = opened_of(docs).store
    with store.environment.read() as transaction:
        return in_place(store.read_segments(transaction))


def segments_of(docs: Any) -> list[Segment]:
    found = [s.segment for s in opened_of(docs).snapshots.snapshot().segments]
    return [segment for segment in found if segment is not None]


def files_of(folder: Path, array: str = "norm_values") -> list[Path]:
    """The files of a dummy part in a data folder, those of the graph segment first."""
    return sorted(folder.glob(f"collections/*/segments/*/{array}.npy"))


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGES = {"removed": Path.unlink, "cut": lambda path: path.write_bytes(b""), "bit": change_a_byte}


def rebuild_now(docs: Any) -> bool:
    """What the indexer does for lost parts, without the merges that it does before."""
    opened = opened_of(docs)
    with file_lock(opened.folder / "graph.lock", wait=True):
        done = rebuild_parts(opened.store, opened.folder / "segments", opened.id, lambda: False)
        collect_garbage(opened.store, opened.folder / "segments")
    return done


def verify_all(docs: Any) -> None:
    while not opened_of(docs).snapshots.verify(lambda: None):
        pass


def check_whole(docs: Any) -> None:
    """Every segment in place has the part, with the right values."""
    verify_all(docs)
    assert len(segments_of(docs)) == len(entries_of(docs)) > 0
    for segment in segments_of(docs):
        np.testing.assert_array_equal(
            segment.parts[NORMS], np.linalg.norm(segment.content.vectors, axis=1)
        )
    assert {e.lost_parts for _, e in entries_of(docs)} == {()}


def check_tallest(docs: Any) -> None:
    """The segments with a graph have the part, with the right values, and the others have not."""
    verify_all(docs)
    for segment in segments_of(docs):
        assert segment.parts.has(TALLEST) == segment.parts.has(GRAPH)
        if segment.parts.has(TALLEST):
            norms = np.linalg.norm(segment.content.vectors, axis=1)
            expected = [
                max((norms[n] for n in links if n >= 0), default=0)
                for links in segment.parts[GRAPH].links.tolist()
            ]
            np.testing.assert_array_equal(segment.parts[TALLEST], expected)
    assert {e.lost_parts for _, e in entries_of(docs)} == {()}
