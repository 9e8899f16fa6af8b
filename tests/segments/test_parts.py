"""A new kind of part needs a line in the table: it is written, lost and rebuilt as others are."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.checking import checked
from tests.model import index_now
from tests.runtime.test_earlier_folders import NAMES, Earlier, check_collection
from tests.segments.norm_parts import (
    DAMAGES,
    NEEDED,
    NORMS,
    TALLEST,
    Filled,
    Norms,
    change_a_byte,
    check_tallest,
    check_whole,
    entries_of,
    files_of,
    rebuild_now,
    register,
    segments_of,
    vectors_of,
    verify_all,
)
from vecdb.engine.segments import lifecycle, parts
from vecdb.engine.segments.part_kind import (
    PartKind,
)
from vecdb.engine.system import failpoints
from vecdb.engine.testing import on_work, opened_of


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
