"""Each kind of fault, planted into a closed store, is reported by its kind and nothing else."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checking import (
    DIM,
    change,
    change_counters,
    change_entry,
    checked,
    flip,
    get,
    kinds_of,
    opened_store,
    put,
)
from tests.maintenance.planting import Plant, row, u64
from vecdb.checking import Problem
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store

LEASE_TAIL = struct.Struct("<QQQ")


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
    "tombstone of no seq": ({"VALUE"}, lambda f: put(f, "dead", row(20), b"0123")),
    "numbers past all": ({"VALUE", "META"}, lambda f: put(f, "meta", b"state", b"\xff" * 16)),
    "lease cut short": ({"VALUE"}, lambda f: put(f, "pins", b"p" * 16, b"0123")),
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
    "tombstone of a later seq": ({"DEATHS", "LOG"}, lambda f: put(f, "dead", row(20), u64(99))),
    "tombstone at another seq": ({"LOG"}, lambda f: put(f, "dead", row(20), u64(7))),
    "tombstone gone": ({"IDS", "LOG"}, lambda f: put(f, "dead", row(20), None)),
    "log has a gap": ({"LOG"}, lambda f: put(f, "log", row(3), None)),
    "log ends early": ({"LOG"}, lambda f: put(f, "log", row(7), None)),
    "log skips rows": ({"LOG"}, lambda f: change_log(f, 3, first_row=201)),
    "log without a tombstone": (
        {"LOG"},
        lambda f: change_log(f, 7, deleted=np.zeros(0, np.uint64)),
    ),
    "lease ahead": ({"PINS"}, lambda f: put(f, "pins", b"p" * 16, LEASE_TAIL.pack(99, 350, 0))),
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
