"""A new kind of segment part needs a line in the table: it is written, mapped, verified, checked,
backed up, restored, lost and rebuilt as the others are."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import vecdb
from tests.checking import checked, collection_folder
from tests.checking import segments_of as closed_segments
from tests.model import Model, flush_now, index_now
from tests.runtime.test_earlier_folders import NAMES, Earlier, check_collection
from vecdb.engine.maintenance.checking.repair import CollectionRepair
from vecdb.engine.segments import lifecycle, parts
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
from vecdb.engine.system import failpoints
from vecdb.engine.system.files import file_lock
from vecdb.engine.testing import on_work, opened_of

DIM = 8
Norms = npt.NDArray[np.float32]


class _NormsCheck(PartCheck):
    """Compares norms with the store's vectors."""

    def __init__(self, norms: Norms, number: int) -> None:
        self._norms, self._number = norms, number
        self._wrong: list[Any] = [np.zeros(0, np.int64)]

    def compare_vectors(self, rows: Any, nodes: Any, vectors: Any) -> None:
        self._wrong.append(rows[self._norms[nodes] != np.linalg.norm(vectors, axis=1)])

    def compare_records(self, records: StoreRecords) -> list[PartFinding]:
        what = f"norms of segment {self._number} differ from the store's, at rows"
        return [PartFinding("SEGMENT_ROWS", what, rows=np.concatenate(self._wrong))]


class _Norms(PartKind[Norms]):
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
        return _NormsCheck(value, segment.number)


class _NeededNorms(_Norms):
    needed = True


NORMS, NEEDED = _Norms(), _NeededNorms()


class _Tallest(PartKind[Norms]):
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
        return _TallestCheck(value, segment)


class _TallestCheck(PartCheck):
    """Compares the part with those that it is derived from."""

    def __init__(self, tallest: Norms, segment: CheckedSegment) -> None:
        self._tallest, self._segment = tallest, segment

    def examine(self, records: StoreRecords) -> list[PartFinding]:
        segment = self._segment
        expected = TALLEST.derive(PartSource(segment.config, segment.parts))
        rows = segment.parts[ROW_IDS].rows[self._tallest != expected]
        what = f"rows of segment {segment.number} have another tallest neighbour"
        return [PartFinding("GRAPH", what, rows=rows, unusable=True)]


TALLEST = _Tallest()


def register(patch: pytest.MonkeyPatch, *kinds: PartKind[Any]) -> None:
    patch.setattr(parts, "PART_KINDS", (*parts.PART_KINDS, *kinds))


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> PartKind[Norms]:
    register(monkeypatch, NORMS)
    return NORMS


@pytest.fixture
def tallest(monkeypatch: pytest.MonkeyPatch, norms: PartKind[Norms]) -> PartKind[Norms]:
    register(monkeypatch, TALLEST)
    return TALLEST


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


@pytest.fixture
def filled(norms: PartKind[Norms], tmp_path: Path) -> Filled:
    return Filled(tmp_path / "data")


@pytest.fixture
def docs(filled: Filled) -> Iterator[Any]:
    with vecdb.open(filled.folder, indexer=False) as database:
        yield database.collection("docs")


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


# ------------------------------------------------------------------------------ written and mapped


def test_part_is_written_with_every_segment_and_mapped(filled: Filled, docs: Any) -> None:
    assert [entry.kind for _, entry in entries_of(docs)] == ["graph", "flat"]
    check_whole(docs)
    filled.check(docs)
    for segment in segments_of(docs):
        manifest = json.loads((segment.folder / "manifest.json").read_bytes())
        assert manifest["optional"]["norms"] == ["norm_values"]
        assert manifest["norms_max"] == float(segment.parts[NORMS].max())
        named = {"manifest.json", *(f"{name}.npy" for name in manifest["arrays"])}
        assert {path.name for path in segment.folder.iterdir()} == named
        assert segment.file_bytes == sum(p.stat().st_size for p in segment.folder.iterdir())
    index_now(docs)
    assert [entry.kind for _, entry in entries_of(docs)] == ["graph"]
    check_whole(docs)
    assert len(files_of(filled.folder)) == 1  # Those of the replaced segments are collected.


