"""Parts of segments are checked, repaired, backed up, restored and compacted as the others are."""

from __future__ import annotations

from pathlib import Path

import pytest

import vecdb
from tests.checking import checked, collection_folder
from tests.checking import segments_of as closed_segments
from tests.model import index_now
from tests.segments.norm_parts import (
    DAMAGES,
    NORMS,
    TALLEST,
    Filled,
    Norms,
    NormsPart,
    TallestPart,
    change_a_byte,
    check_whole,
    entries_of,
    files_of,
    rebuild_now,
    register,
    verify_all,
)
from vecdb.engine.maintenance.checking.repair import CollectionRepair
from vecdb.engine.segments.part_kind import (
    PartSource,
)


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


class _LyingNorms(NormsPart):
    """As a flush with a defect would write it: the files have the right checksums."""

    def derive(self, source: PartSource) -> Norms:
        norms = super().derive(source)
        norms[[1, 5]] += 1
        return norms


class _LyingTallest(TallestPart):
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
