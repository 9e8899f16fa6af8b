"""Faults planted into segments, the catalogue and the folder are reported, and repaired."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.checking import (
    catalog_entry,
    change,
    change_catalog,
    change_counters,
    change_entry,
    checked,
    collection_folder,
    counters_of,
    flip,
    kinds_of,
    opened_store,
    put,
    rewrite_segment,
    segments_of,
)
from tests.maintenance.planting import Plant, row
from tests.maintenance.test_check_planted import STORE_PLANTS
from tests.places import override
from vecdb.checking import KINDS, NOTE
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.maintenance.checking.repair import CollectionRepair, repair_folder
from vecdb.engine.segments.segment import RowArrays
from vecdb.engine.store import layout


def graph_number(folder: Path) -> int:
    return next(n for n, entry in segments_of(folder) if entry.kind == "graph")


def flat_number(folder: Path) -> int:
    return next(n for n, entry in segments_of(folder) if entry.kind == "flat")


def segment_file(folder: Path, number: int, name: str) -> Path:
    return collection_folder(folder) / "segments" / str(number) / name


def flip_file(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def with_vectors_moved(content: RowArrays) -> RowArrays:
    vectors = content.vectors.copy()
    vectors[7, 0] += 1e-6
    return replace(content, vectors=vectors)


def with_an_id_changed(content: RowArrays) -> RowArrays:
    text = content.id_bytes.copy()
    text[-1] ^= 1
    return replace(content, id_bytes=text)


def cut_off(graph: Graph, node: int) -> Graph:
    """Remove all links to a node other than the entry point, on every level."""
    assert node != graph.entry

    def without(lists: np.ndarray) -> np.ndarray:
        kept = np.where(lists == node, -1, lists)
        order = np.argsort(kept < 0, axis=1, kind="stable")
        return np.take_along_axis(kept, order, axis=1)

    return replace(graph, links=without(graph.links), upper_links=without(graph.upper_links))


def cut_off_a_live_one(graph: Graph) -> Graph:
    return cut_off(graph, 100 if graph.entry != 100 else 101)


def with_a_wrong_link(graph: Graph) -> Graph:
    links = graph.links.copy()
    links[5, 0] = len(links)
    return replace(graph, links=links)


def remove_entry(folder: Path, number: int) -> None:
    change(folder, lambda store, txn: store.write_segment(txn, number, None))


CACHE_PLANTS: dict[str, tuple[set[str], Plant]] = {
    "folder gone": (
        {"SEGMENT_MISSING"},
        lambda f: shutil.rmtree(segment_file(f, graph_number(f), "")),
    ),
    "file gone": (
        {"SEGMENT_MISSING"},
        lambda f: segment_file(f, graph_number(f), "links.npy").unlink(),
    ),
    "file too short": (
        {"SEGMENT_DAMAGED"},
        lambda f: segment_file(f, flat_number(f), "rows.npy").write_bytes(b"short"),
    ),
    "header flipped": (
        {"SEGMENT_DAMAGED"},
        lambda f: flip_file(segment_file(f, graph_number(f), "upper_offsets.npy"), 20),
    ),
    "manifest flipped": (
        {"SEGMENT_DAMAGED"},
        lambda f: flip_file(segment_file(f, flat_number(f), "manifest.json"), 9),
    ),
    "vectors flipped": (
        {"SEGMENT_DAMAGED", "SEGMENT_ROWS"},
        lambda f: flip_file(segment_file(f, flat_number(f), "vectors.npy"), 300),
    ),
    "vectors moved": (
        {"SEGMENT_ROWS"},
        lambda f: rewrite_segment(f, flat_number(f), with_vectors_moved),
    ),
    "a row missing": (
        {"SEGMENT_ROWS"},
        lambda f: rewrite_segment(f, flat_number(f), lambda c: c.without(np.array([222]))),
    ),
    "rows moved": (
        {"SEGMENT_ROWS"},
        lambda f: rewrite_segment(f, flat_number(f), lambda c: replace(c, rows=c.rows + 1)),
    ),
    "an id changed": (
        {"SEGMENT_ROWS"},
        lambda f: rewrite_segment(f, flat_number(f), with_an_id_changed),
    ),
    "a node cut off": (
        {"GRAPH_UNREACHABLE"},
        lambda f: rewrite_segment(f, graph_number(f), graph=cut_off_a_live_one),
    ),
    "a link to nowhere": (
        {"GRAPH"},
        lambda f: rewrite_segment(f, graph_number(f), graph=with_a_wrong_link),
    ),
    "entry point nowhere": (
        {"GRAPH"},
        lambda f: rewrite_segment(f, graph_number(f), graph=lambda g: replace(g, entry=-7)),
    ),
    "top level wrong": (
        {"GRAPH"},
        lambda f: rewrite_segment(
            f, graph_number(f), graph=lambda g: replace(g, top_level=g.top_level + 1)
        ),
    ),
    "an interval with a gap": (
        {"SEGMENT_ENTRIES", "SEGMENT_DAMAGED"},
        lambda f: change_entry(f, flat_number(f), first_row=210),
    ),
    "sealed_to too far": ({"SEGMENT_ENTRIES"}, lambda f: change_counters(f, sealed_to=320)),
    "an entry gone": (
        {"SEGMENT_ENTRIES", "SEGMENT_LEFTOVER"},
        lambda f: remove_entry(f, graph_number(f)),
    ),
    "an entry flipped": ({"CHECKSUM"}, lambda f: flip(f, "segments", row(graph_number(f)))),
    "an entry of nothing": ({"VALUE"}, lambda f: put(f, "segments", row(graph_number(f)), b"[1]")),
    "a reservation without a lock": (
        {"SEGMENT_ENTRIES", "COUNTERS"},
        lambda f: change_entry(f, 99, state="claimed", lock="", first_row=0, end_row=9, seq=1),
    ),
    "lost": ({"SEGMENT_LOST"}, lambda f: change_entry(f, graph_number(f), state="lost")),
    "leftover folder": ({"SEGMENT_LEFTOVER"}, lambda f: segment_file(f, 77, "").mkdir()),
    "leftover draft": (
        {"SEGMENT_LEFTOVER"},
        lambda f: (collection_folder(f) / "graph-abc.hnsw").write_bytes(b"draft"),
    ),
    "leftover draft of an export": (
        {"SEGMENT_LEFTOVER"},
        lambda f: (collection_folder(f) / "export-0123456789ab").mkdir(),
    ),
    "a store's draft": (
        {"COMPACTION_LEFTOVER"},
        lambda f: (collection_folder(f) / "store.compact").mkdir(),
    ),
    "live_count": ({"COUNTERS"}, lambda f: change_counters(f, live_count=1)),
    "metadata_count": ({"COUNTERS"}, lambda f: change_counters(f, metadata_count=0)),
    "next_segment": ({"COUNTERS"}, lambda f: change_counters(f, next_segment=1)),
}


def test_every_problem_kind_has_a_planted_fault() -> None:
    planted = set().union(*(kinds for kinds, _ in (STORE_PLANTS | CACHE_PLANTS).values()))
    # These need a folder with more than one collection, or are planted differently.
    elsewhere = {
        *(
            "FORMAT",
            "CATALOG_LOST",
            "COLLECTION_MISSING",
            "COLLECTION_ORPHAN",
            "COLLECTION_UNFINISHED",
            "TRASH",
        ),
        *("STORE_CRASHED", "STORE_DAMAGED", "CHECK_FAILED", "NOT_FINDABLE"),
        "SKETCH",  # In segments/test_sketch_files.py.
        "BYTE_CODES",  # In segments/codecs/test_byte_codes.py.
        "COLUMNS",  # In segments/columns/test_check.py.
    }
    assert planted | elsewhere == set(KINDS)


@pytest.mark.parametrize("plant", CACHE_PLANTS)
def test_fault_planted_into_a_cache_is_reported_and_repaired(folder: Path, plant: str) -> None:
    expected, function = CACHE_PLANTS[plant]
    truth = truth_of(folder)
    function(folder)
    problems, _ = checked(folder)
    assert kinds_of(problems) == expected, problems

    place = collection_folder(folder)
    damaged = {p.segment for p in problems if p.segment is not None and p.severity != NOTE}
    CollectionRepair(place, place.name, damaged).run()
    left, (found,) = checked(folder, findable=1.0)
    assert left == [] and found.findable == 1.0
    assert truth_of(folder) == truth


def truth_of(folder: Path) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return the stored data, which a repair must not change."""
    with opened_store(folder) as store, store.environment.read() as transaction:
        return {
            name: [
                (bytes(key), bytes(value))
                for key, value in transaction.cursor(store.environment.database(name.encode()))
            ]
            for name in ("ids", "records", "blocks", "log", "dead", "pins")
        }