def test_manifest_without_new_parts_names_none(tmp_path: Path) -> None:
    Filled(tmp_path / "data")
    for path in (tmp_path / "data").glob("collections/*/segments/*/manifest.json"):
        manifest = json.loads(path.read_bytes())
        assert "norms" not in manifest.get("optional", {})
        assert list(manifest)[:11] == [
            "format", "collection", "number", "kind", "metric", "first_row", "end_row", "seq",
            "count", "width", "arrays",
        ]  # fmt: skip
        flat = ["vectors", "rows", "id_offsets", "id_bytes"]
        graph = ["links", "upper_offsets", "upper_links"]
        with_graph = manifest["kind"] == "graph"
        assert list(manifest["arrays"]) == flat + [*graph, "columns"] * with_graph
        assert list(manifest)[11:] == ["entry", "top_level", "columns", "optional"] * with_graph


def test_names_of_kinds_arrays_and_fields_are_unique(filled: Filled, docs: Any) -> None:
    names = [kind.name for kind in parts.PART_KINDS]
    arrays = [name for kind in parts.PART_KINDS for name in kind.arrays]
    assert len(set(names)) == len(names) and len(set(arrays)) == len(arrays)
    segment = segments_of(docs)[0]
    fields = [
        field
        for kind in parts.PART_KINDS
        if segment.parts.has(kind)
        for field in kind.write(segment.parts[kind]).fields
    ]  # fmt: skip
    assert len(set(fields)) == len(fields)


def test_kinds_come_after_those_they_are_derived_from(tallest: PartKind[Norms]) -> None:
    for place, kind in enumerate(parts.PART_KINDS):
        assert set(kind.derived_from) <= set(parts.PART_KINDS[:place])
        assert kind.needed or kind.derived_from  # Else nothing could derive it again.


# ------------------------------------------------------- made for some segments, from other parts


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


def test_part_is_created_for_segments_that_have_its_source(
    tallest: PartKind[Norms], filled: Filled, docs: Any
) -> None:
    assert [s.parts.has(TALLEST) for s in segments_of(docs)] == [True, False]
    check_tallest(docs)
    index_now(docs)
    assert [s.parts.has(TALLEST) for s in segments_of(docs)] == [True]
    check_tallest(docs)
    filled.check(docs)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("also_norms", [False, True])
def test_part_derived_from_other_parts_is_lost_and_rebuilt(
    tallest: PartKind[Norms], filled: Filled, how: str, also_norms: bool
) -> None:
    (path,) = files_of(filled.folder, "tallest_values")
    DAMAGES[how](path)
    if also_norms:
        DAMAGES[how](path.with_name("norm_values.npy"))
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        verify_all(docs)
        lost = ("norms", "tallest") if also_norms else ("tallest",)
        assert [e.lost_parts for _, e in entries_of(docs)] == [lost, ()]
        assert not any(segment.parts.has(TALLEST) for segment in segments_of(docs))
        filled.check(docs)
        assert rebuild_now(docs)
        check_tallest(docs)
        check_whole(docs)
        filled.check(docs)
    assert checked(filled.folder)[0] == []


def test_rebuild_that_failed_after_its_reservation_is_done_by_the_next(
    tallest: PartKind[Norms], filled: Filled
) -> None:
    (path,) = files_of(filled.folder, "tallest_values")
    path.unlink()
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        verify_all(docs)
        failpoints.arm("parts.reserved=EIO")
        try:
            with pytest.raises(OSError, match="parts"):
                rebuild_now(docs)
        finally:
            failpoints.arm("")
        filled.check(docs)
        assert rebuild_now(docs)
        check_tallest(docs)
        check_whole(docs)
    assert checked(filled.folder)[0] == []


def test_part_that_an_older_segment_lacks_is_no_damage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    filled = Filled(tmp_path / "data")
    register(monkeypatch, NORMS, TALLEST)
    assert checked(filled.folder)[0] == []
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        before = entries_of(docs)
        verify_all(docs)
        filled.check(docs)
        assert not any(segment.parts.has(NORMS) for segment in segments_of(docs))
        assert rebuild_now(docs)
        assert entries_of(docs) == before  # There is nothing to rebuild.
        index_now(docs)  # Merged segments are new ones.
        check_whole(docs)
        check_tallest(docs)
        filled.check(docs)


@pytest.mark.parametrize("name", NAMES)
def test_segments_of_an_earlier_version_are_searched_without_new_parts(
    tallest: PartKind[Norms], tmp_path: Path, name: str
) -> None:
    earlier = Earlier(tmp_path)
    with vecdb.open(earlier.folder, indexer=False) as database:
        docs = database.collection(name)
        verify_all(docs)
        check_collection(docs, earlier, name)
        assert not any(segment.parts.has(NORMS) for segment in segments_of(docs))
        assert {e.lost_parts for _, e in entries_of(docs)} <= {()}
    assert checked(earlier.folder)[0] == []


