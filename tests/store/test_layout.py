"""Values of the store: packed and unpacked, and changed bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vecdb
from vecdb.engine.segments.segment import RowArrays, padded_width
from vecdb.engine.store import layout
from vecdb.engine.store.number_tables import unpack_numbers
from vecdb.engine.testing import (
    opened_of,
)

RNG = np.random.default_rng(3)


def rows(count: int, dim: int = 8) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"row-{i}" for i in range(first, first + count)]


@pytest.mark.parametrize("name", ["ids", "records", "blocks", "dead", "log", "meta"])
def test_changed_value_in_the_store_is_data_loss(database: Any, name: str) -> None:
    docs = database.create_collection("docs", 8)
    docs.upsert(names(5), rows(5))
    docs.delete(["row-4"])
    environment = opened_of(docs).store.environment

    def damage(transaction: Any) -> None:
        with transaction.cursor(environment.database(name.encode())) as cursor:
            assert cursor.first()
            while True:
                key, value = bytes(cursor.key()), bytearray(cursor.value())
                value[0] ^= 1
                cursor.put(key, bytes(value))
                if not cursor.next():
                    return

    environment.transact(damage)

    def read_everything() -> None:
        docs.get(["row-0"])
        opened_of(docs).snapshots.forget()
        docs.search(rows(1)[0], exact=True)
        with environment.read() as transaction:
            opened_of(docs).store.rows.read_log(transaction, 0, 2)

    with pytest.raises(vecdb.DataLossError):
        read_everything()


def test_packed_values_unpack_to_the_same() -> None:
    key = layout.row_key(77)
    vectors = rows(3)
    found_rows, found = layout.unpack_block(key, layout.pack_block(key, vectors), 8)
    assert found_rows.tolist() == [77, 78, 79]
    assert found.tobytes() == vectors.tobytes()
    entry = layout.LogEntry(5, 6, 7, np.array([1, 2], np.uint64), np.array([9], np.uint64))
    again = layout.unpack_log(key, layout.pack_log(key, entry))
    assert (again.time_ns, again.first_row, again.added) == (5, 6, 7)
    assert (again.deleted.tolist(), again.changed.tolist()) == ([1, 2], [9])
    record_key = layout.record_key(1, 2)
    packed = layout.pack_record(record_key, "é".encode(), b'{"a":1}')
    assert layout.unpack_record(record_key + packed) == ("é".encode(), b'{"a":1}')
    with pytest.raises(vecdb.DataLossError):
        layout.unpack_record(layout.record_key(1, 3) + packed)


def test_block_with_gaps_unpacks() -> None:
    """The form of a rewritten block: offsets after the rows."""
    key, vectors = layout.row_key(100), rows(3)
    tail = (
        np.array([0, 4, 9], np.uint32).tobytes()
        + (3).to_bytes(4, "little")
        + (1).to_bytes(4, "little")
    )
    value = layout.pack_value(key, vectors.tobytes() + tail)
    found_rows, found = layout.unpack_block(key, value, 8)
    assert found_rows.tolist() == [100, 104, 109]
    assert found.tobytes() == vectors.tobytes()


def test_tombstones_unpack_together() -> None:
    keys = [layout.row_key(row) for row in (3, 5, 2**40)]
    values = [layout.pack_u64(key, seq) for key, seq in zip(keys, (7, 8, 9), strict=True)]
    found, seqs = unpack_numbers(b"".join(keys), b"".join(values), "tombstone")
    assert (found.tolist(), seqs.tolist()) == ([3, 5, 2**40], [7, 8, 9])
    values[1] = values[1][:-1] + b"\0"
    with pytest.raises(vecdb.DataLossError):
        unpack_numbers(b"".join(keys), b"".join(values), "tombstone")


@pytest.mark.parametrize("letters", ["abc", "aé", "漢字x"])
def test_ids_of_many_nodes_equal_those_of_each(letters: str) -> None:
    ids = [letters[: 1 + i % len(letters)] * (i % 4) + str(i) for i in range(300)]
    encoded = [name.encode() for name in ids]
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in encoded])])
    content = RowArrays(
        np.zeros((300, 16), np.float32),
        np.arange(300),
        offsets,
        np.frombuffer(b"".join(encoded), np.uint8),
    )
    nodes = np.random.default_rng(0).integers(0, 300, 500)
    assert content.ids_of(nodes) == [ids[n] for n in nodes]
    assert content.ids_of(nodes[:5]) == [ids[n] for n in nodes[:5]]
    assert content.ids_of(nodes[:0]) == []


def test_blocks_stay_within_their_size() -> None:
    for dim in (1, 50, 384, 16_383, 16_384):
        count = layout.block_rows_max(dim)
        value = layout.pack_block(layout.row_key(0), np.zeros((count, dim), np.float32))
        assert count == 1 or len(value) <= layout.BLOCK_BYTES_MAX
        assert padded_width(dim) % 16 == 0