def test_repair_after_forgetting_segments_uses_new_numbers(folder: Path) -> None:
    numbers = {number for number, _ in segments_of(folder)}
    next_segment = counters_of(folder).next_segment
    change_counters(folder, sealed_to=320, next_segment=1)
    place = collection_folder(folder)
    CollectionRepair(place, place.name, set()).run()
    counters = counters_of(folder)
    assert counters.sealed_to == 0 and counters.next_segment >= max(numbers) + 1
    assert counters.next_segment <= next_segment
    assert not [*(place / "segments").iterdir()] and checked(folder)[0] == []


def test_repair_does_not_change_stored_data(folder: Path) -> None:
    flip(folder, "records", layout.record_key(50, 1))
    put(folder, "ids", b"id-60", None)
    before = truth_of(folder)
    place = collection_folder(folder)
    CollectionRepair(place, place.name, set()).run()
    problems, _ = checked(folder)
    assert kinds_of(problems) == {"CHECKSUM", "IDS"}  # live_count was corrected.
    assert truth_of(folder) == before
    (flipped,) = [p for p in problems if p.kind == "CHECKSUM"]
    assert flipped.detail == "1 values in records have a wrong checksum: row 50 (seq 1)"


@pytest.mark.slow
def test_segment_beside_a_damaged_store_is_kept(folder: Path) -> None:
    """The segment's graph has a fault, but the segment has the last copy of lost vectors."""
    number = graph_number(folder)
    flip(folder, "blocks", row(0))
    rewrite_segment(folder, number, graph=cut_off_a_live_one)
    report = vecdb.check(folder, repair=True)
    assert kinds_of(list(report.problems)) == {"CHECKSUM", "VECTORS", "GRAPH_UNREACHABLE"}
    assert not any(problem.repaired for problem in report.problems)
    assert (number, "published") in [(n, e.state) for n, e in segments_of(folder)]