# ------------------------------------------------------------------------------- lost and rebuilt


def test_snapshot_that_searches_use_loses_a_part_that_is_found_damaged(filled: Filled) -> None:
    change_a_byte(files_of(filled.folder)[0])
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        units = opened_of(docs).snapshots.snapshot().units
        assert [unit.parts.has(NORMS) for unit in units] == [True, True, False]
        verify_all(docs)
        assert [unit.parts.has(NORMS) for unit in units] == [False, True, False]


@pytest.mark.parametrize("how", DAMAGES)
def test_optional_part_damaged_is_noticed_done_without_and_rebuilt(
    filled: Filled, how: str
) -> None:
    for path in files_of(filled.folder):
        DAMAGES[how](path)
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        before = entries_of(docs)
        verify_all(docs)
        assert not any(segment.parts.has(NORMS) for segment in segments_of(docs))
        entries = entries_of(docs)
        assert [e.lost_parts for _, e in entries] == [("norms",)] * 2
        # The segments still serve their rows, and count as verified.
        assert [(n, e.state) for n, e in entries] == [(n, "published") for n, _ in before]
        filled.check(docs)
        assert docs.search(vectors_of(1, 1)[0], k=1).info.verified
        assert rebuild_now(docs)
        assert [e.kind for _, e in entries_of(docs)] == ["graph", "flat"]
        check_whole(docs)
        filled.check(docs)
        assert len(files_of(filled.folder)) == 2
    assert checked(filled.folder)[0] == []


def test_lost_optional_part_notifies_the_indexer(filled: Filled) -> None:
    files_of(filled.folder)[0].unlink()
    with vecdb.open(filled.folder, indexer=False) as database:
        woken = threading.Event()
        docs = database.collection("docs")
        on_work(opened_of(docs).snapshots, woken.set)
        docs.search(vectors_of(1, 1)[0], k=1)
        docs.upsert(["id-new"], vectors_of(1, 1))
        docs.search(vectors_of(1, 1)[0], k=1)
        assert woken.is_set()


@pytest.mark.parametrize("how", DAMAGES)
def test_needed_part_damaged_quarantines_the_segment_until_it_is_rebuilt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    register(monkeypatch, NEEDED)
    filled = Filled(tmp_path / "data")
    manifest = files_of(filled.folder)[0].parent / "manifest.json"
    assert "norms" not in json.loads(manifest.read_bytes())["optional"]
    DAMAGES[how](files_of(filled.folder)[0])
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        verify_all(docs)
        assert [e.state for _, e in entries_of(docs)] == ["lost", "published"]
        filled.check(docs)
        index_now(docs)
        check_whole(docs)
        filled.check(docs)
    assert checked(filled.folder)[0] == []


def test_rebuilding_waits_for_a_flush_that_has_reserved_the_rows(filled: Filled) -> None:
    files_of(filled.folder)[1].unlink()
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        verify_all(docs)
        store = opened_of(docs).store
        taken = lifecycle.reserve(store, lifecycle.FLUSH_LOCK, 200, 260)
        assert taken is not None
        assert not rebuild_now(docs)
        assert [e.lost_parts for _, e in entries_of(docs)] == [(), ("norms",)]
        segments = opened_of(docs).folder / "segments"
        lifecycle.discard_reservations(store, segments, lifecycle.FLUSH_LOCK)
        assert rebuild_now(docs)
        check_whole(docs)


# --------------------------------------------------------------------------------------- checking


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
def test_check_finds_a_damaged_part_and_repair_rebuilds_it(filled: Filled, how: str) -> None:
    assert checked(filled.folder)[0] == []
    DAMAGES[how](files_of(filled.folder)[0])
    problems, _ = checked(filled.folder)
    files = [p for p in problems if p.kind == "SEGMENT_DAMAGED"]
    assert len(files) == 1 and "part norms" in files[0].detail
    # Other values are also seen to be wrong, and nothing else is.
    wrong = [p.detail for p in problems if p.kind != "SEGMENT_DAMAGED"]
    assert len(wrong) == (how == "bit") and all("norms of segment" in each for each in wrong)
    # A process that does not know the kind compares its checksums too.
    report = vecdb.check(filled.folder)
    assert [(p.kind, "part norms" in p.detail) for p in report.problems] == [
        ("SEGMENT_DAMAGED", True)
    ]
    assert all(p.repaired for p in vecdb.check(filled.folder, repair=True).problems)
    assert checked(filled.folder)[0] == []


