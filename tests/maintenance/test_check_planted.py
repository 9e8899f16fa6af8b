"""Each kind of fault, planted into a closed folder, is reported by its kind and nothing else.

States that purging and trimming leave are not reported, and faults of caches are repaired. Each
fault has the kinds that must be reported. A few can't be reported by one kind alone: a row without
a record is also missing from ids, vectors and segments.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.checking import (
    DIM,
    catalog_entry,
    change,
    change_catalog,
    change_counters,
    change_entry,
    checked,
    collection_folder,
    counters_of,
    fill,
    flip,
    get,
    kinds_of,
    opened_store,
    put,
    rewrite_segment,
    segments_of,
)
from tests.places import override
from vecdb.checking import KINDS, NOTE, Problem
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.maintenance.checking.repair import CollectionRepair, repair_folder
from vecdb.engine.segments.segment import RowArrays
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store

Plant = Callable[[Path], object]

PIN_TAIL = struct.Struct("<QQQ")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "data"
    fill(folder)
    assert (folder / "use.lock").is_file()  # It stays, and is no leftover.
    assert checked(folder)[0] == []
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "data"
    shutil.copytree(template, copy)
    return copy


def row(number: int) -> bytes:
    return layout.row_key(number)


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def first_key(folder: Path, database: str) -> bytes:
    with opened_store(folder) as store, store.environment.read() as transaction:
        cursor = transaction.cursor(store.environment.database(database.encode()))
        assert cursor.first()
        return bytes(cursor.key())


def remove_row_from_block(folder: Path, block: int, gone: int) -> None:
    """Rewrite a block without a row, as purging does: with offsets of the remaining rows."""
    key = row(block)
    rows, vectors = layout.parse_block(key, get(folder, "blocks", key), DIM)
    kept = rows != gone
    offsets = (rows[kept] - rows[kept][0]).astype(np.uint32)
    put(folder, "blocks", key, None)
    tail = struct.pack("<II", int(kept.sum()), layout.BLOCK_HAS_OFFSETS)
    put(
        folder,
        "blocks",
        row(int(rows[kept][0])),
        vectors[kept].tobytes() + offsets.tobytes() + tail,
    )


def set_vector(folder: Path, number: int, value: float) -> None:
    """Set all components of a vector of the last block, whose rows are in no segment."""
    key = row(300)
    payload = bytearray(get(folder, "blocks", key))
    at = (number - 300) * 4 * DIM
    payload[at : at + 4 * DIM] = np.full(DIM, value, np.float32).tobytes()
    put(folder, "blocks", key, bytes(payload))


def repeat_a_block(folder: Path) -> None:
    """Add a block with rows of the block before it."""
    raw = get(folder, "blocks", row(300))[: 2 * 4 * DIM]
    put(folder, "blocks", row(305), raw + struct.pack("<II", 2, 0))


def change_log(folder: Path, seq: int, **values: Any) -> None:
    entry = layout.parse_log(get(folder, "log", row(seq)))
    packed = layout.pack_log(row(seq), replace(entry, **values))
    put(folder, "log", row(seq), packed[:-4])


def change_record(folder: Path, number: int, seq: int, encoded: bytes, metadata: bytes) -> None:
    key = layout.record_key(number, seq)
    put(folder, "records", key, layout.pack_record(key, encoded, metadata)[:-4])


def put_request(folder: Path, name: str, seq: int) -> None:
    """Write a request under both of its keys."""
    request = layout.Request(seq, 0, bytes(32), 1)
    packed = layout.pack_request(name.encode(), request)
    put(folder, "requests", name.encode(), packed[:-4])
    put(folder, "requests", layout.request_age_key(seq), name.encode())


def overwrite_meta(folder: Path, **values: Any) -> None:
    entry = json.loads(get(folder, "meta", b"collection"))
    put(folder, "meta", b"collection", json.dumps({**entry, **values}).encode())


STORE_PLANTS: dict[str, tuple[set[str], Plant]] = {
    **{
        f"flip {name}": ({"CHECKSUM"}, lambda f, n=name: flip(f, n, first_key(f, n)))
        for name in ("ids", "log", "dead", "pins")
    },
    "flip block": ({"CHECKSUM", "VECTORS"}, lambda f: flip(f, "blocks", row(300))),
    "flip record": ({"CHECKSUM"}, lambda f: flip(f, "records", layout.record_key(50, 1))),
    "flip counters": ({"CHECKSUM", "META"}, lambda f: flip(f, "meta", b"counters")),
    "flip state": ({"CHECKSUM", "META"}, lambda f: flip(f, "meta", b"state")),
    "ids say nothing": ({"VALUE"}, lambda f: put(f, "ids", b"id-50", b"xyz")),
    "record of no id": ({"VALUE"}, lambda f: put(f, "records", layout.record_key(50, 1), b"\xff")),
    "metadata is a list": ({"VALUE"}, lambda f: change_record(f, 50, 1, b"id-50", b"[]")),
    "block cut short": ({"VALUE", "VECTORS"}, lambda f: put(f, "blocks", row(300), b"0123456789")),
    "log cut short": ({"VALUE"}, lambda f: put(f, "log", row(3), b"0123")),
    "death of no seq": ({"VALUE"}, lambda f: put(f, "dead", row(20), b"0123")),
    "numbers past all": ({"VALUE", "META"}, lambda f: put(f, "meta", b"state", b"\xff" * 16)),
    "pin cut short": ({"VALUE"}, lambda f: put(f, "pins", b"p" * 16, b"0123")),
    "purging of no seq": ({"VALUE"}, lambda f: put(f, "meta", b"purging", b"0123")),
    "purging ahead": ({"META"}, lambda f: put(f, "meta", b"purging", u64(8))),
    **{
        f"flip request {name}": ({"CHECKSUM"}, lambda f, key=key: flip(f, "requests", key))
        for name, key in (("by id", b"r-3"), ("by age", layout.request_age_key(3)))
    },
    "request cut short": ({"VALUE"}, lambda f: put(f, "requests", b"r-3", b"0123")),
    "request too long": ({"VALUE"}, lambda f: put(f, "requests", b"r-3", bytes(53))),
    "age of no seq": ({"VALUE"}, lambda f: put(f, "requests", b"\xff123", b"r-3")),
    "request ahead": ({"REQUESTS"}, lambda f: put_request(f, "r-9", 99)),
    "request without age": (
        {"REQUESTS"},
        lambda f: put(f, "requests", layout.request_age_key(3), None),
    ),
    "age without request": ({"REQUESTS"}, lambda f: put(f, "requests", b"r-3", None)),
    "age of another seq": (
        {"REQUESTS"},
        lambda f: (
            put(f, "requests", layout.request_age_key(3), None),
            put(f, "requests", layout.request_age_key(5), b"r-3"),
        ),
    ),
    "age of another request": (
        {"REQUESTS"},
        lambda f: put(f, "requests", layout.request_age_key(3), b"r-7"),
    ),
    "no state": ({"META"}, lambda f: put(f, "meta", b"state", None)),
    "dropped": ({"META"}, lambda f: put(f, "meta", b"dropped", b"")),
    "foreign store": ({"META"}, lambda f: overwrite_meta(f, id="0123456789abcdef")),
    "other M": ({"CATALOG"}, lambda f: overwrite_meta(f, ef_construction=99)),
    "id gone": ({"IDS", "COUNTERS"}, lambda f: put(f, "ids", b"id-50", None)),
    "id of a foreign row": ({"IDS"}, lambda f: put(f, "ids", b"id-50", u64(51))),
    "id of a deleted row": ({"IDS"}, lambda f: put(f, "ids", b"id-50", u64(20))),
    "id of no row": ({"IDS", "COUNTERS"}, lambda f: put(f, "ids", b"id-50", u64(5000))),
    "id of a deleted id": ({"IDS", "COUNTERS"}, lambda f: put(f, "ids", b"id-20", u64(20))),
    "record of a later seq": (
        {"RECORDS"},
        lambda f: change_record(f, 30, 99, b"id-30", b""),
    ),
    "record renamed": ({"RECORDS", "COLUMNS"}, lambda f: change_record(f, 30, 1, b"id-x", b"")),
    "record gone": (
        {"IDS", "VECTORS"},
        lambda f: put(f, "records", layout.record_key(320, 4), None),
    ),
    "record of a flushed row missing": (
        {"IDS", "VECTORS", "SEGMENT_ROWS"},
        lambda f: put(f, "records", layout.record_key(50, 1), None),
    ),
    "block gone": ({"VECTORS"}, lambda f: put(f, "blocks", row(300), None)),
    "vector gone": ({"VECTORS"}, lambda f: remove_row_from_block(f, 300, 320)),
    "rows twice": ({"VECTORS"}, repeat_a_block),
    "not finite": ({"VECTORS"}, lambda f: set_vector(f, 320, np.nan)),
    "zero": ({"VECTORS"}, lambda f: set_vector(f, 320, 0)),
    "death of a later seq": ({"DEATHS", "LOG"}, lambda f: put(f, "dead", row(20), u64(99))),
    "death at another seq": ({"LOG"}, lambda f: put(f, "dead", row(20), u64(7))),
    "death gone": ({"IDS", "LOG"}, lambda f: put(f, "dead", row(20), None)),
    "log has a gap": ({"LOG"}, lambda f: put(f, "log", row(3), None)),
    "log ends early": ({"LOG"}, lambda f: put(f, "log", row(7), None)),
    "log skips rows": ({"LOG"}, lambda f: change_log(f, 3, first_row=201)),
    "log without a tombstone": (
        {"LOG"},
        lambda f: change_log(f, 7, deleted=np.zeros(0, np.uint64)),
    ),
    "pin ahead": ({"PINS"}, lambda f: put(f, "pins", b"p" * 16, PIN_TAIL.pack(99, 350, 0))),
    "next_row too small": (
        {"COUNTERS", "VECTORS", "LOG", "PINS"},
        lambda f: change_counters(f, next_row=349),
    ),
}

CONTENT_PLANTS: dict[str, Plant] = {
    "deleted row's record purged": lambda f: put(f, "records", layout.record_key(310, 4), None),
    "record and vector purged": lambda f: (
        put(f, "records", layout.record_key(310, 4), None),
        remove_row_from_block(f, 300, 310),
    ),
    "its tombstone as well": lambda f: (
        put(f, "records", layout.record_key(310, 4), None),
        remove_row_from_block(f, 300, 310),
        put(f, "dead", row(310), None),
    ),
    "first row of a block purged": lambda f: (
        put(f, "records", layout.record_key(0, 1), None),
        remove_row_from_block(f, 0, 0),
    ),
    "log trimmed": lambda f: [put(f, "log", row(seq), None) for seq in range(1, 5)],
    "log trimmed away": lambda f: [put(f, "log", row(seq), None) for seq in range(1, 8)],
    "old version purged": lambda f: put(f, "records", layout.record_key(30, 1), None),
    "a reservation": lambda f: (
        change_counters(f, next_segment=100),
        change_entry(f, 99, state="claimed", lock="seal", first_row=300, end_row=350, seq=7),
    ),
    "purging to the last seq": lambda f: put(f, "meta", b"purging", u64(7)),
    "no requests": lambda f: [
        put(f, "requests", key, None)
        for seq in (3, 7)
        for key in (b"r-%d" % seq, layout.request_age_key(seq))
    ],
}


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


@pytest.mark.parametrize("plant", STORE_PLANTS)
def test_fault_planted_into_the_store_is_reported(folder: Path, plant: str) -> None:
    expected, function = STORE_PLANTS[plant]
    function(folder)
    problems, _ = checked(folder)
    assert kinds_of(problems) == expected, problems


def test_faulty_requests_are_reported_by_seq(folder: Path) -> None:
    put(folder, "requests", layout.request_age_key(3), b"r-7")
    put_request(folder, "r-9", 99)
    problems, _ = checked(folder)
    assert sorted(p.detail for p in problems) == [
        "1 entries by age without a request: seq 3",
        "1 request ids without an entry by age: seq 3",
        "2 requests are ahead of seq 7: 'r-9': seq 99, entry by age of seq 99: seq 99",
    ]


def test_lost_rows_are_reported_by_id(folder: Path) -> None:
    flip(folder, "blocks", row(300))
    problems, _ = checked(folder)
    assert {p.detail for p in problems} == {
        "1 values in blocks have a wrong checksum: block of row 300",
        "49 vectors of live rows are in damaged blocks: 'id-300' (row 300), "
        "'id-301' (row 301), 'id-302' (row 302), 'id-303' (row 303), 'id-304' (row 304), …",
    }


@pytest.mark.parametrize("plant", CONTENT_PLANTS)
def test_check_of_purged_and_trimmed_stores_finds_nothing(folder: Path, plant: str) -> None:
    CONTENT_PLANTS[plant](folder)
    assert checked(folder)[0] == []


def test_vector_without_record_and_tombstone_is_reported(folder: Path) -> None:
    """Purging removes the record first; if the tombstone went before the vector, the row would be
    live again.
    """
    put(folder, "records", layout.record_key(310, 4), None)
    put(folder, "dead", row(310), None)
    problems, _ = checked(folder)
    assert kinds_of(problems) == {"VECTORS", "LOG"}
    assert any(
        p.detail == "1 vectors of rows with neither record nor tombstone: 310" for p in problems
    )


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


def test_many_findings_of_a_kind_are_one_problem(folder: Path) -> None:
    def write(store: Store, transaction: Any) -> None:
        for number in range(100, 150):
            transaction.delete(b"id-%d" % number, db=store.environment.database(b"ids"))

    change(folder, write)
    problems, _ = checked(folder)
    (reported,) = [p for p in problems if p.kind == "IDS"]
    assert reported == Problem(
        "docs", "IDS", "50 live rows without an id: 100, 101, 102, 103, 104, …"
    )


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