def half_made(folder: Path) -> None:
    entry = catalog_entry(folder, "docs")
    change_catalog(folder, "half", {**entry, "id": "1234567890abcdef", "state": "creating"})


FOLDER_PLANTS: dict[str, tuple[set[str], Plant, bool]] = {
    "half made": ({"COLLECTION_UNFINISHED"}, half_made, True),
    "half dropped": (
        {"COLLECTION_UNFINISHED"},
        lambda f: change_catalog(f, "docs", {**catalog_entry(f, "docs"), "state": "dropping"}),
        True,
    ),
    "trash": ({"TRASH"}, lambda f: (f / "trash" / "0123").mkdir(), True),
    "empty orphan": (
        {"COLLECTION_ORPHAN"},
        lambda f: (f / "collections" / "0123" / "store").mkdir(parents=True),
        True,
    ),
    "orphan with a store": (
        {"COLLECTION_ORPHAN"},
        lambda f: shutil.copytree(collection_folder(f), f / "collections" / "0123"),
        False,
    ),
    "store gone": (
        {"COLLECTION_MISSING"},
        lambda f: shutil.rmtree(collection_folder(f) / "store"),
        False,
    ),
    "two names": (
        {"CATALOG"},
        lambda f: change_catalog(f, "other", catalog_entry(f, "docs")),
        False,
    ),
    "entry of nothing": (
        {"VALUE"},
        lambda f: change_catalog(f, "docs", {"state": "odd"}),
        False,
    ),
}


@pytest.mark.parametrize("plant", FOLDER_PLANTS)
def test_fault_planted_into_the_catalog_is_reported(
    folder: Path, plant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "check_in_progress_s", 0.1)
    expected, function, repaired = FOLDER_PLANTS[plant]
    function(folder)
    problems, _ = checked(folder)
    assert kinds_of(problems) == expected, problems
    repair_folder(folder, kinds_of(problems))
    assert (checked(folder)[0] == []) == repaired


def test_low_self_recall_is_reported(folder: Path) -> None:
    """The entry point has no links: no other node can be reached or found."""

    def lonely(graph: Graph) -> Graph:
        links, upper = graph.links.copy(), graph.upper_links.copy()
        links[graph.entry] = -1
        upper[:] = -1
        return replace(graph, links=links, upper_links=upper)

    rewrite_segment(folder, graph_number(folder), graph=lonely)
    problems, (found,) = checked(folder, findable=0.99)
    assert kinds_of(problems) == {"GRAPH_UNREACHABLE", "NOT_FINDABLE"}
    assert found.findable is not None and found.findable < 0.6