class _LyingNorms(_Norms):
    """As a flush with a defect would write it: the files have the right checksums."""

    def derive(self, source: PartSource) -> Norms:
        norms = super().derive(source)
        norms[[1, 5]] += 1
        return norms


class _LyingTallest(_Tallest):
    def derive(self, source: PartSource) -> Norms:
        tallest = super().derive(source)
        tallest[7] += 1
        return tallest


def test_check_finds_a_part_that_contradicts_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        register(patch, _LyingNorms())
        filled = Filled(tmp_path / "data")
    register(monkeypatch, NORMS)
    problems, _ = checked(filled.folder)
    assert [(p.kind, p.severity, p.detail.partition(" of ")[0]) for p in problems] == [
        ("SEGMENT_ROWS", "warning", "2 norms"), ("SEGMENT_ROWS", "warning", "2 norms"),
    ]  # fmt: skip
    assert [p.detail.rpartition(": ")[2] for p in problems] == ["1, 5", "201, 205"]
    assert [p.segment for p in problems] == [n for n, _ in closed_segments(filled.folder)]


def test_check_finds_a_part_that_contradicts_other_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        register(patch, NORMS, _LyingTallest())
        filled = Filled(tmp_path / "data")
    register(monkeypatch, NORMS, TALLEST)
    (problem,), _ = checked(filled.folder)
    assert problem.kind == "GRAPH" and problem.detail.startswith("1 rows of segment")
    assert problem.detail.endswith("have another tallest neighbour: 7")
    # In this process, since the child process of a repair does not know the kind.
    place = collection_folder(filled.folder)
    assert problem.segment is not None
    CollectionRepair(place, place.name, {problem.segment}).run()
    assert len(files_of(filled.folder, "tallest_values")) == 1
    assert checked(filled.folder)[0] == []


def test_check_notes_a_part_that_is_to_be_rebuilt(filled: Filled) -> None:
    files_of(filled.folder)[0].unlink()
    with vecdb.open(filled.folder, indexer=False) as database:
        verify_all(database.collection("docs"))
    problems, _ = checked(filled.folder)
    assert [(p.kind, p.severity) for p in problems] == [("SEGMENT_LOST", "note")]
    assert "part norms of segment" in problems[0].detail


# ------------------------------------------------------------------ backups, compaction, strangers


def test_part_is_backed_up_and_restored(filled: Filled, tmp_path: Path) -> None:
    with vecdb.open(filled.folder, indexer=False) as database:
        database.backup(tmp_path / "backup")
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    before, after = files_of(filled.folder), files_of(tmp_path / "restored")
    assert [p.read_bytes() for p in after] == [p.read_bytes() for p in before] and len(after) == 2
    assert checked(tmp_path / "restored")[0] == []
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        check_whole(database.collection("docs"))
        filled.check(database.collection("docs"))


@pytest.mark.parametrize("how", DAMAGES)
def test_backup_of_a_damaged_optional_part_keeps_the_segment(
    filled: Filled, tmp_path: Path, how: str
) -> None:
    DAMAGES[how](files_of(filled.folder)[0])
    with vecdb.open(filled.folder, indexer=False) as database:
        database.backup(tmp_path / "backup")
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        docs = database.collection("docs")
        assert [(e.state, e.lost_parts) for _, e in entries_of(docs)] == [
            ("published", ("norms",)), ("published", ()),
        ]  # fmt: skip
        filled.check(docs)
        index_now(docs)
        check_whole(docs)


def test_part_survives_compaction(filled: Filled) -> None:
    files_of(filled.folder)[0].unlink()
    with vecdb.open(filled.folder, indexer=False) as database:
        verify_all(database.collection("docs"))
    vecdb.compact(filled.folder)
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        filled.check(docs)
        index_now(docs)
        check_whole(docs)


def test_version_without_the_kind_serves_verifies_and_leaves_the_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        register(patch, NORMS)
        filled = Filled(tmp_path / "data")
    change_a_byte(files_of(filled.folder)[0])
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        verify_all(docs)
        filled.check(docs)
        assert [e.lost_parts for _, e in entries_of(docs)] == [("norms",), ()]
        # Only a version that knows the kind can derive it again.
        numbers = [n for n, _ in entries_of(docs)]
        assert rebuild_now(docs)
        assert [n for n, _ in entries_of(docs)] == numbers
    register(monkeypatch, NORMS)
    with vecdb.open(filled.folder, indexer=False) as database:
        docs = database.collection("docs")
        assert rebuild_now(docs)
        check_whole(docs)
